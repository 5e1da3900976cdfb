"""Reading one volume for curation: what it must be, its body, and its labels on the same grid.

Cutting and packing read with this, so both see the same voxels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int16, Shaped, UInt8

from ....datasets.errors import DataError
from ....datasets.label_map import LabelMap, label_problems
from ....datasets.readers.volume import OpenVolume, open_volume, read_labels
from ....datasets.readers.volume_source import MAX_SHEAR_DEGREES
from ....datasets.samples import UNLABELLED
from ....datasets.volume_geometry import Spacing, VolumeGeometry
from ....datasets.volumes import Volume, resample
from ..body import find_body
from ..hounsfield import AIR, PADDING, Problem, hounsfield_problem
from ..prepare import network_grid, prepare
from .records import VolumeRef

IGNORE = "ignore"
"""Name of nnU-Net for voxels whose class is not known."""

_MOST_TILT = 30.0  # degrees; gantries tilt no further, so that more shear is a fault of the file
_SPACINGS = (0.05, 20.0)  # mm between which voxels of a CT of people or mice lie
_LOOKED_AT = 1 << 20  # voxels that tell whether numbers can be HU


@dataclass(frozen=True, kw_only=True)
class ReadParams:
    """What volumes must be and how they are read.

    Attributes:
        spacing: mm along depth, height and width to resample to; None keeps each volume's own.
        window: HU that the network sees.
        size: voxels of a crop.
        max_spacing: mm; volumes with a larger distance of slices or pixels are rejected.
        allow_identified: take files whose headers may tell who the patient is.
        segments: names of the segments wanted from contours and segmentations; empty takes all.
        names: (number, name) of labels instead of what files say.
    """

    spacing: Spacing | None
    window: tuple[float, float]
    size: tuple[int, int, int]
    max_spacing: float
    allow_identified: bool
    segments: tuple[str, ...]
    names: tuple[tuple[int, str], ...]


class VolumeRejectedError(Exception):
    """A volume that is not used: status and reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True, eq=False)
class Loaded:
    """A volume in memory, on the grid of the store.

    Attributes:
        opened: what its file says.
        volume: Hounsfield units.
        body: where the body is and something was measured.
        labels: numbers of labels, None without.
        names: (number, name) of those labels that occur, background not counted.
        label_problem: why its label file is not used.
    """

    opened: OpenVolume
    volume: Volume
    body: Bool[np.ndarray, "d h w"]
    labels: Shaped[np.ndarray, "d h w"] | None
    names: tuple[tuple[int, str], ...]
    label_problem: Problem | None

    @property
    def voxels(self) -> Int16[np.ndarray, "d h w"]:
        """Hounsfield units."""
        return self.volume.array


def load(ref: VolumeRef, params: ReadParams) -> Loaded:
    """Read a volume and its labels.

    Raises:
        VolumeRejectedError: when it is no CT that can be used.
        DataError: when it cannot be read.
    """
    opened = open_volume(ref.source, sheared=True)
    check_headers(opened, params)
    read = opened.read()
    _check_numbers(read.array, params)
    upright = _upright(read, AIR, order=1)
    volume = prepare(upright, params.spacing)
    body = find_body(volume.array, volume.geometry.spacing) & (volume.array > PADDING)
    if not body.any():
        raise VolumeRejectedError("no_body", "nothing but air was found")
    labels, names, problem = None, (), None
    if ref.labels is not None:
        try:
            found = _read_labels(ref, read.geometry, params)
            turned = prepare(_upright(found.volume, 0, order=0), params.spacing, label=True)
            labels, names = turned.array, _names(found)
        except VolumeRejectedError as rejected:
            problem = Problem(rejected.status, rejected.reason)
        except DataError as error:
            problem = Problem("unreadable_label", str(error))
    return Loaded(opened, volume, body, labels, names, problem)


