"""Stage `cut`: read every volume once, refuse what is no CT, and choose crops of its body.

Voxels are not kept: a row says where its crop is, and packing reads the volume again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Shaped

from ....core.config_tree import from_plain, to_plain
from ....datasets.errors import DataError
from ....datasets.manifest import KEPT, ManifestRow
from ....datasets.volume_geometry import NETWORK_CODES, VolumeGeometry
from ...curation.phash import perceptual_hash
from ...curation.records import UNREADABLE, StageResult
from ..body import bounding_box
from ..hounsfield import Problem
from .records import Triple, VolumeFacts, VolumeRef
from .volumes import Loaded, ReadParams, VolumeRejectedError, checksum, load

VERSION = 1
_THUMBNAIL = 32  # pixels a side of each projection that is hashed


@dataclass(frozen=True, kw_only=True)
class CutParams:
    """How volumes are cut.

    Attributes:
        read: what volumes must be.
        stride: voxels from crop to crop.
        min_body: least share of a crop that is body.
        min_foreground: least share of a crop with a label that is not background, where the volume
            has labels.
        min_contrast: least standard deviation of a crop's body in HU, within the window.
        source: name of the collection.
        licence: of the voxels.
    """

    read: ReadParams
    stride: Triple
    min_body: float
    min_foreground: float
    min_contrast: float
    source: str | None
    licence: str | None


def cut_unit(ref: VolumeRef, params: CutParams) -> StageResult:
    """Read and cut a volume.

    Returns:
        A row for every crop, or one for a volume that is not used, and one for a label file that is
        not used; the volume's facts as plain data when it is.
    """
    try:
        loaded = load(ref, params.read)
    except VolumeRejectedError as rejected:
        row = volume_row(ref, Problem(rejected.status, rejected.reason), params)
        return StageResult((row,), None, {"volumes": 1})
    except DataError as error:
        row = volume_row(ref, Problem(UNREADABLE, str(error)), params)
        return StageResult((row,), None, {"volumes": 1})
    facts = describe(ref, loaded, params.read)
    rows = cut(loaded, facts, params)
    if loaded.label_problem is not None:
        rows.append(volume_row(ref, loaded.label_problem, params, label=True))
    return StageResult(tuple(rows), to_plain(facts), {"volumes": 1})


def volume_row(
    ref: VolumeRef, problem: Problem, params: CutParams, *, label: bool = False
) -> ManifestRow:
    """Return the row of a volume, or of its label file, that is not used."""
    uri = ref.labels if label and ref.labels else ref.uri
    return ManifestRow(
        id=f"{ref.id}#label" if label else ref.id,
        uri=uri,
        status=problem.status,
        reason=problem.reason,
        stage="cut",
        source=params.source,
        licence=params.licence,
        sensor="ct",
    )


def describe(ref: VolumeRef, loaded: Loaded, params: ReadParams) -> VolumeFacts:
    """Return what is kept of a volume besides its crops; nothing that names a person."""
    info, geometry = loaded.opened.info, loaded.volume.geometry
    native = loaded.opened.geometry
    steps = zip("zyx", geometry.spacing, strict=True)
    measures = {f"spacing_{axis}": round(step, 4) for axis, step in steps}
    measures |= {"body": round(float(loaded.body.mean()), 4)}
    measures |= {"native_slice_mm": round(native.spacing[2], 4)}
    if native.shear > 0.01:
        measures["tilt_degrees"] = round(native.shear, 3)
    if native.obliqueness > 0.01:
        measures["oblique_degrees"] = round(native.obliqueness, 3)
    facts = {"format": info.format, "codes": native.codes, "stored_codes": NETWORK_CODES}
    facts |= {name: str(value) for name, value in info.headers.items()}
    if info.doubts:
        facts["doubts"] = " ".join(info.doubts)
    return VolumeFacts(
        ref=ref,
        affine=geometry.rows,
        shape=geometry.shape,
        patient=pseudonym(info.patient) if info.patient else ref.place,
        sha=checksum(loaded.voxels),
        phash=thumbnail_hash(loaded.voxels, params.window),
        names=loaded.names,
        measures=measures,
        facts=facts,
    )


def pseudonym(identifier: str) -> str:
    """Return a name for a patient that stays the same between runs and tells nothing by itself.

    Whoever knows the identifiers can still compare; it is for splits, not for publication.
    """
    return f"patient-{hashlib.sha256(identifier.encode()).hexdigest()[:12]}"


def thumbnail_hash(voxels: Shaped[np.ndarray, "d h w"], window: tuple[float, float]) -> str | None:
    """Return what a volume looks like: the hash of its three mean projections side by side."""
    planes = []
    for axis in range(3):
        seen = np.clip(voxels, *window).mean(axis=axis, dtype=np.float64)
        planes.append(_reduced(seen))
    picture = np.concatenate(planes, axis=1)
    found = perceptual_hash(picture[None], np.ones(picture.shape, np.bool_))
    return None if found is None else f"{found:016x}"


def _reduced(plane: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "p q"]:
    """Return a plane averaged to a few pixels a side."""
    for axis in range(2):
        edges = np.linspace(0, plane.shape[axis], _THUMBNAIL + 1)[:-1].astype(int)
        counts = np.diff(np.append(edges, plane.shape[axis]))
        plane = np.add.reduceat(plane, edges, axis=axis)
        plane = plane / np.maximum(np.expand_dims(counts, 1 - axis), 1)
    return plane


def cut(loaded: Loaded, facts: VolumeFacts, params: CutParams) -> list[ManifestRow]:
    """Return the rows of a volume's crops, kept and rejected."""
    box = bounding_box(loaded.body)
    assert box is not None  # a volume without body was refused
    axes = [
        starts(have, want, step, part)
        for have, want, step, part in zip(
            loaded.voxels.shape, params.read.size, params.stride, box, strict=True
        )
    ]
    return [_row(loaded, facts, (z, y, x), params) for z, y, x in product(*axes)]


