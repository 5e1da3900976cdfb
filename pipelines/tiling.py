"""Dense prediction of images of any size in bounded memory: windows, overlap, blending.

Windows lie on one grid that covers the whole image. Every pixel is the weighted mean of all windows
over it, with weights that fall to zero at a window's edge, where it knows least. The image is
walked in strips of columns, and each strip from top to bottom, so memory depends on the window
and the strip but not on the image. Strips and batches only group the work: a pixel sums the same
windows in the same order whatever their sizes.

What comes out may be coarser than what goes in: a cell of several pixels gets one vector, and the
grid of windows is then counted in cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Shaped

from ..core.heads.sliding import window_starts

_T = TypeVar("_T")
Pixels = Shaped[np.ndarray, "c h w"]
Valid = Bool[np.ndarray, "h w"]
Read = Callable[[int, int, int, int], tuple[Pixels, Valid]]
Score = Callable[
    [Shaped[np.ndarray, "b c h w"], Bool[np.ndarray, "b h w"]], Float[np.ndarray, "b k p q"]
]


def blend_profile(window: int, overlap: int) -> Float[np.ndarray, " w"]:
    """Return the weight of a window's positions along one axis: squared sines at both ends.

    Squared sine and cosine sum to one, so regular neighbours share their overlap without a seam.
    """
    ramp = min(overlap, window // 2)
    profile = np.ones(window, np.float32)
    if ramp:
        rising = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / ramp) ** 2
        profile[:ramp] = rising
        profile[-ramp:] = np.minimum(profile[-ramp:], rising[::-1])
    return profile


@dataclass(frozen=True)
class Tiling:
    """Windows over an image, counted in cells: pixels, or groups of them that get one vector.

    Args:
        height: rows of cells.
        width: columns of cells.
        window: rows and columns of a window.
        overlap: cells that neighbours share, 0 to window - 1.
        cell: pixels per cell along rows and columns.
        min_valid: a cell with a smaller share of valid pixels has no data.
    """

    height: int
    width: int
    window: int
    overlap: int
    cell: tuple[int, int] = (1, 1)
    min_valid: float = 0.5

    @property
    def rows(self) -> tuple[int, ...]:
        """First row of each line of windows."""
        return window_starts(self.height, self.window, self.window - self.overlap)

    @property
    def cols(self) -> tuple[int, ...]:
        """First column of each window of a line."""
        return window_starts(self.width, self.window, self.window - self.overlap)

    def total_weight(self, starts: Sequence[int], length: int) -> Float[np.ndarray, " n"]:
        """Return the sum of blend weights along an axis.

        Windows form a product grid, so the sum over an image is the product of two of these.
        """
        profile = blend_profile(self.window, self.overlap)
        total = np.zeros(max(length, self.window), np.float32)
        for start in starts:
            total[start : start + self.window] += profile
        return total[:length]

    def strips(self, bytes_per_cell: int, budget: int) -> list[tuple[int, int]]:
        """Divide the columns so that a line of windows of one strip stays within memory.

        Args:
            bytes_per_cell: what one cell of a line of windows costs.
            budget: bytes for a line of windows; a strip is never narrower than two windows.

        Returns:
            Column ranges (first, end).
        """
        widest = max(budget // (bytes_per_cell * self.window), 2 * self.window)
        count = math.ceil(self.width / widest)
        edges = [round(i * self.width / count) for i in range(count + 1)]
        return list(pairwise(edges))

    def cols_of(self, strip: tuple[int, int]) -> list[int]:
        """Return the windows of a line that touch a strip."""
        return [c for c in self.cols if c < strip[1] and c + self.window > strip[0]]

    def cells_with_data(self, valid: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "p q"]:
        """Return which cells have data, from the validity of their pixels."""
        if self.cell == (1, 1):
            return valid
        high, wide = self.cell
        parts = valid.reshape(valid.shape[0] // high, high, valid.shape[1] // wide, wide)
        return parts.mean(axis=(1, 3), dtype=np.float32) >= np.float32(self.min_valid)


@dataclass(frozen=True)
class Line:
    """Finished rows of a strip.

    Args:
        row: first row in the image.
        col: first column in the image.
        scores: blended scores.
        valid: true where the input holds data; scores elsewhere mean nothing.
    """

    row: int
    col: int
    scores: Float[np.ndarray, "k h w"]
    valid: Bool[np.ndarray, "h w"]


def blend_strip(
    tiling: Tiling,
    strip: tuple[int, int],
    read: Read,
    score: Score,
    num_channels: int,
    batch_size: int,
) -> Iterator[Line]:
    """Yield a strip's rows from top to bottom, each once.

    Args:
        tiling: windows of the image.
        strip: columns (first, end), in cells.
        read: called as read(row, col, height, width), in pixels; windows may reach over the image's
            edge, where they are invalid.
        score: scores of the cells of a batch of windows.
        num_channels: channels that `score` returns.
        batch_size: windows per call; windows without data are skipped.
    """
    first, end = strip
    size, cols, rows = tiling.window, tiling.cols_of(strip), tiling.rows
    high, wide = tiling.cell
    left, width = cols[0], cols[-1] + size - cols[0]
    profile = blend_profile(size, tiling.overlap)
    weight = profile[:, None] * profile
    total_rows = tiling.total_weight(rows, tiling.height)
    total_cols = tiling.total_weight(tiling.cols, tiling.width)[first:end]
    inside = slice(first - left, end - left)
    blended = np.zeros((num_channels, size, width), np.float32)

    def read_line(row: int) -> tuple[Pixels, Valid]:
        return read(row * high, left * wide, size * high, width * wide)

    lines = _one_ahead(read_line, rows)
    for (pixels, valid), row, following in zip(
        lines, rows, (*rows[1:], tiling.height), strict=True
    ):
        known = tiling.cells_with_data(valid)
        starts = [c - left for c in cols if known[:, c - left : c - left + size].any()]
        for col, scores in _scored(pixels, valid, starts, tiling, score, batch_size):
            blended[:, :, col : col + size] += scores * weight
        done = min(following, tiling.height) - row
        total = total_rows[row : row + done, None] * total_cols
        yield Line(row, first, blended[:, :done, inside] / total, known[:done, inside])
        blended[:, : size - done] = blended[:, done:].copy()
        blended[:, size - done :] = 0.0


def _one_ahead(read: Callable[[int], _T], rows: Sequence[int]) -> Iterator[_T]:
    """Yield what is read for each row; the next one is read while this one is worked on."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, rows[0])
        for row in rows[1:]:
            now, coming = coming, pool.submit(read, row)
            yield now.result()
            del now
        yield coming.result()


def _scored(
    pixels: Pixels,
    valid: Valid,
    starts: Sequence[int],
    tiling: Tiling,
    score: Score,
    batch_size: int,
) -> Iterator[tuple[int, Float[np.ndarray, "k p q"]]]:
    """Yield (column, scores) of windows of a line from left to right."""
    wide = tiling.cell[1]
    side = tiling.window * wide
    for start in range(0, len(starts), batch_size):
        batch = starts[start : start + batch_size]
        images = np.stack([pixels[:, :, c * wide : c * wide + side] for c in batch])
        masks = np.stack([valid[:, c * wide : c * wide + side] for c in batch])
        yield from zip(batch, score(images, masks), strict=True)