def check_headers(opened: OpenVolume, params: ReadParams) -> None:
    """Refuse a volume by what its headers say, before a voxel is read.

    Raises:
        VolumeRejectedError: for headers that tell who the patient is, another modality, a spacing
            that is not allowed, a shear, or too few voxels.
    """
    info, geometry = opened.info, opened.geometry
    if info.identifying and not params.allow_identified:
        kinds = ", ".join(f"{name} ({kind})" for name, kind in info.identifying.items())
        reason = f"its headers may tell who the patient is: {kinds}"
        raise VolumeRejectedError("identified", f"{reason}; de-identify, or --allow-identified")
    if info.modality not in (None, "", "CT"):
        raise VolumeRejectedError("not_ct", f"its modality is {info.modality}")
    least, most = min(geometry.spacing), max(geometry.spacing)
    if not (_SPACINGS[0] <= least and most <= _SPACINGS[1]):
        words = " x ".join(f"{step:g}" for step in geometry.spacing)
        raise VolumeRejectedError("implausible_spacing", f"voxels of {words} mm are no CT's")
    if most > params.max_spacing:
        reason = f"slices or pixels are {most:.3g} mm apart, and {params.max_spacing:g} are allowed"
        raise VolumeRejectedError("coarse_spacing", reason)
    if geometry.shear > (_MOST_TILT if info.format == "dicom" else MAX_SHEAR_DEGREES):
        reason = f"its axes are {geometry.shear:.1f} degrees off a right angle"
        raise VolumeRejectedError("sheared", f"{reason}; resample it to an upright grid first")
    shape = network_grid(geometry, params.spacing).shape
    if any(2 * have < wanted for have, wanted in zip(shape, params.size, strict=True)):
        words = " x ".join(map(str, shape))
        raise VolumeRejectedError("too_small", f"{words} voxels are less than half of a crop")


def _check_numbers(array: np.ndarray, params: ReadParams) -> None:
    flat = array.ravel()
    seen = flat[:: max(1, flat.size // _LOOKED_AT)]
    seen = seen if seen.dtype.itemsize == 1 else seen[seen > PADDING]
    problem = hounsfield_problem(seen, params.window)
    if problem is None and not seen.size:
        problem = Problem("no_body", "nothing was measured: all voxels are padding")
    if problem is not None:
        raise VolumeRejectedError(problem.status, problem.reason)


def _upright(volume: Volume, fill: float, order: int) -> Volume:
    """Undo the tilt of a gantry."""
    if volume.geometry.shear <= MAX_SHEAR_DEGREES:
        return volume
    return resample(volume, volume.geometry.unsheared(), order=order, fill=fill)


def _read_labels(ref: VolumeRef, grid: VolumeGeometry, params: ReadParams) -> LabelMap:
    """Read labels on the grid of their volume.

    Raises:
        VolumeRejectedError: when nothing is labelled, or a number has no name.
        DataError: when they cannot be read, or lie on another grid.
    """
    named = dict(params.names or ref.names or ())
    found = read_labels(
        ref.labels or "", grid=grid, names=named or None, segments=params.segments or None
    )
    known = sorted(found.names) if named or found.segments else None
    problems = label_problems(found, known=known)
    if problems:
        status = "empty_label" if "no labelled voxel" in problems[0] else "unknown_label"
        raise VolumeRejectedError(
            status, f"{'; '.join(problems)}, so that the volume has no labels"
        )
    return found


def _names(labels: LabelMap) -> tuple[tuple[int, str], ...]:
    present = set(np.unique(labels.volume.array).tolist())
    return tuple((s.value, s.name) for s in labels.segments if s.value in present)


def class_table(
    names: Sequence[tuple[int, str]], classes: Sequence[str], largest: int
) -> UInt8[np.ndarray, " n"]:
    """Return the class of every number of a label file; 255 where it is not known.

    Args:
        names: (number, name) of the file's labels.
        classes: of the store, background first.
        largest: number that occurs.
    """
    table = np.full(largest + 1, UNLABELLED, np.uint8)
    table[0] = 0
    for value, name in names:
        if value <= largest and name in classes:
            table[value] = classes.index(name)
    return table


def checksum(array: np.ndarray, *masks: np.ndarray) -> str:
    """Return a checksum of voxels and masks."""
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    for mask in masks:
        digest.update(np.packbits(mask).tobytes())
    return digest.hexdigest()[:32]
