"""Schedules, parameter groups, pruning, meters: the small parts of a training step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mimkit.core.encoders.vit import ViT
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid
from mimkit.core.heads.supervised import Supervised, freeze_encoder, set_drop_path
from mimkit.core.heads.task import TaskConfig, TaskModel
from mimkit.core.layers import DropPath
from mimkit.core.training.flops import FlopCount
from mimkit.core.training.meters import PEAK_FLOPS, SpeedMeter, measured_flops
from mimkit.core.training.optim import (
    OptimConfig,
    adamw,
    check_optim,
    lr_at,
    param_groups,
    resolved_lr,
    set_lr,
)
from mimkit.core.training.pruning import InfoBatch
from mimkit.core.training.schedules import cosine_with_warmup

GRID = Grid.for_image((16, 16), 4, 3)


def test_the_schedule_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    values = [cosine_with_warmup(t, 100, 10, 2.0, 0.5) for t in (0, 5, 10, 55, 100)]
    assert values == pytest.approx([0.0, 1.0, 2.0, 1.25, 0.5])
    assert cosine_with_warmup(150, 100, 10, 2.0, 0.5) == pytest.approx(0.5)
    assert cosine_with_warmup(3, 4, 0, 1.0) == pytest.approx(0.5 + 0.5 * math.cos(math.pi * 0.75))


def test_the_schedule_may_fall_in_steps_and_start_above_zero() -> None:
    config = OptimConfig(warmup_epochs=10, warmup_lr=0.5, step_epochs=(70.0, 90.0), step_factor=0.1)
    values = [lr_at(config, epoch, 100, 2.0) for epoch in (0, 5, 10, 69.9, 70, 89, 90)]
    assert values == pytest.approx([0.5, 1.25, 2.0, 2.0, 0.2, 0.2, 0.02])
    cosine = OptimConfig(warmup_epochs=10, warmup_lr=0.5, min_lr=0.5)
    values = [lr_at(cosine, epoch, 100, 2.0) for epoch in (5, 10, 55, 100)]
    assert values == pytest.approx([1.25, 2.0, 1.25, 0.5])


def test_parameters_can_be_spared_from_decay_by_name() -> None:
    module = nn.ModuleDict({"table": nn.Embedding(3, 2), "layer": nn.Linear(2, 2)})
    spared = [g["names"] for g in param_groups(module, 0.05, no_decay=("table",))]
    assert sorted(map(sorted, spared)) == [["layer.bias", "table.weight"], ["layer.weight"]]
    plain = [g["names"] for g in param_groups(module, 0.05)]
    assert sorted(map(sorted, plain)) == [["layer.bias"], ["layer.weight", "table.weight"]]


def test_the_rate_follows_batch_and_method() -> None:
    config = OptimConfig(base_lr=1e-3)
    assert resolved_lr(config, 512) == pytest.approx(2e-3)
    assert resolved_lr(config, 256, 0.25 / 0.85) == pytest.approx(2.94e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"base_lr": 0.0}, "base_lr"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"warmup_epochs": 10.0}, "warmup_epochs"),
        ({"clip_grad": 0.0}, "clip_grad"),
        ({"layer_decay": 1.5}, "layer_decay"),
        ({"min_lr": -1e-3}, "min_lr"),
        ({"warmup_lr": -1e-3}, "warmup_lr"),
        ({"step_epochs": (0.5,)}, "step_epochs"),
        ({"step_epochs": (10.0,)}, "step_epochs"),
        ({"step_factor": 0.0}, "step_factor"),
    ],
)
def test_a_setting_that_cannot_train_is_named(values: dict[str, object], field: str) -> None:
    good = {"warmup_epochs": 1.0}
    check_optim(OptimConfig(**good), 10)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=rf"optim\.{field} .*use "):
        check_optim(OptimConfig(**{**good, **values}), 10)  # type: ignore[arg-type]


def test_groups_decay_matrices_only_and_scale_rates_by_depth() -> None:
    encoder = ViT(GRID, 16, 2, 2)
    groups = param_groups(encoder, 0.05, layer_decay=0.5)
    rate = {name: g["lr_scale"] for g in groups for name in g["names"]}
    decay = {name: g["weight_decay"] for g in groups for name in g["names"]}
    assert rate["patch_embed.proj.weight"] == rate["cls_token"] == 0.125
    assert rate["blocks.0.mlp.fc1.bias"] == 0.25
    assert rate["blocks.1.mlp.fc1.bias"] == 0.5
    assert rate["norm.weight"] == 1.0
    assert decay["cls_token"] == decay["blocks.0.mlp.fc1.weight"] == 0.05
    assert decay["norm.weight"] == decay["blocks.0.mlp.fc1.bias"] == 0.0
    assert len(rate) == len(list(encoder.parameters()))
    optimizer = adamw(encoder, OptimConfig(layer_decay=0.5))
    set_lr(optimizer, 0.1)
    assert sorted({g["lr"] for g in optimizer.param_groups}) == pytest.approx(
        [0.0125, 0.025, 0.05, 0.1]
    )


def test_frozen_parameters_are_in_no_group() -> None:
    model = TaskModel(
        ViT(GRID, 16, 2, 2), TaskConfig(task="classify", classes=("a", "b"), image_size=(16, 16))
    )
    freeze_encoder(model)
    names = [name for group in param_groups(model, 0.0) for name in group["names"]]
    assert names
    assert all(name.startswith("head.") for name in names)


def test_stochastic_depth_rises_with_depth() -> None:
    config = TaskConfig(task="classify", classes=("a", "b"), image_size=(16, 16))
    model = TaskModel(ViT(GRID, 16, 3, 2), config)
    set_drop_path(model, 0.2)
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_a_task_loss_adds_up_over_any_cut() -> None:
    from mimkit.core.batch import Batch, Progress
    from mimkit.core.noise import Noise

    torch.manual_seed(0)
    config = TaskConfig(task="segment", classes=("a", "b"), image_size=(16, 16), dim=8, stem_dim=8)
    model = TaskModel(ViT(GRID, 16, 2, 2), config)
    supervised = Supervised(model, torch.tensor([1.0, 2.0]), 100.0)
    labels = torch.randint(0, 2, (4, 16, 16))
    labels[0] = 255  # no labels at all
    labels[1, 4:] = 255
    batch = Batch(torch.randn(4, 3, 16, 16), None, torch.arange(4), labels)
    whole = supervised(batch, Progress(0.0, 1), Noise())
    parts = [
        supervised(
            Batch(batch.images[i : i + 1], None, batch.ids[i : i + 1], labels[i : i + 1]),
            Progress(0.0, 1),
            Noise(),
        ).per_sample
        for i in range(4)
    ]
    torch.testing.assert_close(torch.cat(parts), whole.per_sample)
    assert whole.per_sample[0] == 0.0
    direct = nn.functional.cross_entropy(
        whole.scores, labels, torch.tensor([1.0, 2.0]), ignore_index=255, reduction="none"
    )
    torch.testing.assert_close(whole.per_sample[1], direct[1].sum() / 100.0)


def test_pruning_keeps_the_expected_gradient() -> None:
    pruning = InfoBatch(1000, 100, seed=1, prune_prob=0.5)
    losses = torch.linspace(0.0, 2.0, 1000)
    pruning.update(torch.arange(1000), losses)
    pruning.begin_epoch()
    total = torch.zeros(1000)
    for epoch in range(80):
        chosen = pruning.select(epoch)
        total[chosen.index] += chosen.weight[chosen.index]
        assert 600 < len(chosen.index) < 900
    mean = total / 80
    assert float(mean[:400].mean()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(mean[600:], torch.ones(400))
    last = pruning.select(90)
    assert len(last.index) == 1000
    assert torch.equal(last.weight, torch.ones(1000))


def test_pruning_is_a_function_of_its_state() -> None:
    first, second = (InfoBatch(50, 10, seed=2) for _ in range(2))
    first.update(torch.arange(50), torch.rand(50, generator=torch.Generator().manual_seed(1)))
    first.begin_epoch()
    first.update(torch.arange(25), torch.full((25,), 9.0))
    first.update(torch.tensor([3]), torch.tensor([float("nan")]))
    second.load_state({name: value.clone() for name, value in first.state().items()})
    assert torch.equal(first.select(3).index, second.select(3).index)
    assert float(first.scores[3]) == 9.0


def test_speed_is_counted_between_two_readings() -> None:
    meter = SpeedMeter(FlopCount(1, 1, 0, 10), num_tokens=4, device=torch.device("cpu"), peak=1e3)
    meter.count(8, waited=0.0)
    meter.count(8, waited=0.0)
    speed = meter.read()
    assert speed.images_per_s * speed.seconds == pytest.approx(16)
    assert speed.tokens_per_s == pytest.approx(4 * speed.images_per_s)
    assert speed.mfu == pytest.approx(speed.images_per_s * 10 / 1e3)
    assert speed.memory_mb > 50
    meter.count(1, waited=1e9)
    assert meter.read().data_wait == 1.0


def test_a_device_reaches_some_flops_and_known_names_are_distinct() -> None:
    assert measured_flops(torch.device("cpu"), size=64) > 1e7
    assert len({name.lower() for name in PEAK_FLOPS}) == len(PEAK_FLOPS)
