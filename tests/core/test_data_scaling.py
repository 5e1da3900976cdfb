"""Data scaling: the target standardised by its surroundings, sizes, and the validation loss."""

from __future__ import annotations

import pytest
import torch
from tiny_methods import tiny

from mimkit.core.batch import Batch, Progress
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid
from mimkit.core.methods import build
from mimkit.core.noise import Noise
from mimkit.core.targets.local_norm import LocalNormTarget, local_statistics
from mimkit.core.tokens import all_tokens
from mimkit.pipelines.recipe_verb import facts


def target_of(images: torch.Tensor, valid: torch.Tensor | None = None, **options):
    """Return what the target says of all tokens of 4 pixels."""
    method = build(tiny("data-scaling"), Grid.for_image(images.shape[2:], 4, images.shape[1]))
    batch = Batch(images, valid, torch.arange(len(images)))
    context = method.context(batch, Progress(0.0, 1), Noise(0))
    index = all_tokens(len(images), method.grid.num_tokens, images.device)
    return LocalNormTarget(**options)(context, index)


@pytest.mark.parametrize("size", [(8, 12), (5, 6, 7)])
def test_statistics_are_those_of_valid_pixels_in_the_window(size: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 2, *size, generator=generator) * 2 + 5
    valid = (torch.rand(1, 1, *size, generator=generator) > 0.3).float()
    for weight in (None, valid):
        mean, variance = local_statistics(images, weight, 5)
        for place in (
            tuple(0 for _ in size),
            tuple(n // 2 for n in size),
            tuple(n - 1 for n in size),
        ):
            box = tuple(slice(max(p - 2, 0), p + 3) for p in place)
            counts = torch.ones_like(images[0, 0]) if weight is None else weight[0, 0]
            inside = images[0, 1][box][counts[box] > 0]
            torch.testing.assert_close(mean[(0, 1, *place)], inside.mean())
            torch.testing.assert_close(variance[(0, 1, *place)], inside.var())


def test_a_constant_image_is_zero_and_carries_no_weight() -> None:
    found = target_of(torch.full((1, 3, 16, 16), 0.7), window=7)
    assert not found.values.any()
    assert found.weight is not None
    assert not found.weight.any()
    published = target_of(torch.full((1, 3, 16, 16), 0.7), window=7, noise_floor=0.0)
    assert published.weight is None


def test_gain_and_offset_of_an_image_do_not_matter() -> None:
    images = torch.randn(2, 3, 16, 20)
    plain = target_of(images, window=9).values
    torch.testing.assert_close(
        target_of(3 * images - 100, window=9).values, plain, rtol=1e-3, atol=1e-3
    )
    assert not torch.allclose(target_of(images, window=5).values, plain, atol=1e-2)


def test_invalid_pixels_are_no_surroundings() -> None:
    images = torch.randn(1, 3, 16, 16)
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    valid[:, :, 9:] = False
    spoiled = torch.where(valid[:, None], images, torch.tensor(float("nan")))
    found = [target_of(x, valid, window=9) for x in (images, spoiled)]
    weight = found[0].weight
    assert weight is not None
    assert torch.equal(found[0].values * weight, found[1].values * weight)
    assert weight.sum() == 3 * 16 * 9


def test_an_even_window_is_refused() -> None:
    with pytest.raises(UsageError, match="odd"):
        LocalNormTarget(window=46)


def test_a_seeded_validation_loss_does_not_depend_on_how_images_are_batched() -> None:
    torch.manual_seed(0)
    method = build(tiny("data-scaling"), Grid.for_image((32, 32), 4, 3)).eval()
    images = torch.randn(5, 3, 32, 32)
    whole = method(Batch(images, None, torch.arange(5)), Progress(0.0, 1), Noise(3))
    again = method(Batch(images, None, torch.arange(5)), Progress(0.0, 1), Noise(3))
    assert torch.equal(whole.loss, again.loss)
    losses = []
    for part in (slice(0, 2), slice(2, 5)):
        plan = type(whole.plan)(whole.plan.visible[part], whole.plan.predict[part])
        batch = Batch(images[part], None, torch.arange(len(images[part])))
        losses.append(method(batch, Progress(0.0, 1), Noise(9), plan).per_sample)
    torch.testing.assert_close(torch.cat(losses).mean(), whole.loss)


@pytest.mark.parametrize(("size", "millions"), [("small", 49.0), ("base", 86.9), ("large", 195.2)])
def test_sizes_have_the_published_number_of_parameters(size: str, millions: float) -> None:
    assert facts(f"data-scaling-{size}").millions == pytest.approx(millions, abs=0.06)
