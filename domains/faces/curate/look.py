"""Stage `look`: find faces, cut them, measure them, and reject those that are not worth it.

Pixels are not kept: a row says where its face is, and packing reads it again. That costs a second
decoding and saves a second copy of the archive on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from ....datasets.errors import DataError
from ....datasets.geometry import Transform
from ....datasets.manifest import KEPT, ManifestRow
from ...curation.phash import perceptual_hash
from ...curation.records import UNREADABLE, StageResult
from ..crop import crop_transform, cut_crop, cut_map, outline, scale_of, to_crop
from ..detect import POINTS, Detector, Face, Which, choose, covered, follow
from ..detections import make_detector
from ..facts import SEPARATOR
from ..normalise import SENSOR
from ..parsing import KINDS, Kind, MapSize, draw_regions, read_map
from ..prepare import Preparation, pixel_hash, prepare_face
from ..quality import SIDE, blur, exposure, hidden_features, pose, visible_share
from .records import Picture, PictureRef, Sampling, face_id, frame_uri, pictures

VERSION = 1
_UNIT_PHOTOS = 64

DRAWN: Literal["landmarks"] = "landmarks"
NO_REGIONS: Literal["none"] = "none"
"""Where regions come from when no parser's maps are given, and where there are none."""


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Where maps of regions come from.

    Attributes:
        kind: classes of a parser's maps, "landmarks" for drawn ones, "none" for none.
        folder: of the parser's maps.
        other_size: what to do with a map of another size than its picture.
    """

    kind: Kind | Literal["landmarks", "none"] = DRAWN
    folder: str | None = None
    other_size: MapSize = "reject"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a face must be (curation-faces.md, sections 1, 3 and 4).

    Attributes:
        min_score: of the detector.
        min_face: longer side of the box in pixels of the picture.
        min_blur: variance of the Laplacian at 224 pixels.
        brightness: least and largest mean luminance, 0 to 255.
        max_saturated: share of pixels that are black or burnt out.
        max_yaw: nose beside the middle of the eyes, in distances of the eyes; None keeps all.
        max_overlap: share of the crop that other faces cover.
        min_visible: share of the crop that is skin or a feature, where a parser says so.
    """

    min_score: float
    min_face: float
    min_blur: float
    brightness: tuple[float, float]
    max_saturated: float
    max_yaw: float | None
    max_overlap: float
    min_visible: float


@dataclass(frozen=True, kw_only=True)
class LookParams:
    """How faces are found and judged.

    Attributes:
        detector: name or file.
        detector_name: what the detector calls itself; a file of other boxes has another name.
        max_side: longer pictures are made smaller before they are searched.
        which: of several faces.
        how: crop, colour and coding.
        limits: what is good enough.
        regions: where maps come from.
        sampling: which frames are taken.
        source: name of the collection.
        licence: of the pixels.
    """

    detector: str
    detector_name: str
    max_side: int
    which: Which
    how: Preparation
    limits: Limits
    regions: Regions
    sampling: Sampling
    source: str | None
    licence: str | None


@dataclass(frozen=True)
class LookUnit:
    """A shard of work: some files."""

    refs: tuple[PictureRef, ...]


def plan_units(refs: Sequence[PictureRef]) -> list[LookUnit]:
    """Cut the work into units: many photographs, or one video."""
    photos = [ref for ref in refs if ref.kind == "photo"]
    starts = range(0, len(photos), _UNIT_PHOTOS)
    units = [LookUnit(tuple(photos[start : start + _UNIT_PHOTOS])) for start in starts]
    return [*units, *(LookUnit((ref,)) for ref in refs if ref.kind != "photo")]


def look_unit(unit: LookUnit, params: LookParams) -> StageResult:
    """Look at the files of a unit; returns a row per face and per file without a usable one."""
    limits, margin = params.limits, params.how.crop.margin
    detector = make_detector(params.detector, int(limits.min_face), params.max_side, margin)
    rows: list[ManifestRow] = []
    for ref in unit.refs:
        try:
            rows += _look(ref, params, detector)
        except DataError as error:
            rows.append(rejected(ref, None, UNREADABLE, str(error), params))
    return StageResult(tuple(rows), None, {"files": len(unit.refs)})


def merge(results: Sequence[StageResult]) -> list[ManifestRow]:
    """Join the rows of all units."""
    return [row for result in results for row in result.rows]