def starts(length: int, size: int, stride: int, box: tuple[int, int]) -> list[int]:
    """Return where crops begin along an axis so that they cover the body, evenly spaced.

    Args:
        length: voxels of the volume.
        size: voxels of a crop; a larger one is centred on the volume and reaches over its edges.
        stride: largest distance of two crops.
        box: start and length of the body.
    """
    if length <= size:
        return [-((size - length) // 2)]
    most = length - size
    if box[1] <= size:
        return [min(max(box[0] + box[1] // 2 - size // 2, 0), most)]
    first, last = min(box[0], most), min(box[0] + box[1] - size, most)
    num = max(1, -(-(last - first) // stride))
    return sorted({round(first + (last - first) * i / num) for i in range(num + 1)})


def crop(array: Shaped[np.ndarray, "d h w"], start: Triple, size: Triple, fill: int) -> np.ndarray:
    """Return a part of a volume, filled where it reaches over the edges; a new array."""
    result = np.full(size, fill, array.dtype)
    ends = [s + n for s, n in zip(start, size, strict=True)]
    inner = tuple(
        slice(max(s, 0), min(e, n)) for s, e, n in zip(start, ends, array.shape, strict=True)
    )
    outer = tuple(slice(p.start - s, p.stop - s) for p, s in zip(inner, start, strict=True))
    result[outer] = array[inner]
    return result


def _row(loaded: Loaded, facts: VolumeFacts, start: Triple, params: CutParams) -> ManifestRow:
    size, low_high = params.read.size, params.read.window
    voxels, body = cut_voxels(loaded, start, size)
    seen = np.clip(voxels[body], *low_high).astype(np.float64)
    labelled, foreground = _labelled(loaded, start, size)
    measures = dict(facts.measures)
    if foreground is not None:
        measures["foreground"] = round(foreground, 6)
    problem = _judge(body, seen, foreground, params)
    geometry = VolumeGeometry(facts.affine, facts.shape).crop(start, size)
    return ManifestRow(
        id=crop_id(facts.ref, start),
        uri=facts.ref.uri,
        status=KEPT if problem is None else problem.status,
        reason=None if problem is None else problem.reason,
        stage="cut",
        source=params.source,
        licence=params.licence,
        sensor="ct",
        group=facts.patient,
        front=start[0],
        top=start[1],
        left=start[2],
        depth=size[0],
        height=size[1],
        width=size[2],
        affine=geometry.rows,
        valid=float(body.mean()),
        mean=float(seen.mean()) if seen.size else None,
        std=float(seen.std()) if seen.size else None,
        labelled=labelled,
        sha=checksum(voxels, body) if problem is None else None,
        measures=measures,
        facts=facts.facts,
    )


def cut_voxels(
    loaded: Loaded, start: Triple, size: Triple
) -> tuple[np.ndarray, Bool[np.ndarray, "d h w"]]:
    """Return Hounsfield units and body of a crop; beyond the volume there is air."""
    voxels = crop(loaded.voxels, start, size, -1000)
    return voxels, crop(loaded.body, start, size, 0)


def _labelled(loaded: Loaded, start: Triple, size: Triple) -> tuple[float, float | None]:
    """Return the shares of a crop with a known class, and with one that is not background."""
    if loaded.labels is None:
        return 0.0, None
    inside = crop(np.ones_like(loaded.body), start, size, 0)
    return float(inside.mean()), float((crop(loaded.labels, start, size, 0) > 0).mean())


def _judge(
    body: Bool[np.ndarray, "d h w"],
    seen: np.ndarray,
    foreground: float | None,
    params: CutParams,
) -> Problem | None:
    share = float(body.mean())
    if share < max(params.min_body, 1e-9):
        return Problem("low_body", f"{share:.1%} of the voxels are body")
    if float(seen.std()) < params.min_contrast:
        return Problem("low_contrast", f"deviation of {seen.std():.2g} HU within the window")
    if foreground is not None and foreground < params.min_foreground:
        return Problem("low_foreground", f"{foreground:.2%} of the voxels have a class of interest")
    return None


def crop_id(ref: VolumeRef, start: Triple) -> str:
    """Return the name of a crop, which sorts by volume."""
    return ":".join([ref.id, *(f"{place:+05d}" for place in start)])


def volume_id(row: ManifestRow) -> str:
    """Return the id of the volume that a crop was cut from."""
    return row.id.rsplit(":", 3)[0]


def merge(
    results: Sequence[StageResult],
) -> tuple[dict[str, VolumeFacts], list[ManifestRow]]:
    """Join the results of all volumes: facts by id of the volume, and all rows."""
    facts = [from_plain(VolumeFacts, r.output) for r in results if r.output is not None]
    rows = [row for result in results for row in result.rows]
    return {volume.ref.id: volume for volume in facts}, rows
