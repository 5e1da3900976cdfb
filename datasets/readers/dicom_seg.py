"""DICOM SEG: frames of masks, put where they lie on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from ..errors import DataError
from ..label_map import LabelMap, Painter, Segment, default_colour, pick
from ..volume_geometry import VolumeGeometry, flip_lps
from .dicom import MAX_FRAME_PIXELS, functional, numbers, parsing, read_dataset
from .volume_source import checked_shape

_OFF_GRID = 0.05
"""By which share of a voxel a mask may lie off the grid's voxels."""


@dataclass(frozen=True)
class _Mask:
    index: int
    segment: int | None  # None: the pixels hold segment numbers
    corner: Float64[np.ndarray, "3"]  # first pixel, mm in RAS+
    steps: Float64[np.ndarray, "3 2"]  # to the next column and the next row, mm in RAS+


def read_seg(
    path: Path, grid: VolumeGeometry | None = None, segments: Sequence[str] | None = None
) -> LabelMap:
    """Read a segmentation object: binary, fractional (from one half on) or label map.

    Args:
        path: SEG file.
        grid: grid of the volume that was segmented; without it the grid that the frames make.
        segments: names of the segments wanted; None takes all.

    Raises:
        DataError: when the file is damaged, its frames do not lie on the grid, or segments overlap.
    """
    data = read_dataset(path)
    with parsing(path):
        available = _segments(data)
        masks = _masks(path, data)
    chosen = pick(available, segments, path)
    grid = _own_grid(path, data, masks) if grid is None else grid
    painter = Painter(grid, path, max((s.value for s in chosen.values()), default=1))
    for segment in chosen.values():
        painter.add(segment)
    pixels = _Pixels(path, data)
    half = float(data.get("MaximumFractionalValue", 1)) / 2
    for mask in masks:
        if mask.segment is not None and mask.segment not in chosen:
            continue
        place, turned = _placed(path, grid, mask, pixels.frame(mask.index))
        values = [mask.segment] if mask.segment is not None else np.unique(turned).tolist()
        for value in values:
            if value not in chosen:
                continue
            inside = turned >= half if mask.segment is not None else turned == value
            if inside.any():
                painter.paint(place, inside, chosen[value])
    return painter.result()


def _segments(data: Any) -> list[Segment]:
    from highdicom.color import CIELabColor

    found = []
    for item in data.SegmentSequence:
        number = int(item.SegmentNumber)
        lab = item.get("RecommendedDisplayCIELabValue")
        colour = default_colour(number)
        if lab is not None:
            red, green, blue = CIELabColor.from_dicom_value(tuple(lab)).to_rgb()
            colour = (red, green, blue)
        if number > 0:  # a label map may describe its background as segment 0
            found.append(Segment(number, str(item.get("SegmentLabel") or number), colour))
    return found