def rejected(
    ref: PictureRef, frame: int | None, status: str, reason: str, params: LookParams
) -> ManifestRow:
    """Return the row of a picture without a usable face."""
    row = _base(ref, face_id(ref, frame, 0, several=False), frame, params)
    return replace(row, status=status, reason=reason)


def _base(ref: PictureRef, name: str, frame: int | None, params: LookParams) -> ManifestRow:
    facts = dict(ref.facts)
    source, licence = facts.pop("source", None), facts.pop("licence", None)
    if ref.identities:
        facts["identity"] = SEPARATOR.join(ref.identities)
    if ref.video is not None:
        facts["video"] = ref.video
    if ref.split is not None:
        facts["official"] = ref.split
    return ManifestRow(
        id=name,
        uri=frame_uri(ref, frame),
        status=KEPT,
        stage="look",
        source=source or params.source,
        licence=licence or params.licence,
        sensor=SENSOR,
        label=ref.label,
        facts=facts,
    )


def _look(ref: PictureRef, params: LookParams, detector: Detector) -> list[ManifestRow]:
    rows: list[ManifestRow] = []
    track: Face | None = None
    for picture in pictures(ref, params.sampling):
        pixels, frame = picture.photo.pixels, picture.frame
        found = detector(pixels, frame_uri(ref, frame))
        good = [face for face in found if _found_problem(face, params.limits) is None]
        if not good:
            rows.append(_without_face(ref, frame, found, params))
            continue
        if ref.kind != "photo" and params.which in ("largest", "central"):
            chosen = choose(follow(good, track), params.which, pixels.shape[:2])
            track = chosen[0]
        else:
            chosen = choose(good, params.which, pixels.shape[:2])
        if not chosen:
            reason = f"shows {len(good)} faces, and --faces reject wants one"
            rows.append(rejected(ref, frame, "many_faces", reason, params))
        for number, face in enumerate(chosen):
            name = face_id(ref, frame, number, several=params.which == "all")
            row = _base(ref, name, frame, params)
            others = [other for other in good if other is not face]
            rows.append(_judged(row, ref, picture, face, others, params))
    facts = {"detector": detector.name, "crop": params.how.crop.name}
    return [replace(row, facts={**row.facts, **facts}) for row in rows]


def _without_face(
    ref: PictureRef, frame: int | None, found: Sequence[Face], params: LookParams
) -> ManifestRow:
    if not found:
        return rejected(ref, frame, "no_face", "no face was found", params)
    best = max(found, key=lambda face: (face.score, face.box))
    status, reason = _found_problem(best, params.limits) or ("no_face", "no face was found")
    return rejected(ref, frame, status, reason, params)


def _found_problem(face: Face, limits: Limits) -> tuple[str, str] | None:
    """Say why a detection is not used at all."""
    if face.score < limits.min_score:
        return "low_score", f"the best face has a score of {face.score:.2f}"
    if face.side < limits.min_face:
        return "small_face", f"the face is {face.side:.0f} pixels wide"
    return None


def _judged(
    row: ManifestRow,
    ref: PictureRef,
    picture: Picture,
    face: Face,
    others: Sequence[Face],
    params: LookParams,
) -> ManifestRow:
    """Cut and measure a face, and say whether it is good enough."""
    image, crop = picture.photo.pixels, params.how.crop
    transform = crop_transform(face, crop, *image.shape[:2])
    pixels, valid = prepare_face(image, transform, params.how)
    try:
        regions, origin = regions_of(ref, transform, face, image, params.regions, crop.size)
    except DataError as error:
        return replace(row, status="bad_regions", reason=str(error))
    measures = _measure(picture, face, transform, others, params)
    if regions is not None:
        measures["visible"] = visible_share(regions)
    shown = pixels.transpose(1, 2, 0)
    measures["brightness"], saturated = exposure(shown, valid)
    phash = perceptual_hash(pixels, valid)
    row = replace(
        row,
        transform=transform,
        height=crop.size,
        width=crop.size,
        sha=pixel_hash(pixels, valid),
        phash=None if phash is None else f"{phash:016x}",
        valid=float(valid.mean()),
        saturated=saturated,
        mean=float(shown[valid].mean() / 255) if valid.any() else None,
        measures={**picture.measures, **measures},
        facts={**row.facts, **_facts(picture, face, origin)},
    )
    problem = face_problem(row, regions if origin not in (DRAWN, NO_REGIONS) else None, params)
    return row if problem is None else replace(row, status=problem[0], reason=problem[1])


