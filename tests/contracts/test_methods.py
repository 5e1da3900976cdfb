"""One contract for every method of the table."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import pytest
import torch
from tiny_methods import tiny
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mimkit.core.batch import Batch, Progress
from mimkit.core.grid import Grid, patchify, unpatchify
from mimkit.core.masking.plan import MaskPlan
from mimkit.core.method import Method, Output
from mimkit.core.methods import METHODS, DecoderConfig, EncoderConfig, build
from mimkit.core.noise import Noise
from mimkit.core.tokens import membership
from mimkit.core.training.flops import training_flops

GRIDS = {
    "square": ((32, 32), 3),
    "wide": ((16, 48), 3),
    "one-row": ((4, 96), 2),
    "prime": ((28, 44), 1),
    "fourteen-bands": ((24, 24), 14),
    "volume": ((8, 12, 16), 1),
}


def fitting(names: Iterable[str], grids: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of a method and a grid of a rank that it works on."""
    pairs = [(name, grid) for name in names for grid in grids]
    return [(n, g) for n, g in pairs if len(GRIDS[g][0]) in METHODS[n].ranks]


def hiding(what: str) -> list[str]:
    """Return the methods by what they hide."""
    return [name for name, row in METHODS.items() if row.hides == what]


def make(name: str, size: tuple[int, ...] = (32, 32), channels: int = 3, **options) -> Method:
    torch.manual_seed(0)
    config = tiny(name, **options)
    return build(config, Grid.for_image(size, config.encoder.patch_size, channels))


