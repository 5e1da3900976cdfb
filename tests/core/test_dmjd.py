"""DMJD: masks that complement each other, convolutions blind to hidden pixels, the HOG target."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_methods import CONV_VIT, DECODER

from mimkit.core.batch import Batch, Progress
from mimkit.core.encoders.conv_vit import ConvViT
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid, patchify
from mimkit.core.masking.plan import MaskPlan
from mimkit.core.methods import DMJDConfig, build
from mimkit.core.noise import Noise
from mimkit.core.objectives.dense import smooth_l1
from mimkit.core.objectives.visible import TokenProjector, VisibleHead
from mimkit.core.targets.central_hog import CentralHogTarget, central_hog
from mimkit.core.targets.contract import TargetValue
from mimkit.core.tokens import all_tokens, membership, take
from mimkit.core.training.flops import training_flops
from mimkit.core.training.optim import OptimConfig, resolved_lr

CONFIG = DMJDConfig(encoder=CONV_VIT, decoder=DECODER, cell=2)
GRID = Grid.for_image((56, 56), 4, 3)


def images(grid: Grid = GRID, num: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num, grid.channels, *grid.image_size, generator=generator)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize(("ratio", "unit"), [(0.6, 2), (0.5, 1), (0.75, 2)])
def test_two_masks_hide_everything_once(ratio: float, unit: int, published: bool) -> None:
    config = replace(CONFIG, mask_ratio=ratio, unit=unit, as_published=published)
    method = build(config, GRID)
    batch = Batch(images(), None, torch.arange(2), second=images() + 1)
    seen = method.see(batch, Progress(0, 1), Noise(0))
    assert torch.equal(*seen.context.images.chunk(2)), "both views are of one crop"
    first, second = (~membership(seen.plan.visible, 196)).chunk(2)
    assert (first | second).all()
    kept = int(196 // unit**2 * (1 - ratio)) * unit**2
    assert first.sum(1).tolist() == second.sum(1).tolist() == [196 - kept] * 2
    squares = first.reshape(2, 14 // unit, unit, 14 // unit, unit).transpose(2, 3).flatten(3)
    assert torch.equal(squares.all(dim=3), squares.any(dim=3)), "units are hidden as a whole"


def test_published_units_need_a_grid_that_they_divide() -> None:
    with pytest.raises(UsageError, match="whole units"):
        build(replace(CONFIG, as_published=True), Grid.for_image((20, 56), 4, 3))


def test_computing_visible_tokens_alone_equals_computing_all_of_them() -> None:
    torch.manual_seed(0)
    encoder = ConvViT(GRID, CONV_VIT).eval()
    patches = patchify(images(), GRID.patch)
    visible = torch.rand(2, 196, generator=torch.Generator().manual_seed(0)).argsort(1)[:, :70]
    plan = MaskPlan(visible, visible[:, :1])
    seen = encoder.encode_patches(patches, plan).last
    # Hidden tokens are left in place here, as absent ones, whose cells and vectors nobody reads.
    absent = ~membership(visible, 196)
    noisy = torch.where(absent[..., None], 1e3, patches)
    whole = encoder.encode_patches(noisy, absent=absent).last
    torch.testing.assert_close(seen, take(whole, visible), rtol=1e-4, atol=1e-5)
    hidden = encoder.encode_patches(noisy, plan).last
    assert torch.equal(seen, hidden)


def test_other_sizes_and_the_cost_of_hidden_tokens() -> None:
    encoder = ConvViT(GRID, CONV_VIT)
    assert encoder.encode(torch.randn(1, 3, 40, 72)).last.shape == (1, 180, 24)
    assert encoder.forward_flops(76) < 0.45 * encoder.forward_flops(196)
    counted = training_flops(build(CONFIG, GRID))
    assert counted.encoder == 2 * encoder.forward_flops(76)


def test_histograms_of_plain_images() -> None:
    flat = central_hog(torch.full((1, 2, 16, 16), 3.0), 8)
    assert flat.shape == (1, 2, 2, 2, 9)
    assert not flat.any()
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    along_columns, along_rows = central_hog(ramp, 8), central_hog(ramp.mT, 8)
    assert along_columns[..., 0].all()
    assert not along_columns[..., 1:].any()
    assert along_rows[..., 4].all()
    torch.testing.assert_close(along_columns.sum(), torch.tensor(4 * 7 * 8 * 2 / 64))


def test_targets_do_not_depend_on_the_unit_of_a_channel() -> None:
    method = build(CONFIG, GRID)
    contexts = [
        method.context(Batch(images() * scale, None, torch.arange(2)), Progress(0, 1), Noise(0))
        for scale in (1.0, 60.0)
    ]
    target, index = CentralHogTarget(2), all_tokens(2, 196, torch.device("cpu"))
    small, large = (target(context, index) for context in contexts)
    assert small.values.shape == (2, 196, 2 * 2 * 9 * 3)
    torch.testing.assert_close(small.values, large.values, rtol=1e-2, atol=1e-2)


def test_visible_tokens_are_compared_with_their_own_targets() -> None:
    method = build(CONFIG, GRID)
    head = method.objectives["visible"]
    assert isinstance(head, VisibleHead)
    assert isinstance(head.predictor, TokenProjector)
    seen = method.see(Batch(images(), None, torch.arange(2)), Progress(0, 1), Noise(0))
    own = head.target(seen.context, seen.plan.visible).values
    losses = {}
    for raster in (False, True):
        perfect = VisibleHead(head.predictor, head.target, head.loss, raster_targets=raster)
        perfect.predictor.forward = lambda features, plan, index=None: own
        losses[raster] = perfect(seen.features, seen.plan, seen.context, {}).per_sample
    assert not losses[False].any()
    assert (losses[True] > 0.1).all()


def test_the_learning_rate_grows_with_the_predictions() -> None:
    rate = resolved_lr(OptimConfig(base_lr=6e-4), 512, DMJDConfig().lr_factor)
    assert rate == pytest.approx(6e-4 * 512 / 256 / 0.6)


def test_smooth_l1_is_squared_up_to_beta() -> None:
    truth = TargetValue(torch.tensor([[[0.0], [0.0]]]))
    loss = smooth_l1(torch.tensor([[[1.0], [5.0]]]), truth, beta=2.0)[0]
    torch.testing.assert_close(loss, torch.tensor([[0.25, 4.0]]))
