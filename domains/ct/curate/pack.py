"""Stage `pack`: write the kept crops into a store, shard by shard.

Rows of a store are the kept crops sorted by id, so its bytes depend on the set of crops alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....core.errors import UsageError
from ....datasets.manifest import ManifestRow
from ....datasets.samples import UNLABELLED, Sample
from ....datasets.store import StoreMeta, samples_per_shard
from ....datasets.volume_geometry import NETWORK_CODES, Spacing
from ...curation import packing
from ...curation.packing import fingerprint, into_one, shard_bytes
from ...curation.records import StageResult
from ..normalise import BAND, UNITS
from .cut import crop, cut_voxels, volume_id
from .records import Triple, VolumeFacts
from .volumes import IGNORE, Loaded, ReadParams, VolumeRejectedError, checksum, class_table, load

VERSION = 1
BACKGROUND = "background"
_DTYPE = "int16"
_SAME_SPACING = 0.01


@dataclass(frozen=True, kw_only=True)
class PackParams:
    """What all crops of a run have in common.

    Attributes:
        read: how volumes are read.
        classes: names of classes, background first; empty without labels.
        seed: of the run.
    """

    read: ReadParams
    classes: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class CropCut:
    """A crop that goes into a store: its first voxel in the volume, and its checksum."""

    start: Triple
    sha: str


PackUnit = packing.PackUnit[VolumeFacts, CropCut]


def choose_classes(volumes: Mapping[str, VolumeFacts]) -> tuple[str, ...]:
    """Return the classes of a store, background first, the others by number and name.

    Raises:
        UsageError: when volumes come with different tables of names, because what one table does
            not name would pass for background.
    """
    tables = {v.ref.names: v.ref for v in volumes.values() if v.names and v.ref.names is not None}
    if len(tables) > 1:
        first, second = list(tables.values())[:2]
        reason = f"{first.labels} and {second.labels} have different tables of names"
        remedy = "curate them into two folders, or without labels (--labels none)"
        raise UsageError("labels", reason, remedy)
    pairs = {pair for volume in volumes.values() for pair in volume.names}
    if not pairs:
        return ()
    named = dict.fromkeys(name for _, name in sorted(pairs) if name not in (IGNORE, BACKGROUND))
    return (BACKGROUND, *named)


def place(
    rows: Sequence[ManifestRow], params: PackParams
) -> tuple[list[ManifestRow], dict[str, StoreMeta]]:
    """Decide which row of the store every kept crop goes to; see `into_one`."""
    return into_one(rows, lambda kept: _meta(kept, params))


def _meta(members: Sequence[ManifestRow], params: PackParams) -> StoreMeta:
    size, spacing = params.read.size, params.read.spacing or common_spacing(members)
    total = len(members) * int(np.prod(size)) * np.dtype(_DTYPE).itemsize
    return StoreMeta(
        domain="ct",
        sensor="ct",
        bands=(BAND,),
        size=size,
        dtype=_DTYPE,
        scale=(1.0,),
        offset=(0.0,),
        num_samples=len(members),
        shard=samples_per_shard(1, size, _DTYPE, shard_bytes(total)),
        units=UNITS,
        seed=params.seed,
        classes=params.classes,
        fingerprint=fingerprint(members, params.classes),
        facts={
            "spacing": None if spacing is None else list(spacing),
            "window": list(params.read.window),
            "orientation": NETWORK_CODES,
        },
    )


def common_spacing(members: Sequence[ManifestRow]) -> Spacing | None:
    """Return mm between voxels where all crops agree to a percent, None where they do not.

    A network has then seen one grid only, and what it predicts later must be on it.
    """
    steps = np.array([[row.measures[f"spacing_{axis}"] for axis in "zyx"] for row in members])
    if not np.allclose(steps, steps[0], rtol=_SAME_SPACING):
        return None
    z, y, x = np.median(steps, axis=0).round(4).tolist()
    return z, y, x


def plan_units(
    rows: Sequence[ManifestRow],
    volumes: Mapping[str, VolumeFacts],
    out: Path,
    metas: Mapping[str, StoreMeta],
) -> list[PackUnit]:
    """Return the shards of the store as units of work."""
    return packing.plan_units(
        rows,
        metas,
        out,
        lambda row: (volume_id(row), volumes[volume_id(row)]),
        lambda row: CropCut((row.front or 0, row.top or 0, row.left or 0), row.sha or ""),
    )


def pack_shard(unit: PackUnit, params: PackParams) -> StageResult:
    """Write one shard.

    Raises:
        DataError: when a volume has changed since it was cut.
    """
    return packing.write_shard(unit, samples(unit, params))


def samples(unit: PackUnit, params: PackParams) -> Iterator[Sample]:
    """Yield the samples of a shard in the order of their rows."""
    size = params.read.size
    for volume, cuts in unit.by_source():
        try:
            loaded = load(volume.ref, params.read)
        except VolumeRejectedError as rejected:
            raise packing.changed(volume.ref.uri) from rejected
        for cut in cuts:
            voxels, body = cut_voxels(loaded, cut.start, size)
            if checksum(voxels, body) != cut.sha:
                raise packing.changed(volume.ref.uri)
            labels = None
            if params.classes:
                labels = crop_classes(loaded, volume.names, params.classes, cut.start, size)
            yield Sample(voxels[None], body, labels)


def crop_classes(
    loaded: Loaded,
    names: Sequence[tuple[int, str]],
    classes: Sequence[str],
    start: Triple,
    size: Triple,
) -> np.ndarray | None:
    """Return the class of every voxel of a crop, 255 beyond the volume; None without labels."""
    if loaded.labels is None:
        return None
    numbers = crop(loaded.labels, start, size, 0)
    table = class_table(names, classes, int(numbers.max()))
    inside = crop(np.ones_like(loaded.body), start, size, 0)
    return np.where(inside, table[numbers], UNLABELLED).astype(np.uint8)
