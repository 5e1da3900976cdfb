"""Stage `pack`: write the kept tiles into stores, shard by shard.

Rows of a store are the kept tiles sorted by id, so its bytes depend on the set of tiles alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....datasets.manifest import ManifestRow
from ....datasets.samples import Sample
from ....datasets.store import StoreMeta, samples_per_shard
from ...curation import packing
from ...curation.packing import fingerprint, kept_in_order, placed, shard_bytes
from ...curation.records import StageResult
from .labels import LabelPlan, SceneLabels
from .records import SceneFacts
from .tiles import open_ref, read_tiles, scene_id, scene_uri

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class PackParams:
    """What all tiles of a run have in common.

    Attributes:
        sensor: name of the sensor.
        bands: names of the channels.
        size: pixels a side.
        units: of physical values.
        seed: of the run.
        array_spec: JSON file that describes arrays without a sidecar.
        labels: dense labels that go into the store.
    """

    sensor: str
    bands: tuple[str, ...]
    size: int
    units: str
    seed: int
    array_spec: str | None
    labels: LabelPlan | None


@dataclass(frozen=True)
class TileCut:
    """A tile that goes into a store: its place in the scene, in pixels, and its checksum."""

    top: int
    left: int
    sha: str


PackUnit = packing.PackUnit[SceneFacts, TileCut]


def place(
    rows: Sequence[ManifestRow], scenes: Mapping[str, SceneFacts], params: PackParams
) -> tuple[list[ManifestRow], dict[str, StoreMeta]]:
    """Decide which store and row every kept tile goes to.

    Args:
        rows: all rows, with parts.
        scenes: facts by id of the scene.
        params: what the run has in common.

    Returns:
        All rows, kept ones with store and row; and the meta data of each store by its folder.
    """
    by_dtype: dict[str, list[ManifestRow]] = {}
    for row in kept_in_order(rows):
        by_dtype.setdefault(scenes[scene_id(row)].dtype, []).append(row)
    stores = [
        (_meta(members, scenes[scene_id(members[0])], params), members)
        for members in by_dtype.values()
    ]
    return placed(rows, stores), {meta.group_name: meta for meta, _ in stores}


def _meta(members: Sequence[ManifestRow], facts: SceneFacts, params: PackParams) -> StoreMeta:
    size = (params.size, params.size)
    sample_bytes = len(params.bands) * params.size**2 * np.dtype(facts.dtype).itemsize
    total = len(members) * sample_bytes
    return StoreMeta(
        domain="satellite",
        sensor=params.sensor,
        bands=params.bands,
        size=size,
        dtype=facts.dtype,
        scale=facts.scale,
        offset=facts.offset,
        num_samples=len(members),
        shard=samples_per_shard(len(params.bands), size, facts.dtype, shard_bytes(total)),
        nodata=facts.nodata,
        units=params.units,
        seed=params.seed,
        classes=params.labels.classes if params.labels else (),
        fingerprint=fingerprint(members, params.labels),
    )


def plan_units(
    rows: Sequence[ManifestRow],
    scenes: Mapping[str, SceneFacts],
    out: Path,
    metas: Mapping[str, StoreMeta],
) -> list[PackUnit]:
    """Return the shards of all stores as units of work."""
    return packing.plan_units(
        rows,
        metas,
        out,
        lambda row: (scene_id(row), scenes[scene_id(row)]),
        lambda row: TileCut(row.top or 0, row.left or 0, row.sha or ""),
    )


def pack_shard(unit: PackUnit, params: PackParams) -> StageResult:
    """Write one shard.

    Raises:
        DataError: when a scene has changed since it was cut.
    """
    return packing.write_shard(unit, samples(unit, params))


def samples(unit: PackUnit, params: PackParams) -> Iterator[Sample]:
    """Yield the samples of a shard in the order of their rows."""
    for facts, cuts in unit.by_source():
        uri = scene_uri(facts.ref)
        labels = params.labels and SceneLabels(params.labels, uri, facts.geometry)
        with open_ref(facts.ref, params.array_spec) as scene:
            starts = [(cut.top, cut.left) for cut in cuts]
            tiles = read_tiles(scene, facts, starts, params.size)
            for tile, cut in zip(tiles, cuts, strict=True):
                if tile.checksum() != cut.sha:
                    raise packing.changed(uri)
                burnt = labels.burn(cut.top, cut.left, *unit.meta.size) if labels else None
                yield Sample(np.ascontiguousarray(tile.pixels), tile.valid, burnt)
