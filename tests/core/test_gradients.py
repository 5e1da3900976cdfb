"""Histograms of oriented gradients against their definition and scikit-image's gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mimkit.core.errors import UsageError
from mimkit.core.targets.gradients import (
    cells_to_tokens,
    hog,
    magnitude,
    sobel,
    sobel_convolved,
)


def test_sobel_equals_correlation_with_the_published_kernel() -> None:
    images = torch.randn(2, 3, 9, 7)
    for ours, published in zip(sobel(images), sobel_convolved(images), strict=True):
        torch.testing.assert_close(ours, published)


def test_gradients_across_a_mirrored_border_are_exactly_zero_but_for_the_published_ones() -> None:
    images = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    gx, gy = sobel(images)
    assert not gx[..., 0].any()
    assert not gy[..., 0, :].any()
    rounded = sobel_convolved(images)[1][..., 0, :]
    assert 0 < rounded.abs().max() < 1e-5


def test_volumes_have_three_gradients() -> None:
    ramp = torch.arange(6.0)[None, None, :, None, None].expand(1, 1, 6, 5, 4)
    gz, gy, gx = sobel(ramp)
    assert not gz.any()
    assert not gy.any()
    assert (gx[:, :, 1:-1] == -32).all(), "two steps apart, smoothed by 4 x 4"
    assert magnitude(ramp).shape == ramp.shape


def test_histogram_by_a_plain_loop() -> None:
    image = torch.randn(1, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    gx, gy = (g.numpy() for g in sobel(image))
    expected = np.zeros((2, 9, 2, 3))
    for c in range(2):
        for y in range(8):
            for x in range(12):
                angle = np.arctan2(gx[0, c, y, x], gy[0, c, y, x])
                k = int(np.floor(angle / np.pi * 9)) % 9
                expected[c, k, y // 4, x // 4] += np.hypot(gx[0, c, y, x], gy[0, c, y, x])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for average in (True, False):
        ours = hog(image, cell=4, average=average)[0].numpy()
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_constant_image_is_zero_and_others_have_norm_one() -> None:
    assert not hog(torch.ones(1, 3, 16, 16), cell=8).any()
    cells = hog(torch.randn(1, 3, 16, 16), cell=8, window=16)
    torch.testing.assert_close(cells.norm(dim=2), torch.ones(1, 3, 2, 2))


def test_unsigned_orientation_ignores_sign_and_scale() -> None:
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    cells = hog(image, cell=8)
    torch.testing.assert_close(hog(3 * image, cell=8), cells)
    close = torch.isclose(hog(-image, cell=8), cells, atol=1e-4).float().mean()
    assert close > 0.99, "only gradients on the border of two bins may move"


def test_cells_are_grouped_by_token_channel_slow() -> None:
    cells = torch.arange(2 * 3 * 4 * 6.0).reshape(1, 2, 3, 4, 6)
    tokens = cells_to_tokens(cells, (2, 3))
    expected = cells[0, :, :, 2:4, 2:4].flatten()
    assert tokens.shape == (1, 6, 24)
    assert tokens[0, 4].tolist() == expected.tolist()
    with pytest.raises(UsageError, match="divide"):
        cells_to_tokens(cells, (3, 3))


def test_sides_that_do_not_fit_are_explained() -> None:
    with pytest.raises(UsageError, match="multiples of the cell 8"):
        hog(torch.zeros(1, 1, 12, 16), cell=8)
    with pytest.raises(UsageError, match="2-D"):
        hog(torch.zeros(1, 1, 8, 8, 8), cell=8)
