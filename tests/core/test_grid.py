"""Grid, patchify and positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid, patchify, unpatchify
from mimkit.core.positions import resize, sincos

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@given(shapes, st.integers(1, 4), st.integers(1, 14))
def test_unpatchify_inverts_patchify(shape: list[int], patch: int, channels: int) -> None:
    grid = Grid(tuple(shape), (patch,) * len(shape), channels)
    images = torch.arange(2.0 * channels * np.prod(grid.image_size)).reshape(
        2, channels, *grid.image_size
    )
    patches = patchify(images, grid.patch)
    assert patches.shape == (2, grid.num_tokens, grid.patch_dim)
    assert torch.equal(unpatchify(patches, grid), images)


def test_order_inside_a_token_is_row_column_channel() -> None:
    images = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)
    token = patchify(images, (2, 3))[0, 1]
    expected = [images[0, c, r, 3 + k] for r in range(2) for k in range(3) for c in range(2)]
    assert token.tolist() == [float(v) for v in expected]


@pytest.mark.parametrize("size", [(30, 32), (32, 7), (0, 8)])
def test_a_size_that_is_no_multiple_says_what_would_be(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="not a multiple of the patch") as caught:
        Grid.for_image(size, 8, 3)
    assert caught.value.exit_code == 2
    assert "crop to" in str(caught.value)


def test_two_dimensional_table_has_columns_first() -> None:
    """Computed independently from the card: first half codes the column, second half the row."""
    table = sincos((3, 5), 16, num_prefix=1)
    assert not table[0].any()
    omega = 10000.0 ** (-np.arange(4) / 4)
    for row in range(3):
        for col in range(5):
            parts = [np.sin(col * omega), np.cos(col * omega), np.sin(row * omega)]
            code = np.concatenate([*parts, np.cos(row * omega)])
            np.testing.assert_allclose(table[1 + row * 5 + col], code, atol=1e-6)


def test_three_dimensional_table_has_six_parts_in_axis_order() -> None:
    table = sincos((2, 3, 4), 12).reshape(2, 3, 4, 12)
    omega = 10000.0 ** (-np.arange(2) / 2)
    h, w, d = 1, 2, 3
    parts = [f(x * omega) for x in (h, w, d) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(table[h, w, d], np.concatenate(parts), atol=1e-6)


@given(shapes, st.integers(1, 40))
def test_any_width_and_rank_has_a_finite_table(shape: list[int], dim: int) -> None:
    table = sincos(shape, dim)
    assert table.shape == (np.prod(shape), dim)
    assert table.isfinite().all()


def test_resize_keeps_prefix_and_constant_codes() -> None:
    table = torch.cat([torch.full((1, 4), 9.0), torch.full((6, 4), 2.0)])
    bigger = resize(table, (2, 3), (5, 4), num_prefix=1)
    assert bigger.shape == (21, 4)
    assert bigger[0].tolist() == [9.0] * 4
    torch.testing.assert_close(bigger[1:], torch.full((20, 4), 2.0))
    assert resize(table, (2, 3), (2, 3), num_prefix=1) is table
