"""Stage `pack`: write the kept faces into a store, shard by shard.

Rows of a store are the kept faces sorted by id, so its bytes depend on the set of faces alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ....core.masking.facial import CLASSES
from ....datasets.geometry import Transform
from ....datasets.manifest import ManifestRow
from ....datasets.samples import Sample
from ....datasets.store import StoreMeta, samples_per_shard
from ...curation import packing
from ...curation.packing import fingerprint, into_one, shard_bytes
from ...curation.records import StageResult
from ..detect import POINTS, Points, face_from_box
from ..normalise import BANDS, SCALE, SENSOR, UNITS, Statistics
from ..prepare import Preparation, pixel_hash, prepare_face
from .look import NO_REGIONS, Regions, regions_of
from .records import PictureRef, Sampling, pictures, ref_id

VERSION = 1
_DTYPE = "uint8"


@dataclass(frozen=True, kw_only=True)
class PackParams:
    """What all faces of a run have in common.

    Attributes:
        how: crop, colour and coding.
        regions: where maps come from.
        sampling: which frames are taken.
        statistics: mean and deviation of the normaliser.
        detector: name of the detector.
        seed: of the run.
    """

    how: Preparation
    regions: Regions
    sampling: Sampling
    statistics: Statistics
    detector: str
    seed: int


@dataclass(frozen=True)
class FaceCut:
    """A face that goes into the store.

    Attributes:
        frame: number in a video, None in a photograph.
        transform: of the crop.
        box: of the face.
        points: of the face.
        sha: checksum that its crop must have.
    """

    frame: int | None
    transform: Transform
    box: tuple[float, float, float, float]
    points: Points
    sha: str


PackUnit = packing.PackUnit[PictureRef, FaceCut]


def place(
    rows: Sequence[ManifestRow], params: PackParams
) -> tuple[list[ManifestRow], dict[str, StoreMeta]]:
    """Decide which row of the store every kept face goes to; see `into_one`."""
    return into_one(rows, lambda kept: _meta(kept, params))


def _meta(members: Sequence[ManifestRow], params: PackParams) -> StoreMeta:
    size = (params.how.crop.size, params.how.crop.size)
    total = len(members) * len(BANDS) * size[0] * size[1]
    facts = {
        **params.how.facts(),
        "detector": params.detector,
        "regions": params.regions.kind,
        "statistics": params.statistics,
    }
    return StoreMeta(
        domain="faces",
        sensor=SENSOR,
        bands=BANDS,
        size=size,
        dtype=_DTYPE,
        scale=(SCALE,) * len(BANDS),
        offset=(0.0,) * len(BANDS),
        num_samples=len(members),
        shard=samples_per_shard(len(BANDS), size, _DTYPE, shard_bytes(total)),
        units=UNITS,
        seed=params.seed,
        fingerprint=fingerprint(members, (params.regions, params.statistics)),
        regions=() if params.regions.kind == NO_REGIONS else CLASSES,
        facts=facts,
    )


def plan_units(
    rows: Sequence[ManifestRow],
    refs: Mapping[str, PictureRef],
    out: Path,
    metas: Mapping[str, StoreMeta],
) -> list[PackUnit]:
    """Return the shards of the store as units of work."""
    return packing.plan_units(
        rows, metas, out, lambda row: (ref_id(row.id), refs[ref_id(row.id)]), _face
    )


def _face(row: ManifestRow) -> FaceCut:
    seen = row.measures
    assert row.transform is not None, "a face that was kept has been cut"
    frame = int(seen["frame"]) if "frame" in seen else None
    box = (seen["box_left"], seen["box_top"], seen["box_right"], seen["box_bottom"])
    points = tuple((seen[f"{name}_x"], seen[f"{name}_y"]) for name in POINTS)
    return FaceCut(frame, row.transform, box, points, row.sha or "")


def pack_shard(unit: PackUnit, params: PackParams) -> StageResult:
    """Write one shard.

    Raises:
        DataError: when a file has changed since it was looked at.
    """
    return packing.write_shard(unit, samples(unit, params))


def samples(unit: PackUnit, params: PackParams) -> Iterator[Sample]:
    """Yield the samples of a shard in the order of their rows."""
    for ref, faces in unit.by_source():
        frames = sorted({face.frame for face in faces if face.frame is not None})
        shown = pictures(ref, params.sampling, frames or None)
        for picture, cuts in zip(shown, _by_frame(faces), strict=False):
            image = picture.photo.pixels
            for face in cuts:
                pixels, valid = prepare_face(image, face.transform, params.how)
                if picture.frame != face.frame or pixel_hash(pixels, valid) != face.sha:
                    raise packing.changed(ref.path)
                found = face_from_box(face.box, 1.0, face.points)
                size = params.how.crop.size
                regions, _ = regions_of(ref, face.transform, found, image, params.regions, size)
                yield Sample(pixels, valid, regions=regions)


def _by_frame(faces: Sequence[FaceCut]) -> list[list[FaceCut]]:
    """Return the faces of each picture; ids sort by frame, so they are in order."""
    return [list(group) for _, group in groupby(faces, key=lambda face: face.frame)]
