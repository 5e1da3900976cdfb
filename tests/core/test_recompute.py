"""What is made again gives the same bits, and is really not kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mimkit.core.layers import Block
from mimkit.core.recompute import checkpointed, feed, keeping_all
from mimkit.pipelines.benchmarks.memory import saved_bytes

DIM = 32


def block() -> Block:
    torch.manual_seed(0)
    return Block(DIM, num_heads=2)


def tokens() -> Tensor:
    return torch.randn(3, 10, DIM, generator=torch.Generator().manual_seed(1))


def gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    output = module(x)
    loss = output.square().mean()
    return [loss, *torch.autograd.grad(loss, [x, *module.parameters()])]


def test_bits_are_the_same() -> None:
    lean = gradients(block(), tokens())
    with keeping_all():
        kept = gradients(block(), tokens())
    assert all(torch.equal(a, b) for a, b in zip(lean, kept, strict=True))


def test_norms_and_gelu_are_not_kept() -> None:
    module, x = block(), tokens()
    given = [*module.parameters(), x]

    def count() -> int:
        return saved_bytes(lambda: module(x.requires_grad_()), given)

    lean = count()
    with keeping_all():
        kept = count()
    width = x.numel() * x.element_size()
    assert kept - lean >= 6 * width  # two norms of one width, a GELU of four


def test_bf16_keeps_as_little_as_float32() -> None:
    linear, norm, x = nn.Linear(DIM, DIM), nn.LayerNorm(DIM), tokens()

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return feed(norm, x.requires_grad_(), linear)

    half = x.numel() * 2
    statistics = 2 * x.numel() // DIM * 4
    kept = saved_bytes(step, [*norm.parameters(), x])
    weight = linear.weight.numel() * 2
    assert kept <= weight + statistics
    with keeping_all():
        assert saved_bytes(step, [*norm.parameters(), x]) >= half + weight
    loss = step().float().sum()
    loss.backward()
    assert linear.weight.grad is not None


def test_a_checkpoint_forgets_what_a_block_would_keep() -> None:
    """Inside a checkpoint nothing may hold on to the hidden layer."""
    module, x = block(), tokens().requires_grad_()
    alive: list[object] = []
    from weakref import ref

    module.mlp.fc1.register_forward_hook(lambda *call: alive.append(ref(call[2])))
    output = checkpointed(module, x)
    assert alive
    assert alive[0]() is None  # type: ignore[operator]
    output.sum().backward()


def test_no_gradient_no_hooks() -> None:
    with torch.no_grad():
        assert not feed(functional.gelu, tokens(), nn.Linear(DIM, DIM)).requires_grad


@pytest.mark.parametrize("part", ["norm", "gelu"])
def test_it_is_the_function_that_it_says(part: str) -> None:
    make = nn.LayerNorm(DIM) if part == "norm" else functional.gelu
    linear, x = nn.Linear(DIM, DIM), tokens().requires_grad_()
    torch.testing.assert_close(feed(make, x, linear), linear(make(x)))
