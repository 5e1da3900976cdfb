"""Layer-wise learning rates: every encoder knows how deep each of its parameters lies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_methods import BEIT, CONV_VIT, ENCODER, hivit, swin
from torch import nn

from mimkit.core.encoders.contract import Encoder
from mimkit.core.encoders.conv_vit import ConvViT
from mimkit.core.encoders.resnet import ResNet
from mimkit.core.grid import Grid
from mimkit.core.heads.task import TaskConfig, TaskModel
from mimkit.core.teacher import Teacher
from mimkit.core.training.optim import encoder_of, param_groups

GRID = Grid((4, 4), (4, 4), 3)
FAMILIES = {
    "vit": lambda: ENCODER.build(GRID),
    "beit": lambda: replace(BEIT, relative_positions="block", absolute_positions=True).build(GRID),
    "swin": lambda: swin(1, 3).build(GRID),
    "swinv2": lambda: swin(2, 2, extra_norm_period=2).build(GRID),
    "hivit": lambda: hivit(relative_bias=True, layer_scale=0.1).build(GRID),
    "conv-vit": lambda: ConvViT(GRID, CONV_VIT),
    "resnet": lambda: ResNet(Grid((2, 2), (32, 32), 3), (1, 2, 1), 8),
}
"""A small encoder of every family, and the blocks of which it is made."""
NUM_BLOCKS = {
    "vit": 2, "beit": 2, "swin": 6, "swinv2": 4, "hivit": 6, "conv-vit": 2, "resnet": 4,
}  # fmt: skip


def order_of_use(encoder: Encoder) -> list[str]:
    """Return the names of the modules that hold parameters, in the order of their first use."""
    used: list[str] = []
    for name, part in encoder.named_modules():
        if next(part.parameters(recurse=False), None) is not None and not list(part.children()):
            part.register_forward_pre_hook(lambda *_, name=name: used.append(name))
    encoder.eval()(torch.randn(2, 3, *encoder.grid.image_size))
    return list(dict.fromkeys(used))


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_numbered_in_the_order_in_which_an_image_meets_them(family: str) -> None:
    encoder = FAMILIES[family]()
    numbers = [encoder.layer_of(f"{name}.weight") for name in order_of_use(encoder)]
    assert numbers == sorted(numbers)
    top = len(encoder.parts_in_order())
    assert top == NUM_BLOCKS[family] + 1
    found = {encoder.layer_of(name) for name, _ in encoder.named_parameters()}
    assert found == set(range(top + (family not in ("hivit", "resnet")))), "two have no last norm"
    for part in (name for parts in encoder.parts_in_order() for name in parts):
        if part not in ("cls_token", "pos_embed", "layers.1.downsample", "layers.2.downsample"):
            assert encoder.get_submodule(part) is not None


def test_a_merging_has_the_number_of_the_block_in_front_and_a_shared_bias_the_last() -> None:
    encoder = FAMILIES["swin"]()
    names = ["patch_embed.proj.bias", "layers.0.blocks.1.attn.relative_position_bias_table"]
    assert [encoder.layer_of(name) for name in names] == [0, 2]
    merging = [encoder.layer_of(f"layers.{k}.downsample.reduction.weight") for k in range(2)]
    assert merging == [2, 4], "the running number of blocks (simmim.md)"
    assert encoder.layer_of("norm.weight") == 7
    shared = replace(BEIT, relative_positions="shared").build(GRID)
    (table,) = [n for n, _ in shared.named_parameters() if "relative_position_bias_table" in n]
    assert shared.layer_of(table) == 3


@pytest.mark.parametrize("family", ["vit", "swin", "resnet"])
def test_rates_fall_towards_the_pixels_and_heads_learn_at_the_full_rate(family: str) -> None:
    encoder = FAMILIES[family]()
    task = TaskConfig(task="classify", classes=("a", "b"), image_size=encoder.grid.image_size)
    model = nn.ModuleDict({"model": TaskModel(encoder, task)})
    rate = {
        name: group["lr_scale"]
        for group in param_groups(model, 0.05, layer_decay=0.5)
        for name in group["names"]
    }
    top = len(encoder.parts_in_order())
    for name, _ in encoder.named_parameters():
        assert rate[f"model.encoder.{name}"] == 0.5 ** (top - encoder.layer_of(name))
    assert {scale for name, scale in rate.items() if ".head." in name} == {1.0}
    assert min(rate.values()) == 0.5**top


def test_of_several_encoders_the_one_that_is_trained_counts() -> None:
    encoder = FAMILIES["vit"]()
    holder = nn.ModuleDict({"encoder": encoder})
    holder["teacher"] = Teacher({"encoder": encoder}, lambda _: 0.9)
    assert encoder_of(holder) == ("encoder.", encoder)
    assert encoder_of(encoder) == ("", encoder)
    assert encoder_of(nn.Linear(2, 2)) is None
    scales = {g["lr_scale"] for g in param_groups(nn.Linear(2, 2), 0.0, layer_decay=0.5)}
    assert scales == {1.0}
