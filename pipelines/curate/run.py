"""`mimkit curate`: scan, check, slice, dedup and pack, one after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...datasets.errors import DataError
from ...datasets.files import write_json
from ...datasets.manifest import ManifestRow, write_manifest
from ...datasets.store import Store, StoreMeta, StoreWriter
from ...domains.satellite.curate import check, dedup, pack, scan
from ...domains.satellite.curate import slice as slicing
from ...domains.satellite.curate.labels import (
    LabelPlan,
    TileClasses,
    mask_files,
    plan_labels,
    read_classes,
)
from ...domains.satellite.curate.records import SceneFacts, SceneRef
from ...domains.satellite.sensors import load_sensor
from .card import CurateReport, show, summarise, write_card
from .config import CurateConfig
from .execute import Pool, Stage, claimed, open_pool, result_path, run_stage

__all__ = ["CurateConfig", "CurateReport", "run"]

_NORMALISER_TILES = 20_000  # enough for means; more would only take time
_CHUNK_TILES = 64


@dataclass(frozen=True)
class Plan:
    """A configuration whose open questions are answered by the sources.

    Attributes:
        config: what was asked for.
        refs: scenes that were found.
        sensor: name of the sensor.
        labels: dense labels.
        classes: table with classes and parts of files.
    """

    config: CurateConfig
    refs: list[SceneRef]
    sensor: str
    labels: LabelPlan | None
    classes: TileClasses | None

    @property
    def array_spec(self) -> str | None:
        """Absolute path of the description of arrays."""
        spec = self.config.array_spec
        return None if spec is None else str(spec.resolve())

    @property
    def split_by(self) -> dedup.SplitBy:
        """What the parts are made of."""
        has_parts = self.classes is not None and bool(self.classes.splits)
        return self.config.split or ("table" if has_parts else "geography")


def run(config: CurateConfig) -> CurateReport:
    """Curate scenes into a store.

    Args:
        config: what, where to, and how.

    Returns:
        What was kept and rejected; it is also printed.

    Raises:
        UsageError: for settings that cannot work.
        DataError: when more than `max_broken_share` of the scenes are broken; everything has been
            written by then.
    """
    started = time.monotonic()
    plan = make_plan(config)
    num_bytes = sum(size for ref in plan.refs for size, _ in ref.stamp)
    with (
        claimed(config.out, config.identity()) as stages,
        open_pool(config.num_workers(num_bytes), config.scheduler) as pool,
    ):
        scenes, rejected = run_check(plan, stages, pool)
        rows = run_slice(plan, scenes, stages, pool)
        rows = run_divide(plan, [*rows, *rejected])
        rows, metas = run_pack(plan, scenes, rows, stages, pool)
        leakage = dedup.measure_leakage(rows, config.hash_distance)
        report = summarise(
            rows,
            metas,
            leakage,
            out=config.out,
            num_scenes=len(plan.refs),
            num_broken=len({r.id for r in rows if r.id in {ref.id for ref in plan.refs}}),
            official=plan.split_by == "table",
            seconds=time.monotonic() - started,
        )
        write_card(config.out / "card.json", report, rows, metas, config.identity())
        # The manifest comes last: where it is, everything else is.
        write_manifest(config.out / "manifest.parquet", rows)
    show(report)
    refuse_broken(report, config)
    return report


def refuse_broken(report: CurateReport, config: CurateConfig) -> None:
    """Raise DataError when too many scenes are broken, or nothing is left."""
    if report.broken_share > config.max_broken_share:
        reason = f"{report.num_broken} of {report.num_scenes} scenes are broken"
        remedy = f"see their reasons in {config.out / 'manifest.parquet'}"
        raise DataError("sources", reason, f"{remedy}, or raise --max-broken-share")
    if not report.num_kept:
        reasons = ", ".join(f"{n} {reason}" for reason, n in report.rejected.items())
        raise DataError("sources", f"no tile was kept ({reasons})", "relax what rejects them")


def make_plan(config: CurateConfig) -> Plan:
    """Look at the sources and settle what the configuration leaves open."""
    labels = None
    if config.masks is not None:
        labels = plan_labels(config.masks, config.mask_attribute, config.mask_classes)
    classes = None
    if config.labels not in (None, "folders"):
        classes = read_classes(Path(str(config.labels)), config.label_column)
    spec = None if config.array_spec is None else str(config.array_spec.resolve())
    refs = scan.scan(
        config.sources,
        pattern=config.pattern,
        exclude=config.exclude,
        masks=mask_files(labels),
        array_spec=spec,
    )
    sensor = config.sensor or check.choose_sensor(refs, spec)
    load_sensor(sensor).select(config.bands or ())
    return Plan(config, refs, sensor, labels, classes)


def run_check(
    plan: Plan, stages: Path, pool: Pool
) -> tuple[dict[str, SceneFacts], list[ManifestRow]]:
    """Run the stage `check`; returns usable scenes by id and rows of the others."""
    config = plan.config
    params = check.CheckParams(
        sensor=plan.sensor,
        bands=config.bands,
        nodata=config.nodata,
        require_crs=config.require_crs,
        array_spec=plan.array_spec,
        source=config.collection,
        licence=config.licence,
    )
    stage = Stage("check", check.VERSION, check.check_unit, params, "check scenes")
    results = run_stage(stage, check.plan_units(plan.refs), stages, pool)
    scenes, rows = check.merge(results, params)
    return {scene.ref.id: scene for scene in scenes}, rows


def run_slice(
    plan: Plan, scenes: Mapping[str, SceneFacts], stages: Path, pool: Pool
) -> list[ManifestRow]:
    """Run the stage `slice`; returns a row per tile and per scene that could not be read."""
    config = plan.config
    bands = next(iter(scenes.values())).bands if scenes else ()
    sensor = load_sensor(plan.sensor)
    params = slicing.SliceParams(
        size=config.size,
        stride=config.stride or config.size,
        min_valid=config.min_valid,
        max_cloud=config.max_cloud,
        min_contrast=config.min_contrast,
        main=slicing.main_bands(sensor, bands),
        visible=slicing.visible_bands(sensor, bands, config.max_cloud),
        array_spec=plan.array_spec,
        labels=plan.labels,
        sensor=plan.sensor,
        source=config.collection,
        licence=config.licence,
    )
    stage = Stage("slice", slicing.VERSION, slicing.slice_unit, params, "cut tiles")
    units = slicing.plan_units(list(scenes.values()), params)
    return slicing.merge(run_stage(stage, units, stages, pool))


def run_divide(plan: Plan, rows: Sequence[ManifestRow]) -> list[ManifestRow]:
    """Add classes, draw the parts, and reject what repeats or leaks."""
    config = plan.config
    table = plan.classes
    keys = {uri: table.key(uri) for uri in {row.uri for row in rows}} if table else {}
    if table is not None and not any(keys.values()):
        remedy = "its column file must end like the paths of the scenes"
        raise DataError(table.path, "names none of the scenes", remedy)
    if config.labels == "folders":
        rows = [replace(row, label=Path(row.uri).parent.name) for row in rows]
    elif table is not None:
        rows = [replace(row, label=table.labels.get(keys[row.uri] or "")) for row in rows]
    official = {}
    if table is not None and plan.split_by == "table":
        parts = {uri: table.splits.get(key or "") for uri, key in keys.items()}
        official = {row.id: part for row in rows if (part := parts[row.uri]) is not None}
    params = dedup.DedupParams(
        split_by=plan.split_by,
        fractions=config.fractions,
        cell_km=config.cell_km,
        buffer_km=config.buffer_km,
        seed=config.seed,
        hash_distance=config.hash_distance,
        near=config.near_duplicates,
    )
    return dedup.divide(rows, official, params)


def run_pack(
    plan: Plan,
    scenes: Mapping[str, SceneFacts],
    rows: Sequence[ManifestRow],
    stages: Path,
    pool: Pool,
) -> tuple[list[ManifestRow], dict[str, StoreMeta]]:
    """Run the stage `pack` and fit the normalisers; returns rows with their places, and stores."""
    out = plan.config.out
    sensor = load_sensor(plan.sensor)
    params = pack.PackParams(
        sensor=plan.sensor,
        bands=next(iter(scenes.values())).bands if scenes else (),
        size=plan.config.size,
        units=sensor.units,
        seed=plan.config.seed,
        array_spec=plan.array_spec,
        labels=plan.labels,
    )
    rows, metas = pack.place(rows, scenes, params)
    clear_stale(out, metas)
    stage = Stage("pack", pack.VERSION, pack.pack_shard, params, "write shards")
    writers = {name: StoreWriter(out / name, meta) for name, meta in metas.items()}
    units = pack.plan_units(rows, scenes, out, metas)
    for unit in units:
        if unit.shard in writers[Path(unit.folder).name].missing():
            result_path(stage, unit, stages).unlink(missing_ok=True)
    run_stage(stage, units, stages, pool)
    for name, writer in writers.items():
        fit_normaliser(writer.finalise(), [row for row in rows if row.store_group == name])
    return rows, metas


def clear_stale(out: Path, metas: Mapping[str, StoreMeta]) -> None:
    """Remove stores of an earlier run over other files, and the manifest that spoke of them."""
    import shutil

    stale = [
        path.parent
        for mark in ("store.json", "unfinished.json")
        for path in out.glob(f"*/{mark}")
        if path.parent.name not in metas or not same_store(path, metas[path.parent.name])
    ]
    if stale:
        (out / "manifest.parquet").unlink(missing_ok=True)
    for folder in set(stale):
        shutil.rmtree(folder)


def same_store(mark: Path, meta: StoreMeta) -> bool:
    """Say whether a mark in a folder is that of a store of the same samples."""
    import json

    return StoreMeta.from_json(json.loads(mark.read_bytes()), mark) == meta


def fit_normaliser(store: Store, rows: Sequence[ManifestRow]) -> None:
    """Fit the normaliser of a store on its training tiles and write it beside the arrays."""
    from ...domains.domain import get_domain  # brings torch, which nothing else here needs

    path = store.path / "normaliser.json"
    if path.exists():
        return
    train = [row.row or 0 for row in rows if row.split == "train"]
    chosen = np.array(sorted(train or [row.row or 0 for row in rows]), np.int64)
    if len(chosen) > _NORMALISER_TILES:
        places = np.linspace(0, len(chosen) - 1, _NORMALISER_TILES).astype(np.int64)
        chosen = chosen[places]
    parts = (store.read(chosen[s : s + _CHUNK_TILES]) for s in range(0, len(chosen), _CHUNK_TILES))
    chunks = ((part.pixels, part.valid) for part in parts)
    normaliser = get_domain(store.meta.domain).fit(store.meta, chunks)
    write_json(path, normaliser.to_dict())
