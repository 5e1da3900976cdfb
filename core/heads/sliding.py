"""Dense prediction of volumes of any size in bounded memory: sliding windows, Gaussian weights.

The weighted mean of all windows over a voxel, as MONAI's `sliding_window_inference` computes it
with mode "gaussian", but never for the whole volume at once: windows are walked along the first
axis, and what no later window touches is handed on as a slab. Memory depends on the window and the
other axes; where even one line of windows is too much it is walked in strips, which compute the
windows on their borders twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from math import ceil, prod

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from ..errors import UsageError

Place = tuple[int, ...]
Read = Callable[[Place], Shaped[Tensor, "c *w"]]
Score = Callable[[Shaped[Tensor, "b c *w"]], Float[Tensor, "b k *w"]]

SIGMA = 0.125
"""Deviation of the Gaussian weight as a share of the window, MONAI's and nnU-Net's."""


def window_starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    """Return where windows start along an axis; the last one ends with the axis.

    An axis shorter than the window has one window, which reaches over the edge.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride {stride} must lie between 1 and the window {window}")
    last = max(length - window, 0)
    return (*range(0, last, stride), last)


@dataclass(frozen=True)
class Windows:
    """Windows over a volume (or image) of any rank.

    A volume that is smaller than a window is padded on both sides.

    Args:
        shape: voxels per axis of the volume.
        size: voxels per axis of a window.
        overlap: share of a window that neighbours have in common, 0 to below 1.
    """

    shape: tuple[int, ...]
    size: tuple[int, ...]
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.size) or len(self.size) < 2 or min(self.size) < 1:
            reason = f"do not fit a volume of {self.shape}"
            raise UsageError(f"windows of {self.size}", reason, "give a length for each axis")
        if not 0 <= self.overlap < 1:
            raise UsageError(f"overlap {self.overlap}", "is no share", "use 0 to 0.9, such as 0.5")

    @cached_property
    def padded(self) -> tuple[int, ...]:
        """Voxels per axis after padding."""
        return tuple(max(n, w) for n, w in zip(self.shape, self.size, strict=True))

    @cached_property
    def before(self) -> tuple[int, ...]:
        """Voxels of padding in front of each axis."""
        return tuple((p - n) // 2 for p, n in zip(self.padded, self.shape, strict=True))

    @cached_property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """Where windows start along each axis of the padded volume."""
        strides = (max(int(w * (1 - self.overlap)), 1) for w in self.size)
        return tuple(map(window_starts, self.padded, self.size, strides))

    @property
    def num_windows(self) -> int:
        """Windows in all."""
        return prod(map(len, self.starts))

    def strips(self, num_channels: int, budget: int | None) -> list[tuple[int, int]]:
        """Divide the second axis so that the sums of a line of windows stay within memory.

        Args:
            num_channels: channels of the result.
            budget: bytes; a strip is never narrower than two windows. None for one strip.
        """
        cell = 4 * (num_channels + 1) * self.size[0] * prod(self.padded[2:])
        length = self.padded[1]
        widest = length if budget is None else max(budget // cell, 2 * self.size[1])
        count = ceil(length / widest)
        edges = [round(i * length / count) for i in range(count + 1)]
        return list(pairwise(edges))

    def cut(
        self, volume: Shaped[Tensor, "c *s"], place: Place, fill: float = 0.0
    ) -> Shaped[Tensor, "c *w"]:
        """Return the window at a place of the padded volume; `fill` is in the padding."""
        low = [a - b for a, b in zip(place, self.before, strict=True)]
        sides = list(zip(low, self.size, self.shape, strict=True))
        inside = tuple(slice(max(a, 0), min(a + w, n)) for a, w, n in sides)
        part = volume[(slice(None), *inside)]
        if part.shape[1:] == self.size:
            return part
        whole = part.new_full((len(part), *self.size), fill)
        spots = (slice(s.start - a, s.stop - a) for s, a in zip(inside, low, strict=True))
        whole[(slice(None), *spots)] = part
        return whole


@dataclass(frozen=True)
class Slab:
    """A finished part of the volume; its tensors are reused when the next one is asked for.

    Args:
        place: part of the volume.
        sums: weighted sums of scores.
        weight: sums of weights; zero where every window was skipped.
    """

    place: tuple[slice, ...]
    sums: Float[Tensor, "k *s"]
    weight: Float[Tensor, "*s"]

    def scores(self) -> Float[Tensor, "k *s"]:
        """Return mean scores; zero where no window was computed."""
        return self.sums / self.weight.clamp_min(torch.finfo(self.weight.dtype).tiny)

    def winners(self) -> UInt8[Tensor, "*s"]:
        """Return the class with the largest score, the first of equals.

        Weights are positive, so sums have the same winner as means; where no window was computed
        it is class 0. Slices are compared class by class, which needs no copy of the scores.
        """
        out = torch.zeros(self.weight.shape, dtype=torch.uint8, device=self.weight.device)
        for here, sums in zip(out, self.sums.movedim(0, 1).unbind(), strict=True):
            best = sums[0].clone()
            for number, other in enumerate(sums[1:], start=1):
                here[other > best] = number
                torch.maximum(best, other, out=best)
        return out


def gaussian_weight(size: Sequence[int], device: torch.device | str) -> Float[Tensor, "*w"]:
    """Return the weight of each voxel of a window, MONAI's importance map: at least 0.001."""
    from monai.data.utils import compute_importance_map

    return compute_importance_map(tuple(size), "gaussian", SIGMA, torch.device(device))


def slide(
    windows: Windows,
    read: Read,
    score: Score,
    num_channels: int,
    *,
    batch_size: int = 1,
    skip: Callable[[Shaped[Tensor, "c *w"]], bool] | None = None,
    budget: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Slab]:
    """Yield the parts of a volume, each voxel once.

    Args:
        windows: where windows lie.
        read: returns the window at a place of the padded volume; see `Windows.cut`.
        score: scores of a batch of windows, on `device`.
        num_channels: channels that `score` returns.
        batch_size: windows per call; changes results by rounding only.
        skip: true for windows that are not worth computing, such as pure air.
        budget: bytes for the sums of a line of windows, see `Windows.strips`.
        device: where sums are kept.
    """
    weight = gaussian_weight(windows.size, device)
    for strip in windows.strips(num_channels, budget):
        walk = _Strip(windows, strip, weight, num_channels)
        ends = (*windows.starts[0][1:], windows.padded[0])
        for row, end in zip(windows.starts[0], ends, strict=True):
            places = walk.places(row)
            for first in range(0, len(places), batch_size):
                given = [(place, read(place)) for place in places[first : first + batch_size]]
                given = [(p, x) for p, x in given if skip is None or not skip(x)]
                if given:
                    found = score(torch.stack([x for _, x in given]))
                    for (place, _), scores in zip(given, found, strict=True):
                        walk.add(place, scores)
            slab = walk.finished(end)
            if slab is not None:
                yield slab
            walk.go_on(end)


class _Strip:
    """Sums of one line of windows of a strip, from axis-0 position `self.row` on."""

    def __init__(
        self, windows: Windows, strip: tuple[int, int], weight: Tensor, num_channels: int
    ) -> None:
        self.windows, self.strip, self.weight = windows, strip, weight
        side = windows.size[1]
        self.cols = [a for a in windows.starts[1] if a < strip[1] and a + side > strip[0]]
        width = self.cols[-1] + side - self.cols[0]
        shape = (windows.size[0], width, *windows.padded[2:])
        self.corner: Place = (0, self.cols[0], *(0,) * (len(shape) - 2))
        self.sums = weight.new_zeros(num_channels, *shape)
        self.total = weight.new_zeros(shape)

    def places(self, row: int) -> list[Place]:
        """Return the windows of a line that touch the strip, which starts there from now on."""
        self.corner = (row, *self.corner[1:])
        return list(product((row,), self.cols, *self.windows.starts[2:]))

    def add(self, place: Place, scores: Float[Tensor, "k *w"]) -> None:
        """Add the scores of a window."""
        sides = zip(place, self.corner, self.windows.size, strict=True)
        box = tuple(slice(a - c, a - c + w) for a, c, w in sides)
        self.sums[(slice(None), *box)].addcmul_(scores, self.weight)
        self.total[box] += self.weight

    def finished(self, end: int) -> Slab | None:
        """Return what lies before a position of axis 0, without strips' borders and padding."""
        windows = self.windows
        ranges = [(self.corner[0], end), self.strip, *((0, n) for n in windows.padded[2:])]
        sides = list(zip(ranges, windows.before, windows.shape, self.corner, strict=True))
        inside = [(max(lo, b), min(hi, b + n)) for (lo, hi), b, n, _ in sides]
        if any(lo >= hi for lo, hi in inside):
            return None
        box = tuple(slice(lo - s[3], hi - s[3]) for (lo, hi), s in zip(inside, sides, strict=True))
        place = tuple(
            slice(lo - s[1], hi - s[1]) for (lo, hi), s in zip(inside, sides, strict=True)
        )
        return Slab(place, self.sums[(slice(None), *box)], self.total[box])

    def go_on(self, end: int) -> None:
        """Move the rest to the front, in pieces that do not overlap, so that nothing is copied."""
        done, depth = end - self.corner[0], self.windows.size[0]
        for sums in (self.total, self.sums.movedim(0, 1)):
            for start in range(0, depth - done, done):
                piece = sums[start + done : min(start + 2 * done, depth)]
                sums[start : start + len(piece)] = piece
            sums[max(depth - done, 0) :] = 0
