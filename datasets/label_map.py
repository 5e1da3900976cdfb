"""A label map: a number for every voxel, and what the numbers mean."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .errors import DataError
from .volume_geometry import VolumeGeometry
from .volumes import Volume

Colour = tuple[int, int, int]

GRID_TOLERANCE = 0.01
"""By which share of the smallest spacing two grids may differ and count as the same.

Affines of NIfTI are float32 and text formats round, so that equal grids differ in the last digits.
"""


@dataclass(frozen=True)
class Segment:
    """What one number of a label map means.

    Attributes:
        value: the number, at least 1; 0 is background.
        name: what it is, such as "liver".
        colour: red, green and blue, 0 to 255.
    """

    value: int
    name: str
    colour: Colour


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels of a volume.

    Attributes:
        volume: integers; 0 is background.
        segments: what the numbers mean, sorted by number; numbers without a segment may occur.
    """

    volume: Volume
    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if self.volume.array.dtype.kind not in "iub":
            raise ValueError(f"labels of type {self.volume.array.dtype} instead of integers")
        if len({segment.value for segment in self.segments}) < len(self.segments):
            raise ValueError("two segments have one number")

    @property
    def geometry(self) -> VolumeGeometry:
        """Position and size."""
        return self.volume.geometry

    @property
    def names(self) -> dict[int, str]:
        """Names by number."""
        return {segment.value: segment.name for segment in self.segments}

    def on(self, grid: VolumeGeometry, subject: object = "labels") -> LabelMap:
        """Return the labels on a grid that is the same up to the order and direction of axes.

        Nothing is interpolated; the result has exactly the geometry that was asked for.

        Raises:
            DataError: when the two grids differ by more than `GRID_TOLERANCE`.
        """
        moved = self.volume.reoriented(grid.codes)
        if same_grid(moved.geometry, grid):
            return replace(self, volume=Volume(moved.array, grid))
        raise DataError(
            subject,
            f"lies on another grid ({describe(moved.geometry)}) than its volume ({describe(grid)})",
            "resample it with order 0, or find the volume it was drawn on",
        )


def same_grid(one: VolumeGeometry, other: VolumeGeometry) -> bool:
    """Return whether two grids agree within `GRID_TOLERANCE`, axes in the same order."""
    return one.distance(other) <= GRID_TOLERANCE * min(one.spacing)


def describe(geometry: VolumeGeometry) -> str:
    """Return a grid in a few words: size, spacing, orientation, centre of the first voxel."""
    size = " x ".join(map(str, geometry.shape))
    step = " x ".join(f"{x:.4g}" for x in geometry.spacing)
    origin = ", ".join(f"{x:.2f}" for x in geometry.origin)
    return f"{size} voxels of {step} mm, {geometry.codes} from ({origin})"


def segments_of(
    labels: np.ndarray,
    names: Mapping[int, str] | None = None,
    colours: Mapping[int, Colour] | None = None,
) -> tuple[Segment, ...]:
    """Return a segment for every number that is named, or without names that occurs.

    Colours that are not given differ from each other and are the same on every machine.
    """
    values = sorted(names) if names is not None else [int(v) for v in np.unique(labels) if v]
    return tuple(
        Segment(
            value,
            (names or {}).get(value, f"label {value}"),
            (colours or {}).get(value) or default_colour(value),
        )
        for value in values
        if value != 0
    )


def default_colour(value: int) -> Colour:
    """Return a colour for a number: hues a golden ratio apart, so that neighbours differ."""
    hue = value * 0.618033988749895 % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75 if value % 2 else 0.5, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def label_problems(
    labels: LabelMap, grid: VolumeGeometry | None = None, known: Sequence[int] | None = None
) -> tuple[str, ...]:
    """Return what is wrong with labels: nothing labelled, unknown numbers, another grid."""
    problems = []
    values = [int(value) for value in np.unique(labels.volume.array)]
    if values in ([], [0]):
        problems.append("it has no labelled voxel")
    unknown = [] if known is None else sorted(set(values) - set(known) - {0})
    if unknown:
        text = ", ".join(map(str, unknown[:10]))
        problems.append(f"it holds unknown labels {text}{' ...' if len(unknown) > 10 else ''}")
    if grid is not None:
        try:
            labels.on(grid)
        except DataError as error:
            problems.append(error.reason)
    return tuple(problems)
