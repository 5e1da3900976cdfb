"""Sketches of tokens against their matrices, and the loss outside what they keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_methods import BEIT

from mimkit.core.batch import Batch, Progress
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid
from mimkit.core.masking.plan import MaskPlan
from mimkit.core.method import Output
from mimkit.core.methods import RoPIMConfig, build
from mimkit.core.noise import Noise
from mimkit.core.sketch import Sketch


def step(images: torch.Tensor, valid: torch.Tensor | None = None, **options) -> Output:
    torch.manual_seed(0)
    config = RoPIMConfig(encoder=BEIT, **options)
    method = build(config, Grid.for_image(images.shape[2:], 4, images.shape[1])).eval()
    return method(Batch(images, valid, torch.arange(len(images))), Progress(0.0, 1), Noise(0))


def sketch_of(output: Output) -> Sketch:
    assert output.plan.sketch is not None
    return output.plan.sketch


def matrix(sketch: Sketch, absent: torch.Tensor | None = None) -> torch.Tensor:
    """Return the projection as a matrix, from signs and buckets alone."""
    num = sketch.order.shape[1]
    size = num // sketch.num_buckets
    bucket = torch.empty_like(sketch.order)
    places = torch.arange(num).expand_as(sketch.order) // size
    bucket.scatter_(1, sketch.order, places)
    sign = sketch.sign if absent is None else sketch.sign.masked_fill(absent, 0.0)
    same = (bucket[:, :, None] == bucket[:, None, :]) * sign[:, :, None] * sign[:, None, :]
    count = same.abs().sum(dim=2, keepdim=True).clamp_min(1.0)
    return same / count if sketch.scale is None else same * sketch.scale


def test_the_projection_is_orthogonal_and_equals_its_matrix() -> None:
    sketch = sketch_of(step(torch.randn(2, 3, 28, 32)))
    assert sketch.num_buckets == 8, "7 x 8 tokens, a seventh of them kept"
    p = matrix(sketch)
    torch.testing.assert_close(p, p.transpose(1, 2))
    torch.testing.assert_close(p @ p, p)
    assert torch.linalg.matrix_rank(p).tolist() == [8, 8]
    torch.testing.assert_close(p.diagonal(dim1=1, dim2=2).sum(1), torch.full((2,), 8.0))
    assert ((p != 0).sum(2) == 7).all()
    torch.testing.assert_close(p.abs().amax(2), torch.full((2, 56), 1 / 7))
    values = torch.randn(2, 56, 5)
    torch.testing.assert_close(sketch.kept(values), p @ values)
    torch.testing.assert_close(sketch.removed(values), values - p @ values)
    other = replace(sketch, complement=True)
    torch.testing.assert_close(other.kept(values), values - p @ values)
    assert not torch.equal(p[0], p[1])


def test_the_published_factor_is_nearly_a_projection() -> None:
    sketch = sketch_of(step(torch.randn(2, 3, 56, 56), as_published=True))
    assert (sketch.num_buckets, sketch.order.shape[1]) == (28, 196)
    p = matrix(sketch)
    torch.testing.assert_close(sketch.kept(torch.eye(196).expand(2, -1, -1)), p)
    error = (p @ p - p).norm() / p.norm()
    assert float(error) == pytest.approx(0.02, abs=1e-4)
    assert sketch.sign.sum(dim=1).tolist() == [0.0, 0.0]


def test_a_patch_changes_the_mixtures_of_its_bucket_alone() -> None:
    sketch = sketch_of(step(torch.randn(1, 3, 28, 32)))
    values = torch.randn(1, 56, 3)
    changed = values.clone()
    changed[0, 11] += 1.0
    moved = (sketch.kept(changed) - sketch.kept(values)).abs().sum(2)[0] > 1e-6
    bucket = sketch.order[0].unflatten(0, (8, 7))
    mates = bucket[(bucket == 11).any(dim=1)][0]
    assert sorted(moved.nonzero()[:, 0].tolist()) == sorted(mates.tolist())


def test_tokens_without_data_take_part_in_no_mixture() -> None:
    images, valid = torch.randn(2, 3, 28, 32), torch.ones(2, 28, 32, dtype=torch.bool)
    valid[0, :12, :20] = False
    output = step(images, valid)
    sketch, absent = sketch_of(output), output.plan.absent
    assert absent is not None
    assert int(absent.sum()) == 15
    values, p = torch.randn(2, 56, 4), matrix(sketch, absent)
    there = (~absent)[..., None].float()
    torch.testing.assert_close(sketch.kept(values, there), p @ values)
    torch.testing.assert_close(p @ p, p, atol=1e-5, rtol=1e-5)


def head_loss(output: Output, prediction: torch.Tensor, method_options: dict) -> torch.Tensor:
    torch.manual_seed(0)
    method = build(RoPIMConfig(encoder=BEIT, **method_options), output.context.grid)
    head = method.objectives["pixels"]
    head.predict = lambda *_: prediction  # type: ignore[method-assign]
    return head(output.features, output.plan, output.context, {}).per_sample


def test_the_loss_is_blind_to_what_was_shown() -> None:
    images = torch.randn(2, 3, 28, 32)
    output = step(images)
    sketch, truth = sketch_of(output), output.context.patches
    shown = sketch.kept(torch.randn_like(truth))
    zero = head_loss(output, truth + shown, {})
    torch.testing.assert_close(zero, torch.zeros(2), atol=1e-6, rtol=0.0)
    guess = torch.randn_like(truth)
    expected = (truth - guess - matrix(sketch) @ (truth - guess)).abs().mean(dim=(1, 2))
    torch.testing.assert_close(head_loss(output, guess, {}), expected)
    nothing = replace(output, plan=replace(output.plan, sketch=replace(sketch, scale=0.0)))
    torch.testing.assert_close(
        head_loss(nothing, guess, {}), (truth - guess).abs().mean(dim=(1, 2))
    )


def test_no_token_is_hidden_and_no_mask_token_exists() -> None:
    images = torch.randn(2, 3, 28, 32)
    output = step(images)
    assert output.features.sequence.shape[1] == 57
    assert output.plan.visible.shape == (2, 0)
    names = build(RoPIMConfig(encoder=BEIT), output.context.grid).state_dict()
    assert not any("mask_token" in name for name in names)


def test_counts_that_do_not_fit_are_refused_with_a_remedy() -> None:
    images = torch.randn(1, 3, 32, 32)
    assert sketch_of(step(images)).num_buckets == 8, "the divisor of 64 nearest to 8.96"
    with pytest.raises(UsageError, match="makes 9 buckets, which do not divide them evenly"):
        step(images, as_published=True)
    with pytest.raises(UsageError, match="of 1 tokens"):
        step(torch.randn(1, 3, 4, 4))


def test_a_plan_of_tokens_is_no_sketch() -> None:
    output = step(torch.randn(1, 3, 28, 32))
    plan = MaskPlan(output.plan.visible, output.plan.predict)
    with pytest.raises(UsageError, match="holds no sketch"):
        head_loss(replace(output, plan=plan), output.context.patches, {})
