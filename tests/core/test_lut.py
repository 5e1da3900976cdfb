"""LUT: disjoint views, who reads which, batch statistics, the slow teacher."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_methods import DECODER, ENCODER, tiny
from torch import nn

from mimkit.core.batch import Batch, Progress
from mimkit.core.decoders.projector import BatchNorm, Projector
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid
from mimkit.core.masking.views import DisjointView
from mimkit.core.method import Method
from mimkit.core.methods import LUTConfig, MAEConfig, build
from mimkit.core.noise import FixedNoise, Noise
from mimkit.core.objectives.alignment import CrossViewAlignment
from mimkit.core.tokens import membership
from mimkit.core.training.engine import split
from mimkit.core.views import stack_views

GRID = Grid.for_image((32, 48), 4, 3)
CONFIG = LUTConfig(encoder=ENCODER, decoder=DECODER, projector_hidden=20)


def two_views(num: int = 4, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images, second = torch.randn(2, num, 3, 32, 48, generator=generator)
    return Batch(images, None, torch.arange(num), second=second)


@pytest.fixture
def method() -> Method:
    torch.manual_seed(0)
    return build(CONFIG, GRID)


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9])
def test_views_see_disjoint_places_of_one_draw(ratio: float) -> None:
    method = build(replace(CONFIG, mask_ratio=ratio), GRID)
    noise = torch.rand(4, 96, generator=torch.Generator().manual_seed(3))
    plan = method.see(two_views(), Progress(0, 1), FixedNoise({"mask": noise})).plan
    first, second = membership(plan.visible, 96).chunk(2)
    assert not (first & second).any()
    assert first.sum(1).tolist() == second.sum(1).tolist() == [method.mask.num_visible] * 4
    order = noise.argsort(dim=1)[:, : 2 * method.mask.num_visible]
    assert torch.equal(membership(order, 96), first | second)


def test_views_that_cannot_be_disjoint_are_refused() -> None:
    with pytest.raises(UsageError, match="disjoint"):
        build(replace(CONFIG, mask_ratio=0.4), GRID)


def test_each_term_reads_its_views_and_trains_its_parts(method: Method) -> None:
    batch = two_views()
    out = method(batch, Progress(0, 1), Noise(0))
    other = replace(batch, second=two_views(seed=9).second)
    changed = method(other, Progress(0, 1), Noise(0))
    assert torch.equal(out.terms["pixels"], changed.terms["pixels"])
    assert not torch.equal(out.terms["alignment"], changed.terms["alignment"])
    assert 0 <= float(out.terms["alignment"].detach()) <= 4
    out.terms["alignment"].backward(retain_graph=True)
    learnt = {n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert "encoder.blocks.0.attn.qkv.weight" in learnt
    assert "heads.alignment.predictor.0.weight" in learnt
    assert not any(n.startswith(("teacher", "heads.pixels")) for n in learnt)
    method.zero_grad()
    out.terms["pixels"].backward()
    assert not any(p.grad is not None for p in method.heads["alignment"].parameters())


def test_without_alignment_it_is_mae() -> None:
    torch.manual_seed(0)
    ours = build(replace(CONFIG, alignment_weight=0.0), GRID)
    mae = build(MAEConfig(encoder=ENCODER, decoder=DECODER), GRID)
    mae.load_state_dict({k: v for k, v in ours.state_dict().items() if k in mae.state_dict()})
    batch, results = two_views(), []
    for method in (ours, mae):
        out = method(batch, Progress(0, 1), Noise(2))
        out.loss.backward()
        results.append((out.loss, method.get_parameter("encoder.blocks.0.mlp.fc1.weight").grad))
    torch.testing.assert_close(results[0], results[1])


def test_a_scale_changes_nothing_and_the_teacher_sees_no_mask(method: Method) -> None:
    method.eval()
    alignment = method.objectives["alignment"]
    assert isinstance(alignment, CrossViewAlignment)
    seen = method.see(two_views(), Progress(0, 1), Noise(0))
    again = method.see(two_views(), Progress(0, 1), Noise(1))
    assert not torch.equal(seen.plan.visible, again.plan.visible)
    assert torch.equal(alignment.taught(seen.context), alignment.taught(again.context))
    before = method(two_views(), Progress(0, 1), Noise(0)).terms["alignment"]
    with torch.no_grad():
        method.get_parameter("heads.alignment.predictor.3.weight").mul_(7.0)
    after = method(two_views(), Progress(0, 1), Noise(0)).terms["alignment"]
    torch.testing.assert_close(before, after)


def test_the_teacher_follows_parameters_and_statistics(method: Method) -> None:
    teacher = method.teacher
    assert teacher is not None
    assert teacher.momentum(Progress(0, 10)) == pytest.approx(0.996)
    assert teacher.momentum(Progress(5, 10)) == pytest.approx(0.998)
    assert teacher.momentum(Progress(10, 10)) == pytest.approx(1.0)
    method(two_views(), Progress(0, 10), Noise(0))
    student = method.get_buffer("heads.alignment.projector.1.running_mean")
    own = method.get_buffer("teacher.copies.1.1.running_mean")
    assert student.any()
    method.after_step(Progress(10, 10))
    assert not own.any()
    method.after_step(Progress(0, 10))
    torch.testing.assert_close(own, student * 0.004)


def test_batch_norm_is_torch_s_where_all_samples_count() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 5) * 3 + 1
    ours, theirs = BatchNorm(5), nn.BatchNorm1d(5)
    for _ in range(2):
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    some = torch.tensor([True, False, True, True, False, True])
    fresh, alone = BatchNorm(5), nn.BatchNorm1d(5)
    torch.testing.assert_close(fresh(x, some)[some], alone(x[some]))
    torch.testing.assert_close(fresh.running_var, alone.running_var)
    single = fresh(x[:1])
    assert torch.equal(single, fresh.eval()(x[:1]))


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_projector_layers(depth: int) -> None:
    layers = [type(layer).__name__ for layer in Projector(8, 12, depth)]
    assert layers == ["Linear", "BatchNorm", "ReLU"] * (depth - 1) + ["Linear"] * (depth > 0)
    assert Projector(8, 12, depth, "layer", "gelu")(torch.randn(3, 8)).shape == (3, 8)


def test_a_second_view_is_cut_into_micro_batches_with_the_first() -> None:
    batch = two_views(4)
    parts = split(batch.to("cpu"), 2)
    second = [part.second for part in parts if part.second is not None]
    assert batch.second is not None
    assert torch.equal(torch.cat(second), batch.second)


def test_what_a_teacher_said_goes_along_with_views_of_the_same_image() -> None:
    images, said = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 5)
    batch = Batch(images, None, torch.arange(2), features=said)
    stacked = stack_views(batch, DisjointView(2, 2))
    assert stacked.features is not None
    assert torch.equal(stacked.features, torch.cat([said, said]))
    assert stack_views(replace(batch, second=images + 1), DisjointView(2, 2)).features is None
    assert stack_views(batch, None).features is said


def test_a_second_view_with_its_own_missing_pixels() -> None:
    method = build(tiny("lut"), GRID)
    valid = torch.ones(4, 32, 48, dtype=torch.bool)
    valid[0] = False
    batch = replace(two_views(), second_valid=valid)
    seen = method.see(batch, Progress(0, 1), Noise(0))
    assert seen.context.absent is not None
    assert seen.context.absent.sum(1).tolist() == [0] * 4 + [96] + [0] * 3
    per_sample = method(batch, Progress(0, 1), Noise(0)).per_sample
    assert per_sample.isfinite().all()
