"""`mimkit curate faces`: scan, look, divide and pack, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from ...core.errors import UsageError
from ...datasets.manifest import KEPT, ManifestRow
from ...datasets.readers.video import INSTALL
from ...datasets.store import StoreMeta
from ...domains.curation import dedup
from ...domains.curation.records import UNREADABLE
from ...domains.faces.curate import divide, look, pack
from ...domains.faces.curate.records import PictureRef, ref_id
from ...domains.faces.curate.scan import Found, scan_sources
from ...domains.faces.detections import make_detector
from ...domains.faces.removal import erased_row, ref_digests
from .base import Curated, carry_out
from .card import CurateReport
from .execute import Pool, Stage, run_stage
from .faces_config import CurateFacesConfig
from .faces_remove import remembered, remove
from .stores import write_stores

__all__ = ["CurateFacesConfig", "CurateReport", "run"]


def run(config: CurateFacesConfig) -> CurateReport | None:
    """Curate photographs and videos into a store of faces, or erase people from one.

    Args:
        config: what, where to, and how.

    Returns:
        What was kept and rejected, which is also printed; None after a removal.

    Raises:
        UsageError: for settings that cannot work, or what a detector needs and is not there.
        DataError: when official parts share people, or more than `max_broken_share` of the files
            are broken; in the latter case everything has been written by then.
    """
    if config.remove is not None:
        remove(config.out, config.remove)
        return None
    found = without_removed(scan_sources(config.sources, config.scan()), config)
    if find_spec("av") is None and any(ref.kind == "video" for ref in found.refs):
        raise UsageError("sources", "hold videos, which need the package av", INSTALL)

    def work(stages: Path, pool: Pool) -> Curated:
        rows = [*run_look(config, found.refs, stages, pool), *_stated(found.rows, config)]
        rows = run_divide(config, rows)
        rows, metas = run_pack(config, found.refs, rows, stages, pool)
        return Curated(
            rows=rows,
            metas=metas,
            num_files=len(found.refs) + len(found.rows),
            num_broken=sum(row.status == UNREADABLE for row in rows),
            official=split_by(config, rows) == "table",
            notes=tuple(notes(rows)),
        )

    num_bytes = sum(ref.stamp[0] for ref in found.refs)
    return carry_out(config, num_bytes, work, "faces", ("files", "faces"))


def without_removed(found: Found, config: CurateFacesConfig) -> Found:
    """Leave out files of people who were erased from this folder."""
    gone = remembered(config.out)
    if not gone:
        return found
    erased = [ref for ref in found.refs if ref_digests(ref) & gone]
    rows = [erased_row(ManifestRow(id=ref.id, uri="", status=KEPT)) for ref in erased]
    stays = tuple(ref for ref in found.refs if ref not in erased)
    return Found(stays, (*found.rows, *rows))


def _stated(rows: Sequence[ManifestRow], config: CurateFacesConfig) -> list[ManifestRow]:
    return [replace(row, source=config.collection, licence=config.licence) for row in rows]


def detector_name(config: CurateFacesConfig) -> str:
    """Return what the detector calls itself; makes it, so that a missing one is said at once."""
    made = make_detector(config.detector, config.min_face, config.max_side, config.crop.margin)
    return made.name


def run_look(
    config: CurateFacesConfig, refs: Sequence[PictureRef], stages: Path, pool: Pool
) -> list[ManifestRow]:
    """Run the stage `look`; returns a row per face and per picture without a usable one."""
    params = look.LookParams(
        detector=config.detector,
        detector_name=detector_name(config),
        max_side=config.max_side,
        which=config.faces,
        how=config.preparation(),
        limits=config.limits(),
        regions=config.region_source(),
        sampling=config.sampling(),
        source=config.collection,
        licence=config.licence,
    )
    stage = Stage("look", look.VERSION, look.look_unit, params, "look at files")
    return look.merge(run_stage(stage, look.plan_units(refs), stages, pool))


def split_by(config: CurateFacesConfig, rows: Sequence[ManifestRow]) -> dedup.SplitBy:
    """Return what the parts are made of.

    Raises:
        UsageError: when official parts are wanted and there are none.
    """
    stated = any("official" in row.facts for row in rows)
    if config.split == "table" and not stated:
        reason = 'is "table", and neither table nor layout names parts'
        raise UsageError("split", reason, "give --table with a column split, or --split identity")
    return "table" if config.split != "identity" and stated else "group"


def run_divide(config: CurateFacesConfig, rows: Sequence[ManifestRow]) -> list[ManifestRow]:
    """Draw the parts by people and videos, and reject what repeats."""
    params = dedup.DedupParams(
        split_by=split_by(config, rows),
        fractions=config.fractions,
        cell_km=1.0,
        buffer_km=0.0,
        seed=config.seed,
        hash_distance=config.hash_distance,
        near=config.near_duplicates,
    )
    return divide.divide(rows, params, config.max_per_identity)


def run_pack(
    config: CurateFacesConfig,
    refs: Sequence[PictureRef],
    rows: Sequence[ManifestRow],
    stages: Path,
    pool: Pool,
) -> tuple[list[ManifestRow], dict[str, StoreMeta]]:
    """Run the stage `pack`; returns rows with their places, and the store."""
    params = pack.PackParams(
        how=config.preparation(),
        regions=config.region_source(),
        sampling=config.sampling(),
        statistics=config.statistics,
        detector=detector_name(config),
        seed=config.seed,
    )
    placed, metas = pack.place(rows, params)
    used = {ref_id(row.id) for row in placed if row.status == KEPT}
    files = {ref.id: ref for ref in refs if ref.id in used}
    stage = Stage("pack", pack.VERSION, pack.pack_shard, params, "write shards")
    units = pack.plan_units(placed, files, config.out, metas)
    write_stores(config.out, placed, metas, stage, units, stages, pool)
    return placed, metas


def notes(rows: Sequence[ManifestRow]) -> list[str]:
    """Return what a reader of the card should know besides the counts."""
    kept = [row for row in rows if row.status == KEPT]
    said = []
    if any("consent" not in row.facts for row in kept):
        said.append("no basis of consent given; --consent or the table's column records it")
    if kept and not any({"identity", "video"} & set(row.facts) for row in kept):
        said.append("nobody is identified, so parts may share people; see --identities, --table")
    formats: dict[str, set[str]] = {}
    for row in kept:
        if row.label is not None:
            formats.setdefault(row.label, set()).add(row.facts.get("format", ""))
    if len({frozenset(found) for found in formats.values()}) > 1:
        said.append("classes differ in file format, which a network can learn; see --equalise")
    estimated = sum("points" in row.facts for row in kept)
    if estimated:
        said.append(f"points of {estimated} faces are estimated from their boxes")
    same = divide.twins(rows)
    if same:
        said.append(f"{same} pictures occur under several identities")
    return said
