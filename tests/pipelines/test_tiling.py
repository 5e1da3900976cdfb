"""Windows over an image: every pixel once, the blend as written down, whatever the grouping."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimkit.core.heads.sliding import window_starts
from mimkit.pipelines.tiling import Line, Read, Tiling, blend_profile, blend_strip


def image(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    pixels = random.normal(size=(2, height, width)).astype(np.float32)
    return pixels, random.random((height, width)) > 0.3


def window_of(array: np.ndarray, row: int, col: int, height: int, width: int) -> np.ndarray:
    """Return a part of the last two axes; zeros beyond the edges."""
    out = np.zeros((*array.shape[:-2], height, width), array.dtype)
    part = array[..., row : row + height, col : col + width]
    out[..., : part.shape[-2], : part.shape[-1]] = part
    return out


def reader(pixels: np.ndarray, valid: np.ndarray) -> Read:
    return lambda *window: (window_of(pixels, *window), window_of(valid, *window))


def position_score(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Score pixels by their value and their place in the window, so that the blend matters."""
    side = pixels.shape[-1]
    ramp = np.arange(side, dtype=np.float32) / side
    first = np.where(valid, pixels.sum(axis=1), 0) + ramp
    second = np.where(valid, pixels[:, 0], 0) * ramp[:, None]
    return np.stack([first, second, ramp * np.ones_like(first)], axis=1)