def images(method: Method, num: int = 2, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (num, method.grid.channels, *method.grid.image_size)
    return torch.randn(shape, generator=generator)


def run(method: Method, pixels, valid=None, epoch=3.0, seed=5, plan=None) -> Output:
    batch = Batch(pixels, valid, torch.arange(len(pixels)))
    return method(batch, Progress(epoch, 10), Noise(seed), plan)


def hidden_pixels(method: Method, plan: MaskPlan, tokens: torch.Tensor) -> torch.Tensor:
    """Return a pixel mask of tokens given as (b, n) booleans."""
    cells = tokens.reshape(len(tokens), 1, *method.grid.shape)
    for axis, length in enumerate(method.grid.patch):
        cells = cells.repeat_interleave(length, dim=2 + axis)
    return cells


def convolution_backward_flops(grad, x, weight, *rest, output_mask=None, **named) -> int:
    """Count the products of both gradients of a convolution: each is as many as its forward's."""
    del named
    transposed, wanted = rest[4], rest[7] if output_mask is None else output_mask
    return 2 * prod(x if transposed else grad) * prod(weight[1:]) * sum(wanted[:2])


def wake(method: Method) -> None:
    """Open norms that start at zero, behind which nothing learns in the first step by design."""
    for part in method.modules():
        if isinstance(part, torch.nn.LayerNorm):
            for name, weight in part.named_parameters():
                if name == "weight" and not weight.any():
                    torch.nn.init.constant_(weight, 0.5)


@pytest.mark.parametrize(("name", "grid"), fitting(METHODS, GRIDS))
def test_forward_backward_and_which_parameters_learn(name: str, grid: str) -> None:
    method = make(name, *GRIDS[grid])
    wake(method)
    output = run(method, images(method))
    assert output.loss.dtype == torch.float32
    assert output.loss.isfinite()
    torch.testing.assert_close(output.loss, output.per_sample.mean())
    output.loss.backward()
    for parameter_name, parameter in method.named_parameters():
        assert parameter.requires_grad != parameter_name.startswith("teacher."), parameter_name
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        if parameter_name in METHODS[name].indifferent:
            assert parameter.grad.abs().max() < 1e-6, parameter_name
            continue
        assert parameter.grad.abs().sum() > 0, parameter_name
    trained = [n for n, _ in method.named_parameters() if "pos_embed" in n]
    assert trained == ["encoder.pos_embed"] * METHODS[name].learned_positions


@pytest.mark.parametrize("name", METHODS)
def test_counts_and_disjoint_roles(name: str) -> None:
    method = make(name, (32, 48))
    plan = run(method, images(method)).plan
    num_tokens = method.grid.num_tokens
    seen, asked = membership(plan.visible, num_tokens), membership(plan.predict, num_tokens)
    assert seen.sum(1).tolist() == [method.mask.num_visible] * 2
    assert asked.sum(1).tolist() == [method.mask.num_predict] * 2
    assert not (seen & asked).any()


@pytest.mark.parametrize(("name", "grid"), fitting(hiding("complement"), ["wide", "volume"]))
def test_what_a_sketch_loses_changes_no_prediction(name: str, grid: str) -> None:
    method = make(name, *GRIDS[grid]).eval()
    pixels = images(method)
    before = run(method, pixels)
    sketch = before.plan.sketch
    assert sketch is not None
    step = patchify(images(method, seed=2), method.grid.patch)
    changes = [unpatchify(part(step), method.grid) for part in (sketch.removed, sketch.kept)]
    after, other = (run(method, pixels + change, plan=before.plan) for change in changes)
    for head, prediction in before.predictions.items():
        torch.testing.assert_close(prediction, after.predictions[head], rtol=1e-4, atol=1e-5)
    close = torch.isclose(before.features.last, other.features.last, rtol=1e-2, atol=1e-3)
    assert close.float().mean() < 0.5


@pytest.mark.parametrize(("name", "grid"), fitting(hiding("tokens"), ["wide", "volume"]))
def test_hidden_pixels_change_no_prediction(name: str, grid: str) -> None:
    method = make(name, *GRIDS[grid]).eval()
    pixels = images(method)
    before = run(method, pixels)
    seen = membership(before.plan.visible, method.grid.num_tokens)
    hidden = hidden_pixels(method, before.plan, ~seen)
    changed = torch.where(hidden, torch.full_like(pixels, 7.0), pixels)
    after = run(method, changed, plan=before.plan)
    for head, prediction in before.predictions.items():
        assert torch.equal(prediction, after.predictions[head])
    assert torch.equal(before.features.last, after.features.last)
    seen_changed = torch.where(hidden, pixels, pixels + 1.0)
    other = run(method, seen_changed, plan=before.plan)
    assert not torch.equal(before.features.last, other.features.last)


@pytest.mark.parametrize("name", METHODS)
def test_absent_tokens_change_nothing_at_all(name: str) -> None:
    method = make(name).eval()
    pixels = images(method)
    valid = torch.ones(2, 32, 32, dtype=torch.bool)
    valid[0, :16] = False
    valid[1, 20:23, 5:30] = False
    results = []
    for fill in (0.0, 1e6, float("nan"), float("inf")):
        filled = torch.where(valid[:, None], pixels, torch.tensor(fill))
        method.zero_grad()
        output = run(method, filled, valid)
        output.loss.backward()
        grads = [p.grad.clone() for p in method.parameters() if p.grad is not None]
        results.append((output.loss.detach(), output.plan, grads))
    loss, plan, grads = results[0]
    assert plan.absent is not None
    assert loss.isfinite()
    for other_loss, other_plan, other_grads in results[1:]:
        assert torch.equal(loss, other_loss)
        assert torch.equal(plan.visible, other_plan.visible)
        assert all(torch.equal(a, b) for a, b in zip(grads, other_grads, strict=True))
    chosen = plan.absent.gather(1, plan.visible)
    assert not chosen.any(), "half of the image holds data, enough for every visible token"


@pytest.mark.parametrize("name", METHODS)
def test_a_sample_without_data_gives_no_gradient_and_no_nan(name: str) -> None:
    method = make(name)
    smallest = method.batch_multiple
    nothing = torch.zeros(smallest, 32, 32, dtype=torch.bool)
    output = run(method, images(method, smallest), nothing)
    output.loss.backward()
    assert float(output.loss.detach()) == 0.0
    assert all(p.grad is None or not p.grad.any() for p in method.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_constant_patch_gives_no_gradient_unless_its_level_is_the_target(name: str) -> None:
    method = make(name)
    output = run(method, torch.full_like(images(method), 0.3))
    output.loss.backward()
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert any(grad.any() for grad in grads) == METHODS[name].flat_patches


@pytest.mark.parametrize("epoch", [0.0, 3.6, 5.0, 7.4, 9.0])
@pytest.mark.parametrize("name", METHODS)
def test_smallest_batch_equals_its_place_in_a_larger_one(name: str, epoch: float) -> None:
    """The smallest batch is one image, or as many as a method mixes with each other."""
    method = make(name).eval()
    smallest = method.batch_multiple
    middle = slice(smallest, 2 * smallest)
    pixels = images(method, 3 * smallest)
    whole = run(method, pixels, epoch=epoch)
    plan = whole.seen.plan  # rows of a second view, if there is one, follow those of the first
    rows = torch.arange(len(plan.visible)).reshape(-1, 3, smallest)[:, 1].flatten()
    single = run(method, pixels[middle], epoch=epoch, plan=plan.rows(rows))
    torch.testing.assert_close(single.per_sample, whole.per_sample[middle])
    assert run(method, pixels[middle], epoch=epoch).loss.isfinite()


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_bits(name: str) -> None:
    losses = [run(make(name), images(make(name))).loss for _ in range(2)]
    assert torch.equal(*losses)
    other = run(make(name), images(make(name)), seed=6).loss
    assert not torch.equal(losses[0], other)


@pytest.mark.parametrize("name", METHODS)
def test_bf16_stays_close_and_loss_is_float32(name: str) -> None:
    method = make(name)
    pixels = images(method)
    plan = run(method, pixels).plan
    exact = run(method, pixels, plan=plan).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = run(method, pixels, plan=plan)
    assert rough.loss.dtype == torch.float32
    torch.testing.assert_close(rough.loss, exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", METHODS)
def test_flop_formula_equals_the_counter(name: str) -> None:
    encoder = EncoderConfig(embed_dim=96, depth=3, num_heads=4, patch_size=8)
    decoder = DecoderConfig(dim=64, depth=2, num_heads=4)
    plain = METHODS[name].plain and hasattr(METHODS[name].config(), "decoder")
    config = METHODS[name].config(encoder=encoder, decoder=decoder) if plain else tiny(name)
    method = build(config, Grid.for_image((64, 96), config.encoder.patch_size, 5))
    counted = training_flops(method)
    num = 64  # what a whole batch shares is not counted, and is little in a large one
    pixels = images(method, num)
    # The counter does not know the fused CPU kernel, only the products it stands for.
    # Nor does it divide the weights' gradient of a depth-wise convolution by its groups.
    rules = {torch.ops.aten.convolution_backward: convolution_backward_flops}
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping=rules) as counter,
    ):
        output = run(method, pixels)
        forward = counter.get_total_flops()
        output.loss.backward()
    assert forward / num == pytest.approx(counted.forward, rel=0.01)
    assert counter.get_total_flops() / num == pytest.approx(counted.training, rel=0.01)


def assert_same_when_compiled(name: str, backend: str) -> None:
    """Compare loss and gradients of a step with those of the same step as a captured graph.

    Args:
        name: of the method.
        backend: of `torch.compile`.
    """
    method = make(name)
    pixels = images(method)
    batch = Batch(pixels, None, torch.arange(len(pixels)))
    plan = run(method, pixels).plan
    eager = run(method, pixels, plan=plan).loss
    eager.backward()
    expected = gradients(method)
    method.zero_grad()
    step = torch.compile(method, backend=backend)
    compiled = step(batch, Progress(3.0, 10), Noise(5), plan).loss
    compiled.backward()
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)
    for parameter, value in gradients(method).items():
        torch.testing.assert_close(value, expected[parameter], rtol=1e-3, atol=1e-5)


def gradients(method: Method) -> dict[str, torch.Tensor]:
    """Return a copy of every gradient by the name of its parameter."""
    named = method.named_parameters()
    return {name: value.grad.clone() for name, value in named if value.grad is not None}


NOT_CAPTURED = {
    "lut": "its batch norm sees two batches in a step, so that running statistics which the graph "
    "keeps for the backward pass are changed by then; the slow test compiles it"
}


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(NOT_CAPTURED)))
def test_the_captured_graph_equals_eager(name: str) -> None:
    """Without code generation, which takes most of the time and is the compiler's own affair."""
    assert_same_when_compiled(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", METHODS)
def test_compiled_equals_eager(name: str) -> None:
    assert_same_when_compiled(name, "inductor")
