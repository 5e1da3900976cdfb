"""`mimkit curate`: scan, check, slice, dedup and pack, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...datasets.errors import DataError
from ...datasets.manifest import ManifestRow
from ...datasets.store import StoreMeta
from ...domains.curation import dedup
from ...domains.curation.tables import FileTable, read_table
from ...domains.satellite.curate import check, pack, scan
from ...domains.satellite.curate import slice as slicing
from ...domains.satellite.curate.labels import (
    LabelPlan,
    mask_files,
    plan_labels,
)
from ...domains.satellite.curate.records import SceneFacts, SceneRef
from ...domains.satellite.sensors import load_sensor
from .base import Curated, carry_out
from .card import CurateReport
from .config import CurateConfig
from .execute import Pool, Stage, run_stage
from .stores import write_stores

__all__ = ["CurateConfig", "CurateReport", "run"]


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
    classes: FileTable | None

    @property
    def array_spec(self) -> str | None:
        """Absolute path of the description of arrays."""
        spec = self.config.array_spec
        return None if spec is None else str(spec.resolve())

    @property
    def split_by(self) -> dedup.SplitBy:
        """What the parts are made of."""
        has_parts = self.classes is not None and bool(self.classes.splits)
        wanted = self.config.split or ("table" if has_parts else "geography")
        return "group" if wanted == "scene" else wanted


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
    plan = make_plan(config)

    def work(stages: Path, pool: Pool) -> Curated:
        scenes, rejected = run_check(plan, stages, pool)
        rows = run_slice(plan, scenes, stages, pool)
        rows = run_divide(plan, [*rows, *rejected])
        rows, metas = run_pack(plan, scenes, rows, stages, pool)
        return Curated(
            rows=rows,
            metas=metas,
            num_files=len(plan.refs),
            num_broken=len({row.id for row in rows} & {ref.id for ref in plan.refs}),
            official=plan.split_by == "table",
        )

    num_bytes = sum(size for ref in plan.refs for size, _ in ref.stamp)
    return carry_out(config, num_bytes, work, "satellite", ("scenes", "tiles"))


def make_plan(config: CurateConfig) -> Plan:
    """Look at the sources and settle what the configuration leaves open."""
    labels = None
    if config.masks is not None:
        labels = plan_labels(config.masks, config.mask_attribute, config.mask_classes)
    classes = None
    if config.labels not in (None, "folders"):
        classes = read_table(Path(str(config.labels)), config.label_column)
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
    stage = Stage("pack", pack.VERSION, pack.pack_shard, params, "write shards")
    units = pack.plan_units(rows, scenes, out, metas)
    write_stores(out, rows, metas, stage, units, stages, pool)
    return rows, metas
