"""`mimkit curate ct`: scan, cut, divide and pack, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...datasets.errors import DataError
from ...datasets.manifest import ManifestRow
from ...datasets.store import StoreMeta
from ...domains.ct.curate import cut, divide, pack
from ...domains.ct.curate.records import VolumeFacts
from ...domains.ct.curate.scan import Found, ScanParams, scan_sources
from ...domains.ct.curate.volumes import ReadParams
from ...domains.curation import dedup
from ...domains.curation.tables import FileTable, read_table
from .base import Curated, carry_out
from .card import CurateReport
from .ct_config import CurateCtConfig
from .execute import Pool, Stage, run_stage
from .stores import write_stores

__all__ = ["CurateCtConfig", "CurateReport", "run"]


def run(config: CurateCtConfig) -> CurateReport:
    """Curate CT volumes into a store.

    Args:
        config: what, where to, and how.

    Returns:
        What was kept and rejected; it is also printed.

    Raises:
        UsageError: for settings that cannot work.
        DataError: when more than `max_broken_share` of the files are broken; everything has been
            written by then.
    """
    table = None
    if config.patients is not None:
        table = read_table(config.patients, "patient", field="patients")
    found = scan_sources(
        config.sources,
        ScanParams(
            pattern=config.pattern,
            exclude=config.exclude,
            masks=config.masks,
            labels=config.labels == "auto",
        ),
    )

    def work(stages: Path, pool: Pool) -> Curated:
        volumes, rows = run_cut(config, found, stages, pool)
        volumes = divide.with_patients(volumes, table)
        divided = run_divide(config, volumes, table)
        rows = divide.apply_to_crops(rows, divided)
        rows, metas = run_pack(config, volumes, rows, stages, pool)
        return Curated(
            rows=rows,
            metas=metas,
            divided=divided,
            num_files=num_files(found),
            num_broken=num_broken(rows, volumes),
            official=table is not None and bool(table.splits),
        )

    num_bytes = sum(ref.stamp[0] for ref in found.refs)
    return carry_out(config, num_bytes, work, "ct", ("files", "crops"))


def num_files(found: Found) -> int:
    """Return how many volumes and label files were looked at."""
    labels = sum(ref.labels is not None for ref in found.refs)
    return len(found.refs) + labels + len(found.rows)


def num_broken(rows: Sequence[ManifestRow], volumes: Mapping[str, VolumeFacts]) -> int:
    """Return how many volumes and label files were refused; copies are not broken."""
    return sum(
        row.stage == "scan" or (row.stage == "cut" and cut.volume_id(row) not in volumes)
        for row in rows
    )


def read_params(config: CurateCtConfig) -> ReadParams:
    """Return how volumes are read."""
    return ReadParams(
        spacing=config.spacing,
        window=config.window,
        size=config.size,
        max_spacing=config.max_spacing,
        allow_identified=config.allow_identified,
        segments=config.segments,
        names=config.names(),
    )


def run_cut(
    config: CurateCtConfig, found: Found, stages: Path, pool: Pool
) -> tuple[dict[str, VolumeFacts], list[ManifestRow]]:
    """Run the stage `cut`; returns usable volumes by id, and a row per crop and refused file."""
    params = cut.CutParams(
        read=read_params(config),
        stride=config.stride or config.size,
        min_body=config.min_body,
        min_foreground=config.min_foreground,
        min_contrast=config.min_contrast,
        source=config.collection,
        licence=config.licence,
    )
    stage = Stage("cut", cut.VERSION, cut.cut_unit, params, "cut volumes")
    volumes, rows = cut.merge(run_stage(stage, found.refs, stages, pool))
    stated = {"source": config.collection, "licence": config.licence}
    return volumes, [*rows, *(replace(row, **stated) for row in found.rows)]


def run_divide(
    config: CurateCtConfig, volumes: Mapping[str, VolumeFacts], table: FileTable | None
) -> list[ManifestRow]:
    """Draw the parts by patient and find volumes that repeat."""
    if table is not None and not any(table.key(v.ref.uri) for v in volumes.values()):
        remedy = "its column file must end like the paths of the volumes"
        raise DataError(table.path, "names none of the volumes", remedy)
    params = dedup.DedupParams(
        split_by="table" if table is not None and table.splits else "group",
        fractions=config.fractions,
        cell_km=1.0,
        buffer_km=0.0,
        seed=config.seed,
        hash_distance=config.hash_distance,
        near=config.near_duplicates,
    )
    return divide.divide(volumes, table, params)


def run_pack(
    config: CurateCtConfig,
    volumes: Mapping[str, VolumeFacts],
    rows: Sequence[ManifestRow],
    stages: Path,
    pool: Pool,
) -> tuple[list[ManifestRow], dict[str, StoreMeta]]:
    """Run the stage `pack`; returns rows with their places, and the store."""
    kept = {cut.volume_id(row) for row in rows if row.split is not None}
    used = {name: volume for name, volume in volumes.items() if name in kept}
    params = pack.PackParams(
        read=read_params(config), classes=pack.choose_classes(used), seed=config.seed
    )
    placed, metas = pack.place(rows, params)
    stage = Stage("pack", pack.VERSION, pack.pack_shard, params, "write shards")
    units = pack.plan_units(placed, used, config.out, metas)
    write_stores(config.out, placed, metas, stage, units, stages, pool)
    return placed, metas