def _facts(picture: Picture, face: Face, origin: str) -> dict[str, str]:
    known = {**picture.facts, "regions": origin}
    if picture.photo.notes:
        known["notes"] = "; ".join(picture.photo.notes)
    if picture.photo.grey:
        known["source_colour"] = "grey"
    if face.estimated:
        known["points"] = "estimated from the box"
    return known


def _measure(
    picture: Picture,
    face: Face,
    transform: Transform,
    others: Sequence[Face],
    params: LookParams,
) -> dict[str, float]:
    """Return what is measured of a face, by name; positions are in pixels of the picture."""
    image, crop = picture.photo.pixels, params.how.crop
    # Blur is comparable only at one size, and before coding adds edges of its own.
    even = replace(crop, size=SIDE)
    sharp, _ = cut_crop(image, crop_transform(face, even, *image.shape[:2]), even)
    looks = pose(face)
    measures: dict[str, float] = {
        "score": face.score,
        "blur": blur(sharp),
        "yaw": looks.yaw,
        "pitch": looks.pitch,
        "roll": looks.roll,
        "enlarged": 1 / scale_of(transform),
        "overlap": covered(outline(transform, crop.size), list(others)),
        "num_faces": 1.0 + len(others),
    }
    if picture.frame is not None:
        measures["frame"] = float(picture.frame)
    names = ("left", "top", "right", "bottom")
    measures |= {f"box_{name}": value for name, value in zip(names, face.box, strict=True)}
    for name, (px, py) in zip(POINTS, face.points, strict=True):
        measures |= {f"{name}_x": px, f"{name}_y": py}
    return measures


def face_problem(
    row: ManifestRow, parsed: UInt8[np.ndarray, "s s"] | None, params: LookParams
) -> tuple[str, str] | None:
    """Say why a face that was cut is not used: a status and a reason; None for a good one.

    Args:
        row: with measures.
        parsed: regions after a parser; drawn ones say nothing about what is hidden.
        params: limits.
    """
    limits, seen = params.limits, row.measures
    low, high = limits.brightness
    tests = {
        "blurred": (seen["blur"] < limits.min_blur, f"sharpness is {seen['blur']:.1f}"),
        "dark": (seen["brightness"] < low, f"mean luminance is {seen['brightness']:.0f}"),
        "bright": (seen["brightness"] > high, f"mean luminance is {seen['brightness']:.0f}"),
        "saturated": (
            (row.saturated or 0) > limits.max_saturated,
            f"{row.saturated or 0:.0%} of the pixels are black or burnt out",
        ),
        "crowded": (
            seen["overlap"] > limits.max_overlap,
            f"other faces cover {seen['overlap']:.0%} of the crop",
        ),
        "profile": (
            limits.max_yaw is not None and abs(seen["yaw"]) > limits.max_yaw,
            f"yaw is {seen['yaw']:.2f}",
        ),
    }
    for status, (bad, reason) in tests.items():
        if bad:
            return status, reason
    if parsed is not None:
        lacking = hidden_features(parsed)
        if seen["visible"] < limits.min_visible:
            return "occluded", f"skin and features are {seen['visible']:.0%} of the crop"
        if "mouth" in lacking and len(lacking) > 1:
            return "occluded", f"the parsing map lacks {' and '.join(lacking)}"
    return None


def regions_of(
    ref: PictureRef,
    transform: Transform,
    face: Face,
    image: UInt8[np.ndarray, "h w 3"],
    wanted: Regions,
    size: int,
) -> tuple[UInt8[np.ndarray, "s s"] | None, str]:
    """Return the map of a face in its crop, and where it comes from.

    A picture without a map of its parser gets a drawn one, which its row says.

    Args:
        ref: file that the face is from.
        transform: of the crop.
        face: its points.
        image: the picture.
        wanted: where maps come from.
        size: pixels a side of the crop.

    Raises:
        DataError: when a map cannot be used.
    """
    if wanted.kind == NO_REGIONS:
        return None, NO_REGIONS
    if ref.map is not None and wanted.kind in KINDS:
        labels = _map(ref.map, wanted.kind, image.shape[:2], wanted.other_size)
        return cut_map(labels, transform, size), wanted.kind
    return draw_regions(to_crop(face.array(), transform), size), DRAWN


@lru_cache(maxsize=2)
def _map(path: str, kind: Kind, size: tuple[int, int], other_size: MapSize) -> np.ndarray:
    return read_map(Path(path), kind, size, other_size)
