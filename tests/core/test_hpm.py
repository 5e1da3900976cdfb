"""HPM: the teacher's mask, the ranking loss, what gets gradient from which term."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from tiny_methods import ENCODER, tiny

from mimkit.core.batch import Batch, Progress
from mimkit.core.encoders.contract import Encoder
from mimkit.core.grid import Grid
from mimkit.core.masking.hard import HardMask
from mimkit.core.method import Method
from mimkit.core.methods import HPMConfig, build
from mimkit.core.noise import Noise
from mimkit.core.objectives.ranking import absolute, relative
from mimkit.core.reconstruction import pixel_head
from mimkit.core.tokens import membership, take
from mimkit.core.training.engine import PlainEngine, split
from mimkit.core.training.optim import OptimConfig


@pytest.fixture
def method() -> Method:
    torch.manual_seed(0)
    return build(tiny("hpm"), Grid.for_image((32, 48), 4, 3))


def batch(num: int = 3, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(num, 3, 32, 48, generator=generator), None, torch.arange(num))


def test_the_hardest_tokens_are_hidden_and_ever_more_of_them(method: Method) -> None:
    mask, epochs = method.mask, 20
    assert isinstance(mask, HardMask)
    counts = []
    for epoch in range(epochs):
        progress = Progress(epoch + 0.5, epochs)
        context = method.context(batch(), progress, Noise(epoch))
        plan, num = mask(context), mask.num_hard(progress)
        hidden = ~membership(plan.visible, 96)
        assert hidden.sum(1).tolist() == [72] * 3
        hardest = mask.hardness(context).topk(num, dim=1).indices
        assert hidden.gather(1, hardest).all()
        counts.append(num)
    assert counts == sorted(counts)
    assert counts[0] == int(72 * 0.5 / epochs)
    assert counts[-1] == 36
    # The others are drawn, not chosen by hardness as well.
    everything = method.context(batch(), Progress(0.0, 1000), Noise(1))
    other = replace(everything, noise=Noise(2))
    assert not torch.equal(mask(everything).visible, mask(other).visible)


def test_the_ranking_depends_on_order_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(2, 12, generator=generator)
    true, weight = torch.rand(2, 12, generator=generator), torch.ones(2, 12)
    total, count = relative(predicted, true, weight)
    assert count.tolist() == [12 * 11] * 2
    moved = relative(predicted + 3.0, true, weight)[0]
    torch.testing.assert_close(moved, total)
    torch.testing.assert_close(relative(predicted, true.exp() * 5, weight)[0], total)
    equal = relative(torch.zeros(2, 12), true, weight)
    torch.testing.assert_close(equal[0] / equal[1], torch.full((2,), log(2)), rtol=1e-4, atol=0)
    assert relative(true * 100, true, weight)[0].sum() < total.sum()
    tied = relative(predicted, torch.ones(2, 12), weight)
    assert [float(t.sum()) for t in tied] == [0.0, 0.0]


def test_absent_tokens_take_no_part_in_the_ranking() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, true = torch.randn(2, 1, 8, generator=generator)
    weight = torch.tensor([[1.0] * 5 + [0.0] * 3])
    for loss in (relative, absolute):
        some = loss(predicted, true, weight)
        alone = loss(predicted[:, :5], true[:, :5], weight[:, :5])
        torch.testing.assert_close(some, alone)


def test_gradients_of_the_ranking_reach_the_encoder_but_no_target(method: Method) -> None:
    out = method(batch(), Progress(5, 10), Noise(0))
    out.terms["hardness"].backward()
    block = method.get_parameter("encoder.blocks.0.attn.qkv.weight").grad
    assert block is not None
    assert block.abs().sum() > 0
    pixels = method.get_submodule("heads.pixels.predictor")
    assert all(p.grad is None or not p.grad.any() for p in pixels.parameters())
    assert all(p.grad is None for p in method.get_submodule("teacher").parameters())


def test_the_loss_reads_no_target_of_visible_tokens(method: Method) -> None:
    method.eval()
    out = method(batch(), Progress(5, 10), Noise(0))
    seen = membership(out.plan.visible, 96)
    pixels = pixel_head(method)
    target = pixels.target(out.context, out.plan.predict).values
    patches = torch.where(seen[..., None], 9.0, out.context.patches)
    other = pixels.target(replace(out.context, patches=patches), out.plan.predict).values
    assert torch.equal(target, other)


def test_momentum_of_the_teacher_and_its_first_step() -> None:
    torch.manual_seed(0)
    method = build(tiny("hpm", momentum=0.5, final_momentum=0.9), Grid.for_image((16, 16), 4, 3))
    published = build(HPMConfig(encoder=ENCODER), Grid.for_image((16, 16), 4, 3))
    assert published.teacher is not None
    rise = published.teacher.momentum
    for epoch, value in ((0, 0.999), (0.9, 0.999), (50, 0.99945), (100, 0.9999), (700, 0.9999)):
        assert rise(Progress(epoch, 800)) == pytest.approx(value)
    student = method.get_parameter("encoder.blocks.0.mlp.fc1.weight")
    copied = method.get_parameter("teacher.copies.0.blocks.0.mlp.fc1.weight")
    before = copied.clone()
    assert torch.equal(student, copied)
    engine = PlainEngine(method, OptimConfig(warmup_epochs=0), batch_size=2, num_epochs=4)
    images = torch.randn(2, 3, 16, 16)
    engine.step([Batch(images, None, torch.arange(2))], Progress(0, 4), Noise(0))
    assert not torch.equal(student, before)
    torch.testing.assert_close(copied, (before + student.detach()) / 2)


def test_micro_batches_change_nothing_unless_as_published() -> None:
    differences = {}
    for published in (False, True):
        losses = []
        for parts in (1, 2):
            torch.manual_seed(0)
            config = tiny("hpm", as_published=published)
            method = build(config, Grid.for_image((32, 48), 4, 3))
            engine = PlainEngine(method, OptimConfig(), batch_size=4, num_epochs=10)
            # A sample with fewer pairs weighs differently over the batch and per image.
            valid = torch.ones(4, 32, 48, dtype=torch.bool)
            valid[0, 8:] = False
            given = replace(batch(4), valid=valid)
            losses.append(engine.step(split(given, parts), Progress(4, 10), Noise(3)).loss)
        differences[published] = abs(float(losses[0] - losses[1]))
    assert differences[False] < 1e-5
    assert differences[True] > 1e-5


def test_features_of_the_slow_encoder_may_take_the_place_of_pixels() -> None:
    torch.manual_seed(0)
    method = build(tiny("hpm", target="features"), Grid.for_image((16, 24), 4, 3))
    images = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    output = method(Batch(images, None, torch.arange(2)), Progress(5.0, 10), Noise(3))
    assert method.teacher is not None
    encoder = method.teacher.copy_of("encoder")
    assert isinstance(encoder, Encoder)
    truth = take(encoder.encode(images).last, output.plan.predict)
    near = torch.nn.functional.cosine_similarity(output.predictions["features"], truth, dim=-1)
    torch.testing.assert_close(output.terms["features"], (2 - 2 * near).mean())
    output.loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    used = [n for n, p in method.named_parameters() if p.grad is not None and p.grad.any()]
    assert any(name.startswith("heads.features.") for name in used)
    assert any(name.startswith("encoder.") for name in used)
