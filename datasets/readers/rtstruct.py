"""RTSTRUCT: contours in the patient, filled on the grid of the volume they were drawn on.

Convention: a contour's points are positions in the patient, so that a point at a voxel's centre
has that voxel's index. A voxel belongs to a region when its centre lies inside by the even-odd rule
over all contours that the region has in the slice: an inner contour is a hole. A centre exactly on
an edge belongs to the side of growing index, so that regions that share an edge neither overlap nor
leave a gap. Slices between those with contours stay empty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Shaped

from ..errors import DataError
from ..label_map import Colour, LabelMap, Painter, Segment, default_colour, pick
from ..volume_geometry import VolumeGeometry, flip_lps
from .dicom import parsing, read_dataset

_AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_IN_SLICE = 0.25
"""How far, in slices, a contour's points may lie off one plane of the grid."""

Contours = list[Float64[np.ndarray, "points 2"]]


def read_rtstruct(
    path: Path, grid: VolumeGeometry, segments: Sequence[str] | None = None
) -> LabelMap:
    """Fill the contours of a structure set.

    Args:
        path: RTSTRUCT file.
        grid: grid of the volume that the contours were drawn on.
        segments: names of the regions wanted; None takes all that have an area.

    Returns:
        Labels with names and colours, numbered 1, 2, ... in the file's order or that of `segments`.

    Raises:
        DataError: when the file is damaged, contours lie outside the grid or not in its slices, or
            regions overlap.
    """
    data = read_dataset(path)
    with parsing(path):
        contours = _contours(path, data)
        regions = _regions(data, contours)
    chosen = pick(list(regions.values()), segments, path)
    painter = Painter(grid, path, max(len(chosen), 1))
    for number, region in regions.items():
        segment = chosen.get(region.value)
        if segment is None:
            continue
        painter.add(segment)
        for (axis, index), polygons in _by_slice(path, grid, segment, contours[number]).items():
            others = [n for i, n in enumerate(grid.shape) if i != axis]
            mask = filled(polygons, (others[0], others[1]))
            place = [slice(None)] * 3
            place[axis] = slice(index, index + 1)
            painter.paint(tuple(place), np.expand_dims(mask, axis), segment)
    return painter.result()


def _contours(path: Path, data: Any) -> dict[int, list[Float64[np.ndarray, "points 3"]]]:
    """Return the areas of each region, points in mm (RAS+)."""
    found: dict[int, list[np.ndarray]] = defaultdict(list)
    for region in data.get("ROIContourSequence") or []:
        number = int(region.ReferencedROINumber)
        for contour in region.get("ContourSequence") or []:
            if str(contour.ContourGeometricType) not in _AREAS:
                continue
            points = np.array([float(x) for x in contour.ContourData], np.float64)
            if points.size % 3 or points.size < 9 or not np.isfinite(points).all():
                reason = f"a contour of region {number} has {points.size} numbers"
                raise DataError(path, reason, "export the structures again")
            found[number].append(flip_lps(points.reshape(-1, 3).T).T)
    return found


def _regions(data: Any, with_area: Container[int]) -> dict[int, Segment]:
    """Return regions that have an area by ROI number, counted 1, 2, ... in the file's order."""
    colours: dict[int, Colour] = {}
    for region in data.get("ROIContourSequence") or []:
        if region.get("ROIDisplayColor"):
            red, green, blue = (int(c) for c in region.ROIDisplayColor)
            colours[int(region.ReferencedROINumber)] = (red, green, blue)
    found: dict[int, Segment] = {}
    for region in data.get("StructureSetROISequence") or []:
        number = int(region.ROINumber)
        if number in with_area:
            value = len(found) + 1
            name = str(region.get("ROIName") or f"region {number}")
            found[number] = Segment(value, name, colours.get(number) or default_colour(value))
    return found


def _by_slice(
    path: Path, grid: VolumeGeometry, segment: Segment, contours: Sequence[np.ndarray]
) -> dict[tuple[int, int], Contours]:
    """Return contours in voxel indices by (axis, index) of their slice."""
    found: dict[tuple[int, int], Contours] = defaultdict(list)
    for points in contours:
        places = grid.voxel(points)
        axis = int(np.argmin(np.ptp(places, axis=0)))
        index = round(float(np.median(places[:, axis])))
        if np.abs(places[:, axis] - index).max() > _IN_SLICE:
            reason = f"a contour of {segment.name!r} does not lie in a slice of its volume"
            raise DataError(path, reason, "give the series that the contours were drawn on")
        if not 0 <= index < grid.shape[axis]:
            reason = f"a contour of {segment.name!r} lies outside its volume (slice {index})"
            raise DataError(path, reason, "give the series that the contours were drawn on")
        found[axis, index].append(np.delete(places, axis, axis=1))
    return found


def filled(
    polygons: Sequence[Shaped[np.ndarray, "_ 2"]], shape: tuple[int, int]
) -> Bool[np.ndarray, "i j"]:
    """Return which integer points lie inside polygons by the even-odd rule over all of them.

    Args:
        polygons: corners as (i, j) indices, closed from the last to the first.
        shape: number of points along i and j.

    Returns:
        (i, j) bool; a point on an edge belongs to the side of growing index.
    """
    num_i, num_j = shape
    start = np.concatenate([np.asarray(corners, np.float64) for corners in polygons])
    end = np.concatenate([np.roll(corners, -1, axis=0) for corners in polygons])
    upward = (start[:, 0] <= end[:, 0])[:, None]
    low, high = np.where(upward, start, end), np.where(upward, end, start)
    # Rows of points from the lower end on and before the upper one, so that a corner counts once.
    first = np.clip(np.ceil(low[:, 0]), 0, num_i).astype(np.int64)
    counts = np.clip(np.ceil(high[:, 0]), 0, num_i).astype(np.int64) - first
    edges = np.repeat(np.arange(len(low)), counts)
    rows = first[edges] + np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = (rows - low[edges, 0]) / (high - low)[edges, 0]
    crossings = low[edges, 1] + share * (high - low)[edges, 1]
    toggles = np.zeros((num_i, num_j + 1), np.int64)
    np.add.at(toggles, (rows, np.clip(np.ceil(crossings), 0, num_j).astype(np.int64)), 1)
    return np.cumsum(toggles, axis=1)[:, :num_j] % 2 == 1