def blended(
    pixels: np.ndarray,
    valid: np.ndarray,
    tiling: Tiling,
    strips: list[tuple[int, int]],
    batch_size: int = 3,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, validity and how often each cell was written."""

    scores = np.full((3, tiling.height, tiling.width), np.nan, np.float32)
    known = np.zeros((tiling.height, tiling.width), bool)
    written = np.zeros((tiling.height, tiling.width), int)

    def put(line: Line) -> None:
        rows = slice(line.row, line.row + line.scores.shape[1])
        cols = slice(line.col, line.col + line.scores.shape[2])
        scores[:, rows, cols], known[rows, cols] = line.scores, line.valid
        written[rows, cols] += 1

    for strip in strips:
        for line in blend_strip(
            tiling, strip, reader(pixels, valid), position_score, 3, batch_size
        ):
            put(line)
    return scores, known, written


def direct(pixels: np.ndarray, valid: np.ndarray, tiling: Tiling) -> np.ndarray:
    """Return the weighted mean over all windows, computed for the whole image at once."""
    side = tiling.window
    profile = blend_profile(side, tiling.overlap).astype(np.float64)
    shape = (max(tiling.height, side), max(tiling.width, side))
    total, weight = np.zeros((3, *shape)), np.zeros(shape)
    for row in tiling.rows:
        for col in tiling.cols:
            part = window_of(pixels, row, col, side, side)[None]
            mask = window_of(valid, row, col, side, side)[None]
            place = slice(row, row + side), slice(col, col + side)
            total[:, *place] += position_score(part, mask)[0] * np.outer(profile, profile)
            weight[place] += np.outer(profile, profile)
    return (total / weight)[:, : tiling.height, : tiling.width]


@given(length=st.integers(1, 300), window=st.integers(1, 64), data=st.data())
def test_windows_cover_an_axis_and_end_with_it(length: int, window: int, data) -> None:
    stride = data.draw(st.integers(1, window))
    starts = window_starts(length, window, stride)
    assert starts[0] == 0
    assert starts[-1] == max(length - window, 0)
    assert all(0 < after - before <= stride for before, after in pairwise(starts))


@pytest.mark.parametrize("stride", [0, 9])
def test_a_stride_that_leaves_gaps_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match="must lie between 1 and the window 8"):
        window_starts(20, 8, stride)


@pytest.mark.parametrize(("window", "overlap"), [(8, 0), (8, 2), (8, 4), (8, 6), (9, 5)])
def test_weights_are_positive_and_neighbours_share_without_a_seam(
    window: int, overlap: int
) -> None:
    profile = blend_profile(window, overlap)
    assert profile.min() > 0
    np.testing.assert_allclose(profile, profile[::-1], rtol=1e-6)
    if 2 * overlap <= window:
        inside = Tiling(10 * window, window, window, overlap).total_weight(
            range(0, 9 * window, window - overlap), 10 * window
        )[overlap : 8 * window]
        np.testing.assert_allclose(inside, 1.0, rtol=1e-5)


@pytest.mark.parametrize("size", [(40, 53), (16, 16), (5, 7), (7, 40), (17, 16)])
@pytest.mark.parametrize("overlap", [0, 4, 12])
def test_the_blend_equals_a_direct_computation(size: tuple[int, int], overlap: int) -> None:
    pixels, valid = image(*size)
    tiling = Tiling(*size, window=16, overlap=overlap)
    scores, known, written = blended(pixels, valid, tiling, [(0, size[1])])
    np.testing.assert_array_equal(known, valid)
    np.testing.assert_array_equal(written, 1)
    np.testing.assert_allclose(
        scores[:, valid], direct(pixels, valid, tiling)[:, valid], rtol=1e-4, atol=1e-5
    )


@given(cuts=st.sets(st.integers(1, 69), max_size=4), batch_size=st.integers(1, 9))
def test_strips_and_batches_change_nothing(cuts: set[int], batch_size: int) -> None:
    pixels, valid = image(33, 70)
    tiling = Tiling(33, 70, window=16, overlap=4)
    whole = blended(pixels, valid, tiling, [(0, 70)])
    edges = [0, *sorted(cuts), 70]
    parts = blended(pixels, valid, tiling, list(pairwise(edges)), batch_size)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_windows_without_data_are_never_scored() -> None:
    pixels, valid = image(64, 64)
    valid[:, 20:] = False
    seen = []

    def score(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
        seen.extend(bool(mask.any()) for mask in masks)
        return position_score(images, masks)

    tiling = Tiling(64, 64, window=16, overlap=0)
    lines = list(blend_strip(tiling, (0, 64), reader(pixels, valid), score, 3, 4))
    assert seen == [True] * 8
    assert len(lines) == 4


@given(width=st.integers(1, 5000), window=st.integers(1, 64), budget=st.integers(1, 10**6))
def test_strips_divide_the_width_and_fit_the_memory(width: int, window: int, budget: int) -> None:
    tiling = Tiling(10, width, window, 0)
    strips = tiling.strips(100, budget)
    assert [start for start, _ in strips] == [0, *(end for _, end in strips)][:-1]
    assert strips[-1][1] == width
    for start, end in strips:
        assert end > start
        assert (end - start - 1) * window * 100 <= budget or end - start <= 2 * window


def test_cells_of_several_pixels_get_one_vector() -> None:
    pixels, valid = image(24, 40)
    valid[:4, :2] = True
    tiling = Tiling(6, 20, window=3, overlap=1, cell=(4, 2), min_valid=0.7)

    def score(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
        assert images.shape[1:] == (2, 12, 6)
        filled = np.where(masks[:, None], images, 0)
        cells = filled.reshape(-1, 2, 3, 4, 3, 2).mean(axis=(3, 5))
        return np.concatenate([cells, cells[:, :1]], axis=1)

    lines = list(blend_strip(tiling, (0, 20), reader(pixels, valid), score, 3, 2))
    got = np.concatenate([line.scores for line in lines], axis=1)
    known = np.concatenate([line.valid for line in lines])
    share = valid.reshape(6, 4, 20, 2).mean(axis=(1, 3))
    np.testing.assert_array_equal(known, share >= 0.7)
    assert 0 < known.sum() < known.size
    wanted = np.where(valid, pixels, 0).reshape(2, 6, 4, 20, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(got[:2, known], wanted[:, known], rtol=1e-4, atol=1e-5)


def test_the_first_broken_window_ends_it() -> None:
    def read(row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        if row > 20:
            raise OSError("the file ends here")
        return np.ones((2, height, width), np.float32), np.ones((height, width), bool)

    lines = blend_strip(Tiling(64, 16, 16, 0), (0, 16), read, position_score, 3, 1)
    assert next(lines).row == 0
    assert next(lines).row == 16
    with pytest.raises(OSError, match="ends here"):
        next(lines)
