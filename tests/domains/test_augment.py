"""Random views: what they may change, what moves together, and where the randomness comes from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mimkit.core.errors import UsageError
from mimkit.domains.imaging.augment import (
    AugmentConfig,
    View,
    draw,
    fit_size,
    random_view,
    step_generator,
    warp,
)

STILL = AugmentConfig(flip=False, rotate=False, min_area=1.0, max_ratio=1.0)


def images(num: int = 6, bands: int = 3, height: int = 16, width: int = 16) -> Tensor:
    return torch.randn(num, bands, height, width, generator=torch.Generator().manual_seed(0))


def view_of(given_images: Tensor, config: AugmentConfig, seed: int = 0, **more: Any) -> View:
    rows = torch.arange(len(given_images))
    generator = torch.Generator().manual_seed(seed)
    return random_view(View(given_images), rows, config, generator, **more)


def turned(image: Tensor) -> list[Tensor]:
    """Return the eight ways to turn and mirror an image."""
    quarter = [torch.rot90(image, k, (-2, -1)) for k in range(4)]
    return quarter + [t.flip(-1) for t in quarter]


def test_flips_and_rotations_reach_all_eight_positions_and_nothing_else() -> None:
    config = AugmentConfig(min_area=1.0, max_ratio=1.0)
    one = images(1)[0]
    seen = view_of(one.expand(200, -1, -1, -1), config).images
    counts = [sum(torch.allclose(t, s, atol=1e-4) for s in seen) for t in turned(one)]
    assert sum(counts) == 200
    assert min(counts) > 8


@pytest.mark.parametrize(("flip", "rotate", "ways"), [(True, False, 2), (False, True, 4)])
def test_flip_and_rotate_can_be_chosen(flip: bool, rotate: bool, ways: int) -> None:
    config = AugmentConfig(flip=flip, rotate=rotate, min_area=1.0, max_ratio=1.0)
    one = images(1)[0]
    seen = view_of(one.expand(100, -1, -1, -1), config).images
    hit = [any(torch.allclose(t, s, atol=1e-4) for s in seen) for t in turned(one)]
    assert sum(hit) == ways


def test_without_changes_the_very_same_pixels_come_back() -> None:
    given_images = images()
    assert view_of(given_images, STILL).images is given_images


@given(
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    size=st.tuples(st.integers(4, 48), st.integers(4, 48)),
    min_area=st.floats(0.05, 1.0),
    max_ratio=st.floats(1.0, 2.0),
    rotate=st.booleans(),
)
def test_crops_stay_inside_and_keep_their_shape(
    height, width, size, min_area, max_ratio, rotate
) -> None:
    """Images of their own coordinates show where each output pixel comes from."""
    config = AugmentConfig(rotate=rotate, min_area=min_area, max_ratio=max_ratio)
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    where = torch.stack([rows, cols]).float().expand(12, -1, -1, -1)
    seen = view_of(where, config, size=size).images
    assert seen.shape == (12, 2, *size)
    assert seen[:, 0].min() >= -1e-4
    assert seen[:, 1].min() >= -1e-4
    assert seen[:, 0].max() <= height - 1 + 1e-3
    assert seen[:, 1].max() <= width - 1 + 1e-3
    middle = seen[:, :, 1:-1, 1:-1]  # border pixels repeat beyond the centres of the outermost
    if min(middle.shape[-2:]) < 4:
        return
    down = (middle[:, :, 1:] - middle[:, :, :-1]).abs().amax(dim=(1, 2, 3))
    right = (middle[:, :, :, 1:] - middle[:, :, :, :-1]).abs().amax(dim=(1, 2, 3))
    assert (down / right).max() <= max_ratio * 1.01
    assert (right / down).max() <= max_ratio * 1.01
    share = down * right * size[0] * size[1] / (height * width)
    assert share.max() <= 1.01


def test_area_of_crops_is_spread_evenly() -> None:
    ramp = torch.linspace(0, 1, 64).expand(2000, 1, 64, 64)
    config = AugmentConfig(flip=False, rotate=False, min_area=0.25, max_ratio=1.0)
    seen = view_of(ramp, config).images[:, 0, 0]
    share = (((seen[:, -2] - seen[:, 1]) / 61) * 63).square()
    assert share.min() > 0.24
    assert share.max() < 1.01
    assert abs(float(share.mean()) - 0.625) < 0.02


@pytest.mark.parametrize("config", [STILL, AugmentConfig()])
@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_labels_are_taken_from_where_the_pixels_are(
    config: AugmentConfig, size: tuple[int, int]
) -> None:
    labels = torch.randint(0, 5, (6, 4, 4)).repeat_interleave(5, 1).repeat_interleave(5, 2)
    labels[0, :, :3] = 255
    where = View(labels.unsqueeze(1).float(), None, labels)
    generator = torch.Generator().manual_seed(2)
    seen = random_view(where, torch.arange(6), config, generator, size=size)
    assert seen.labels is not None
    assert seen.labels.dtype == torch.int64
    assert set(seen.labels.unique().tolist()) <= set(labels.unique().tolist())
    inner = (seen.images[:, 0] - seen.labels).abs() < 1e-3
    assert inner.float().mean() > 0.3  # away from edges interpolation changes nothing


def test_missing_pixels_do_not_touch_their_neighbours() -> None:
    """Interpolated by hand from the valid ones of the four nearest pixels, in float64."""
    valid = torch.rand(4, 9, 9, generator=torch.Generator().manual_seed(3)) > 0.4
    valid[0] = True
    given_images = images(4, 1, 9, 9).masked_fill(~valid.unsqueeze(1), 0.0)
    maps = np.array([[[0.5, 0, 0.2], [0, 0.7, -0.1]]]).repeat(4, axis=0)
    seen = warp(View(given_images, valid), maps, (5, 6))
    assert seen.valid is not None
    for i, row, col in np.ndindex(4, 5, 6):
        y = ((0.7 * ((2 * row + 1) / 5 - 1) - 0.1) + 1) * 4.5 - 0.5
        x = ((0.5 * ((2 * col + 1) / 6 - 1) + 0.2) + 1) * 4.5 - 0.5
        assert bool(seen.valid[i, row, col]) == bool(valid[i, round(y), round(x)])
        total = weights = 0.0
        for r, c in ((int(y) + a, int(x) + b) for a in (0, 1) for b in (0, 1)):
            weight = (1 - abs(y - r)) * (1 - abs(x - c)) * bool(valid[i, r, c])
            weights += weight
            total += weight * float(given_images[i, 0, r, c])
        expected = total / weights if seen.valid[i, row, col] else 0.0
        assert float(seen.images[i, 0, row, col]) == pytest.approx(expected, abs=1e-5)


def test_the_mask_of_other_images_changes_no_bit() -> None:
    valid = torch.ones(3, 16, 16, dtype=torch.bool)
    valid[1, :8] = False
    generator = torch.Generator().manual_seed(4)
    seen = random_view(View(images(3), valid), torch.arange(3), AugmentConfig(), generator)
    whole = view_of(images(3), AugmentConfig(), seed=4)
    assert torch.equal(seen.images[[0, 2]], whole.images[[0, 2]])


def test_one_generator_state_gives_one_view_per_row_in_any_batch() -> None:
    given_images = images(8)
    config = AugmentConfig(gain=0.2, band_gain=0.1, offset=0.1, band_dropout=0.3)
    rows = torch.tensor([9, 3, 4, 1, 0, 7, 6, 2**40])
    whole = random_view(View(given_images), rows, config, step_generator(1, 2, 3))
    for part in (slice(0, 3), slice(3, 8)):
        some = random_view(View(given_images[part]), rows[part], config, step_generator(1, 2, 3))
        assert torch.equal(some.images, whole.images[part])


@pytest.mark.parametrize("other", [(2, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3)])
def test_seed_epoch_and_step_all_count(other: tuple[int, int, int]) -> None:
    rows = torch.arange(4)
    first = draw(step_generator(1, 2, 3), rows, 8)
    assert np.array_equal(first, draw(step_generator(1, 2, 3), rows, 8))
    assert not np.isclose(first, draw(step_generator(*other), rows, 8)).any()


def test_draws_are_uniform_and_unrelated() -> None:
    numbers = draw(step_generator(0, 0, 0), torch.arange(20_000), 6)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.stack([np.histogram(c, 20, (0, 1))[0] for c in numbers.T])
    assert np.abs(counts - 1000).max() < 160  # five standard deviations
    related = np.corrcoef(numbers.T) - np.eye(6)
    assert np.abs(related).max() < 0.04
    neighbours = np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]
    assert abs(neighbours) < 0.04


def test_gain_leaves_physical_darkness_alone() -> None:
    zero = (-1.5, -0.5, 0.25)
    dark = torch.tensor(zero).reshape(1, 3, 1, 1).expand(5, 3, 8, 8).contiguous()
    config = AugmentConfig(
        flip=False, rotate=False, min_area=1.0, max_ratio=1.0, gain=0.3, band_gain=0.2
    )
    assert torch.allclose(view_of(dark, config, zero=zero).images, dark, atol=1e-6)
    bright = images(5, height=8, width=8)
    seen = view_of(bright, config, zero=zero).images
    factor = (seen - dark) / (bright - dark)
    spread = factor.amax(dim=(2, 3)) - factor.amin(dim=(2, 3))
    assert spread.max() < 1e-2
    assert factor.mean(dim=(2, 3)).min() > 0.7 * 0.8 - 1e-3
    assert factor.mean(dim=(2, 3)).max() < 1.3 * 1.2 + 1e-3
    assert factor.mean(dim=(2, 3)).std() > 0.05


def test_offset_moves_all_bands_together_and_not_the_missing_pixels() -> None:
    valid = torch.ones(5, 16, 16, dtype=torch.bool)
    valid[:, :4] = False
    given_images = images(5).masked_fill(~valid.unsqueeze(1), 0.0)
    config = AugmentConfig(flip=False, rotate=False, min_area=1.0, max_ratio=1.0, offset=0.5)
    generator = torch.Generator().manual_seed(0)
    seen = random_view(View(given_images, valid), torch.arange(5), config, generator)
    moved = seen.images - given_images
    assert bool((moved[:, :, :4] == 0).all())
    assert torch.allclose(moved[:, :1, 4:].expand(-1, 3, -1, -1), moved[:, :, 4:], atol=1e-5)
    assert 0.1 < moved.abs().max() <= 0.5 + 1e-5


@pytest.mark.parametrize("rate", [0.3, 0.99])
def test_dropped_bands_are_blank_and_one_stays(rate: float) -> None:
    config = AugmentConfig(flip=False, rotate=False, min_area=1.0, max_ratio=1.0, band_dropout=rate)
    given_images = images(400, height=4, width=4)
    seen = view_of(given_images, config).images
    blank = (seen == 0).flatten(2).all(dim=2)
    assert not bool(blank.all(dim=1).any())
    assert torch.equal(seen[~blank], given_images[~blank])
    expected = (3 * rate - rate**3) / 3
    assert abs(float(blank.float().mean()) - expected) < 0.05


def test_evaluation_resizes_the_centre() -> None:
    ramp = torch.arange(24.0).expand(2, 1, 12, 24)
    labels = torch.arange(24).expand(2, 12, 24)
    seen = fit_size(View(ramp, None, labels), (6, 6))
    assert torch.allclose(seen.images[0, 0, 0], torch.arange(6.5, 18, 2))  # columns 6 to 17
    assert seen.labels is not None
    assert set(seen.labels.unique().tolist()) <= set(range(6, 18))
    same = View(ramp)
    assert fit_size(same, (12, 24)) is same
    assert fit_size(same, None) is same


def test_identity_map_is_exact() -> None:
    given_images = images(2)
    maps = np.eye(2, 3)[None].repeat(2, axis=0)
    assert torch.allclose(warp(View(given_images), maps, (16, 16)).images, given_images, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("min_area", 0.0), ("max_ratio", 0.5), ("gain", 1.0), ("band_dropout", float("nan"))],
)
def test_wrong_numbers_name_the_field(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"augment.{field}: is {value}"):
        replace(AugmentConfig(), **{field: value})
