"""Reconstruction beside inpainting: who knows what, and what is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mimkit.core.batch import Batch
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid
from mimkit.core.method import Method
from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig, SelectiveMAEConfig, build
from mimkit.pipelines.inpaint import biharmonic, score_reconstruction

ENCODER = EncoderConfig(embed_dim=24, depth=1, num_heads=2, patch_size=4)
DECODER = DecoderConfig(dim=16, depth=1, num_heads=2)
SIZE = 24


def method(norm_pix: bool = False, *, selective: bool = False) -> Method:
    torch.manual_seed(0)
    kind = SelectiveMAEConfig if selective else MAEConfig
    config = kind(encoder=ENCODER, decoder=DECODER, norm_pix=norm_pix, mask_ratio=0.5)
    return build(config, Grid.for_image((SIZE, SIZE), 4, 2)).eval()


def constant(made: Method, value: float) -> Method:
    """Let a method predict one value everywhere."""
    last = cast("nn.Linear", made.get_submodule("heads.pixels.predictor.head"))
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, value)
    return made


def ramps(num: int = 3) -> Tensor:
    """Return images that rise linearly, which interpolation knows how to fill."""
    line = torch.linspace(-1, 1, SIZE)
    slopes = torch.arange(1, num + 1).float()
    rise = slopes[:, None, None] * (line[:, None] + 0.5 * line[None])
    return torch.stack([rise, 0.5 - rise], dim=1)


def batches(images: Tensor, valid: Tensor | None = None, size: int = 8) -> list[Batch]:
    rows = torch.arange(len(images))
    parts = None if valid is None else valid.split(size)
    return [
        Batch(part, None if parts is None else parts[i], ids)
        for i, (part, ids) in enumerate(zip(images.split(size), rows.split(size), strict=True))
    ]


def test_inpainting_keeps_what_is_known_and_continues_a_ramp() -> None:
    image = ramps(1)[0].numpy().astype(np.float64)
    known = np.ones((SIZE, SIZE), dtype=np.bool_)
    known[8:16, 8:16] = False
    filled = biharmonic(np.where(known, image, 0.0), known)
    np.testing.assert_array_equal(filled[:, known], image[:, known])
    np.testing.assert_allclose(filled, image, atol=1e-6)


def test_errors_are_means_of_squares_over_hidden_pixels() -> None:
    """A flat guess on images of unit noise: its error is that of the noise about the guess."""
    images = torch.randn(16, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    found = score_reconstruction(constant(method(), 0.5), batches(images), seed=0)
    assert found.model == pytest.approx(1.25, abs=0.07)
    assert found.visible_mean == pytest.approx(1.0, abs=0.05)
    assert found.mask_ratio == 0.5
    assert found.num_images == 16
    # Noise cannot be interpolated: smooth guesses add their own variance.
    assert found.biharmonic > found.visible_mean
    assert not found.leaked_statistics


def test_who_comes_closer_wins() -> None:
    noise = torch.randn(8, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    flat = constant(method(), 0.0)
    assert score_reconstruction(flat, batches(noise), seed=0).beats_interpolation
    smooth = score_reconstruction(flat, batches(ramps()), seed=0)
    assert not smooth.beats_interpolation
    assert smooth.biharmonic < 0.05 * smooth.visible_mean


def test_a_method_that_was_told_patch_statistics_never_wins() -> None:
    """Standardised targets are put back with the truth's own mean and scale."""
    noise = torch.randn(8, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    found = score_reconstruction(constant(method(norm_pix=True), 0.0), batches(noise), seed=0)
    assert found.leaked_statistics
    assert found.model < found.biharmonic
    assert not found.beats_interpolation


def test_masks_are_random_and_depend_on_the_seed_alone() -> None:
    """A content-guided method is asked for the same hidden pixels as any other."""
    images = torch.randn(8, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    one, other = (
        score_reconstruction(method(selective=kind), batches(images), seed=3)
        for kind in (False, True)
    )
    assert one.biharmonic == other.biharmonic
    assert one.visible_mean == other.visible_mean
    again = score_reconstruction(method(), batches(images), seed=4)
    assert again.biharmonic != one.biharmonic


@pytest.mark.parametrize(("ratio", "hidden"), [(0.25, 9), (0.75, 27)])
def test_the_share_of_hidden_tokens_can_be_chosen(ratio: float, hidden: int) -> None:
    found = score_reconstruction(method(), batches(ramps()), seed=0, mask_ratio=ratio)
    assert found.mask_ratio == pytest.approx(hidden / 36)


def scores(images: Tensor, valid: Tensor) -> Sequence[float]:
    found = score_reconstruction(method(), batches(images, valid), seed=0)
    return found.model, found.biharmonic, found.visible_mean, found.num_images


def test_pixels_without_data_are_neither_given_nor_scored() -> None:
    images = torch.randn(4, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    valid = torch.ones(4, SIZE, SIZE, dtype=torch.bool)
    valid[0, :10] = False
    valid[1] = False
    spoilt = torch.where(valid[:, None], images, torch.nan)
    clean, dirty = scores(images, valid), scores(spoilt, valid)
    assert clean == dirty
    assert np.isfinite(dirty).all()
    assert dirty[3] == 3  # the image without data is left out


def test_a_method_without_pixels_is_refused() -> None:
    made = method()
    made.heads = nn.ModuleDict({})
    with pytest.raises(UsageError, match="predicts no pixels"):
        score_reconstruction(made, batches(ramps()), seed=0)
