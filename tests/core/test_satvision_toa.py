"""SatVision-TOA: masks finer than the last map, extra norms, fourteen bands."""

from __future__ import annotations

from math import ceil

import torch
from tiny_methods import swin, tiny

from mimkit.core.batch import Batch, Progress
from mimkit.core.encoders.swin import Swin
from mimkit.core.grid import Grid
from mimkit.core.methods import SatVisionTOAConfig, build
from mimkit.core.methods.satvision_toa import GIANT
from mimkit.core.noise import Noise
from mimkit.core.tokens import membership


def test_masks_lie_inside_the_cells_of_the_last_map() -> None:
    method = build(tiny("satvision-toa"), Grid.for_image((32, 48), 4, 14))
    images = torch.randn(2, 14, 32, 48)
    output = method(Batch(images, None, torch.arange(2)), Progress(0.0, 1), Noise(0))
    hidden = membership(output.plan.predict, 96)
    assert hidden.sum(1).tolist() == [ceil(0.6 * 96)] * 2
    assert output.features.last.shape[1] == 96 // 4
    cells = hidden.reshape(2, 4, 2, 6, 2).float().mean(dim=(2, 4))
    assert ((cells > 0) & (cells < 1)).any(), "a cell is hidden in part"
    assert output.predictions["pixels"].shape == (2, 58, 4 * 4 * 14)


def test_the_loss_of_a_batch_is_the_mean_over_hidden_pixels_and_bands() -> None:
    method = build(tiny("satvision-toa"), Grid.for_image((32, 32), 4, 14)).eval()
    images = torch.randn(3, 14, 32, 32)
    first = method(Batch(images, None, torch.arange(3)), Progress(0.0, 1), Noise(0))
    order = torch.tensor([2, 0, 1])
    plan = type(first.plan)(first.plan.visible[order], first.plan.predict[order])
    other = method(Batch(images[order], None, torch.arange(3)), Progress(0.0, 1), Noise(1), plan)
    torch.testing.assert_close(other.loss, first.loss)
    truth = first.context.patches.gather(1, first.plan.predict[..., None].expand(-1, -1, 224))
    torch.testing.assert_close(first.loss, (truth - first.predictions["pixels"]).abs().mean())


def test_extra_norms_follow_every_sixth_block_of_a_stage() -> None:
    grid = Grid.for_image((128, 128), 8, 14)
    with torch.device("meta"):
        method = build(SatVisionTOAConfig(encoder=GIANT), grid)
    names = {n for n, _ in method.named_parameters() if n.endswith("norm3.weight")}
    assert names == {
        f"encoder.layers.2.blocks.{i}.norm3.weight" for i in (5, 11, 17, 23, 29, 35, 41)
    }
    assert method.mask.num_predict == 154
    count = sum(p.numel() for p in method.parameters())
    assert 2.6e9 < count < 2.7e9  # the paper's "3 B", with the head of 59 million
    last = build(
        tiny("satvision-toa", encoder=swin(2, 2, extra_norm_stage=True)), Grid((4, 4), (4, 4), 2)
    )
    ends = {n for n, _ in last.named_parameters() if n.endswith("norm3.bias")}
    assert ends == {f"encoder.layers.{s}.blocks.1.norm3.bias" for s in (0, 1)}


def test_a_window_as_large_as_the_grid_is_shrunk_and_not_shifted() -> None:
    encoder = build(tiny("satvision-toa"), Grid.for_image((16, 32), 4, 2)).encoder
    assert isinstance(encoder, Swin)
    reach = [stage.reach for stage in encoder.stages]
    assert reach == [(4, 4), (4, 4), (2, 4)]  # grids of 8 x 16, 4 x 8 and 2 x 4 patches