def _masks(path: Path, data: Any) -> list[_Mask]:
    rows, columns, count = int(data.Rows), int(data.Columns), int(data.get("NumberOfFrames", 1))
    if rows < 1 or columns < 1 or rows * columns > MAX_FRAME_PIXELS:
        raise DataError(path, f"claims frames of {rows} x {columns} pixels", "its header is wrong")
    groups = data.PerFrameFunctionalGroupsSequence
    if len(groups) != count:
        reason = f"claims {count} frames and describes {len(groups)}"
        raise DataError(path, reason, "its header is wrong")
    shared = list(data.get("SharedFunctionalGroupsSequence") or [])
    is_map = str(data.get("SegmentationType")) == "LABELMAP"
    found = []
    for index, group in enumerate(groups):
        both = (group, *shared)
        place = functional(both, "PlanePositionSequence", "ImagePositionPatient")
        turn = functional(both, "PlaneOrientationSequence", "ImageOrientationPatient")
        size = functional(both, "PixelMeasuresSequence", "PixelSpacing")
        which = functional(both, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
        position = numbers(place, "ImagePositionPatient", 3)
        orientation = numbers(turn, "ImageOrientationPatient", 6)
        spacing = numbers(size, "PixelSpacing", 2)
        if position is None or orientation is None or spacing is None or min(spacing) <= 0:
            raise DataError(
                path, f"its frame {index} does not say where it lies", "export it again"
            )
        directions = np.reshape(orientation, (2, 3)).T * [spacing[1], spacing[0]]
        number = None if is_map else int(which.ReferencedSegmentNumber)
        corner = flip_lps(np.asarray(position))
        found.append(_Mask(index, number, corner, flip_lps(directions)))
    return found


def _own_grid(path: Path, data: Any, masks: Sequence[_Mask]) -> VolumeGeometry:
    """Return the grid that the frames make; slices without a frame are part of it."""
    if not masks:
        raise DataError(path, "has no frame", "give the grid of its volume")
    along, down = masks[0].steps.T
    normal = np.cross(along, down)
    normal /= np.linalg.norm(normal)
    corners = np.unique(np.round([mask.corner for mask in masks], 4), axis=0)
    corners = corners[np.argsort(corners @ normal)]
    heights = corners @ normal
    gaps = np.diff(heights)[np.diff(heights) > 1e-3]
    if not gaps.size:
        raise DataError(path, "has masks in one slice only", "give the grid of its volume")
    count = round(float((heights[-1] - heights[0]) / gaps.min())) + 1
    step = (corners[-1] - corners[0]) / (count - 1)
    affine = np.column_stack([along, down, step, corners[0]])
    shape = checked_shape(str(path), (int(data.Columns), int(data.Rows), count))
    return VolumeGeometry.from_affine(affine, shape)


class _Pixels:
    """The frames of a file, decoded one at a time.

    Uncompressed masks of one bit a pixel are unpacked here: a frame need not start at a byte.
    """

    def __init__(self, path: Path, data: Any) -> None:
        self._path, self._shape = path, (int(data.Rows), int(data.Columns))
        self._many = int(data.get("NumberOfFrames", 1)) > 1
        self._bits: np.ndarray | None = None
        packed = int(data.get("BitsAllocated", 8)) == 1
        with parsing(path):
            if packed and not data.file_meta.TransferSyntaxUID.is_encapsulated:
                content = read_dataset(path, tags=("PixelData",), pixels=True)
                self._bits = np.frombuffer(content.PixelData, np.uint8)

    def frame(self, index: int) -> Shaped[np.ndarray, "rows columns"]:
        """Return the stored numbers of a frame."""
        from pydicom.pixels.utils import pixel_array

        num_pixels = self._shape[0] * self._shape[1]
        if self._bits is None:
            with parsing(self._path):
                array = pixel_array(self._path, raw=True, index=index if self._many else None)
        else:
            first = index * num_pixels
            part = self._bits[first // 8 : -(-(first + num_pixels) // 8)]
            array = np.unpackbits(part, bitorder="little")[first % 8 :][:num_pixels]
        if array.size != num_pixels:
            reason = f"frame {index} has {array.size} pixels instead of {num_pixels}"
            raise DataError(self._path, reason, "it is cut off or damaged; copy it again")
        return array.reshape(self._shape)


def _placed(
    path: Path, grid: VolumeGeometry, mask: _Mask, pixels: Shaped[np.ndarray, "rows columns"]
) -> tuple[tuple[np.ndarray, ...], Shaped[np.ndarray, "i j k"]]:
    """Return the index of a frame's voxels in the grid, and its pixels turned to the grid's axes.

    Raises:
        DataError: when the pixels are no voxels of the grid.
    """
    start = grid.voxel(mask.corner)
    steps = np.stack([grid.voxel(mask.corner + mask.steps[:, i]) - start for i in (0, 1)], axis=1)
    counts = np.array(pixels.shape[::-1])  # columns, rows
    whole = np.rint(steps)
    first = np.rint(start)
    far = np.abs(first - start).max() + (np.abs(steps - whole) @ (counts - 1)).max()
    last = first + whole @ (counts - 1)
    proper = (np.abs(whole).sum(axis=0) == 1).all() and (np.abs(whole).sum(axis=1) <= 1).all()
    inside = (np.minimum(first, last) >= 0).all() and (np.maximum(first, last) < grid.shape).all()
    if not proper or far > _OFF_GRID or not inside:
        reason = f"its frame {mask.index} does not lie on the voxels of its volume"
        raise DataError(path, reason, "give the series that it was made on")
    axes = [int(np.argmax(np.abs(whole[:, i]))) for i in (0, 1)]
    depth = 3 - sum(axes)
    indices = [np.array([int(first[axis])]) for axis in range(3)]
    for i, axis in enumerate(axes):
        indices[axis] = int(first[axis]) + int(whole[axis, i]) * np.arange(counts[i])
    turned = pixels.T if axes[0] < axes[1] else pixels
    return np.ix_(*indices), np.expand_dims(turned, depth)
