"""A label map: a number for every voxel, and what the numbers mean."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from .errors import DataError
from .files import write_json
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

    def on(
        self, grid: VolumeGeometry, subject: object = "labels", *, part: bool = False
    ) -> LabelMap:
        """Return the labels on a grid that is the same up to the order and direction of axes.

        Nothing is interpolated; the result has exactly the geometry that was asked for.

        Args:
            grid: the grid.
            subject: what errors speak of.
            part: accept labels of a box inside the grid; the rest is background.

        Raises:
            DataError: when the two grids differ by more than `GRID_TOLERANCE`.
        """
        moved = self.volume.turned_like(grid) or self.volume
        if part:
            moved = _padded(moved, grid)
        if same_grid(moved.geometry, grid):
            return replace(self, volume=Volume(moved.array, grid))
        raise DataError(
            subject,
            f"lies on another grid ({describe(moved.geometry)}) than its volume ({describe(grid)})",
            "resample it with order 0, or find the volume it was drawn on",
        )

    def only(self, wanted: Sequence[str], subject: object = "labels") -> LabelMap:
        """Return some segments, numbered 1, 2, ... in the order asked for; all else is background.

        Raises:
            DataError: when there is no segment of a name, or several are.
        """
        chosen = pick(self.segments, wanted, subject)
        array = self.volume.array
        table = np.zeros(int(array.max()) + 1, np.min_scalar_type(len(wanted)))
        for value, segment in chosen.items():
            if value < len(table):
                table[value] = segment.value
        segments = sorted(chosen.values(), key=lambda segment: segment.value)
        return LabelMap(self.volume.with_array(table[array]), tuple(segments))


def _padded(volume: Volume, grid: VolumeGeometry) -> Volume:
    """Put labels of a box inside a grid into an empty map of it; others stay as they are."""
    start = np.rint(grid.voxel(np.asarray(volume.geometry.origin))).astype(int)
    end = start + volume.array.shape
    box = grid.crop(start.tolist(), volume.array.shape)
    if (start < 0).any() or (end > grid.shape).any() or not same_grid(box, volume.geometry):
        return volume
    array = np.zeros(grid.shape, volume.array.dtype)
    array[tuple(slice(a, b) for a, b in zip(start, end, strict=True))] = volume.array
    return Volume(array, grid)


class Painter:
    """Puts segments onto a grid one after the other; a voxel belongs to one of them at most.

    Args:
        grid: grid of the label map.
        subject: what errors speak of.
        largest: largest number that will be painted.
    """

    def __init__(self, grid: VolumeGeometry, subject: object, largest: int) -> None:
        self.grid, self.subject = grid, subject
        self.array = np.zeros(grid.shape, np.min_scalar_type(largest))
        self._segments: dict[int, Segment] = {}

    def add(self, segment: Segment) -> None:
        """Say what a number means, also when no voxel has it."""
        self._segments[segment.value] = segment

    def paint(
        self,
        place: tuple[slice | Int[np.ndarray, "..."], ...],
        mask: Bool[np.ndarray, "i j k"],
        segment: Segment,
    ) -> None:
        """Give a segment's number to voxels.

        Args:
            place: index of a part of the grid, for each axis a slice, or what `np.ix_` gives.
            mask: (i, j, k) of that part, True where the segment is.
            segment: the segment.

        Raises:
            DataError: where another segment is already.
        """
        self.add(segment)
        part = self.array[place]
        other = np.unique(part[mask & (part != segment.value)])
        if other[other > 0].size:
            names = self._segments[int(other[other > 0][0])].name, segment.name
            raise DataError(
                self.subject,
                f"its segments {names[0]!r} and {names[1]!r} overlap, and a voxel has one label",
                "read them one at a time with `segments=[NAME]`",
            )
        part[mask] = segment.value
        self.array[place] = part

    def result(self) -> LabelMap:
        """Return the label map."""
        segments = sorted(self._segments.values(), key=lambda segment: segment.value)
        return LabelMap(Volume(self.array, self.grid), tuple(segments))


def pick(
    available: Sequence[Segment], wanted: Sequence[str] | None, subject: object
) -> dict[int, Segment]:
    """Return the segments that are wanted, by the number they have in the file.

    Args:
        available: what a file holds.
        wanted: names, which get the numbers 1, 2, ... in this order; None takes all as they are.
        subject: what errors speak of.

    Raises:
        DataError: when there is no segment of a name, or several are.
    """
    if wanted is None:
        return {segment.value: segment for segment in available}
    chosen = {}
    for number, name in enumerate(wanted, 1):
        same = [segment for segment in available if segment.name == name]
        if len(same) != 1:
            have = ", ".join(dict.fromkeys(segment.name for segment in available)) or "none"
            count = "no segment" if not same else f"{len(same)} segments"
            raise DataError(subject, f"has {count} {name!r}", f"its segments are {have}")
        chosen[same[0].value] = replace(same[0], value=number)
    return chosen


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


NAMED_SUFFIXES = (".nii.gz", ".nii")


def names_file(path: Path) -> Path:
    """Return where names and colours of a NIfTI label map are: `NAME.labels.json` beside it."""
    lower = path.name.lower()
    length = next((len(s) for s in NAMED_SUFFIXES if lower.endswith(s)), 0)
    return path.with_name(f"{path.name[: len(lower) - length]}.labels.json")


def write_names(path: Path, segments: Sequence[Segment]) -> Path:
    """Write names and colours beside a NIfTI label map, and return that file."""
    table = {str(s.value): {"name": s.name, "colour": list(s.colour)} for s in segments}
    write_json(names_file(path), {"labels": table})
    return names_file(path)


def names_beside(path: Path) -> tuple[dict[int, str] | None, dict[int, Colour] | None]:
    """Return names and colours by number from the file beside a label map; None without one.

    Raises:
        DataError: when that file is damaged.
    """
    beside = names_file(path)
    if not beside.is_file():
        return None, None
    try:
        table = json.loads(beside.read_text("utf-8"))["labels"]
        names = {int(value): str(entry["name"]) for value, entry in table.items()}
        colours = {}
        for value, entry in table.items():
            red, green, blue = (int(c) for c in entry["colour"])
            colours[int(value)] = (red, green, blue)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"is no table of labels ({error})"
        raise DataError(beside, reason, "write it again, or remove it") from error
    return names, colours
