"""MTO: what the mask token is asked for, and who may read it."""

from __future__ import annotations

import pytest
import torch
from tiny_methods import tiny

from mimkit.core.batch import Batch, Progress
from mimkit.core.encoders.contract import EMBEDDED
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid
from mimkit.core.layers import Block
from mimkit.core.method import Method, Output
from mimkit.core.methods import build
from mimkit.core.noise import Noise
from mimkit.core.objectives.heterogeneity import Sparsity, heterogeneity
from mimkit.core.recalibration import recalibrated

GRID = Grid((4, 6), (4, 4), 3)
OFF = {"sparsity_weight": 0.0, "singularity_weight": 0.0, "descent_weight": 0.0}


def make(**options) -> Method:
    torch.manual_seed(0)
    return build(tiny("mto", **options), GRID)


def run(method: Method) -> Output:
    images = torch.randn(2, 3, *GRID.image_size, generator=torch.Generator().manual_seed(1))
    return method(Batch(images, None, torch.arange(2)), Progress(1.0, 10), Noise(3))


def test_with_everything_off_or_at_share_one_it_is_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = make(**OFF, recalibrate=False)
    assert list(host.heads) == ["pixels"]
    # Without entropy the share is one and the rule of reading has to change nothing.
    neutral = "mimkit.core.recalibration.mean_heterogeneity"
    monkeypatch.setattr(neutral, lambda tokens, plan, temperature: torch.zeros(len(tokens)))
    method = make(**OFF)
    losses = []
    for each in (host, method):
        output = run(each)
        output.loss.backward()
        losses.append(output.loss.detach())
    torch.testing.assert_close(losses[0], losses[1])
    for one, other in zip(host.parameters(), method.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_terms_of_the_input_move_the_mask_token_alone() -> None:
    method = make()
    output = run(method)
    terms = output.terms["sparsity"] + output.terms["singularity"]
    names, parameters = zip(*method.named_parameters(), strict=True)
    grads = torch.autograd.grad(terms, parameters, allow_unused=True)
    moved = {n for n, g in zip(names, grads, strict=True) if g is not None and g.any()}
    assert moved == {"corruption.mask_token"}


def test_a_mask_token_at_right_angles_to_all_costs_nothing() -> None:
    visible = torch.zeros(1, 3, 4)
    visible[0, :, :3] = torch.eye(3)
    aligned, apart = visible[:, :1], torch.tensor([[[0.0, 0.0, 0.0, 2.0]]])
    unlike = [float(heterogeneity(token, visible, 0.1)) for token in (aligned, apart)]
    assert unlike[1] == pytest.approx(1.0)
    assert unlike[0] < 0.1
    plan = run(make()).plan
    term = Sparsity(4, 3)
    assert float(term.cost(apart, visible, plan)) == 0.0
    assert float(term.cost(aligned, visible, plan)) == pytest.approx(1 / 3)
    assert heterogeneity(torch.zeros(1, 1, 4), visible, 0.1).isfinite().all()


def test_heterogeneity_lies_in_0_to_1_and_knows_no_order_or_absent_token() -> None:
    torch.manual_seed(0)
    tokens, visible = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    measured = heterogeneity(tokens, visible, 0.1)
    assert (measured >= 0).all()
    assert (measured <= 1).all()
    torch.testing.assert_close(heterogeneity(tokens, visible.flip(1), 0.1), measured)
    readable = torch.ones(2, 7, dtype=torch.bool)
    readable[:, 3:] = False
    expected = heterogeneity(tokens, visible[:, :3], 0.1)
    torch.testing.assert_close(heterogeneity(tokens, visible, 0.1, readable), expected)


def test_absent_visible_tokens_have_a_finite_slope() -> None:
    tokens = torch.randn(1, 2, 4, requires_grad=True)
    visible = torch.randn(1, 3, 4, requires_grad=True)
    readable = torch.tensor([[True, True, False]])
    heterogeneity(tokens, visible, 0.1, readable).sum().backward()
    assert tokens.grad is not None
    assert visible.grad is not None
    assert tokens.grad.isfinite().all()
    assert visible.grad.isfinite().all()
    assert visible.grad[0, :2].any()
    assert not visible.grad[0, 2].any()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_visible_tokens_read_hidden_ones_by_their_share(share: float) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 2, 6, 6)
    hidden = torch.tensor([[False, False, True, False, True, True]])
    weights = (q @ k.transpose(-1, -2) * 6**-0.5).softmax(dim=-1)
    # Values that are the unit vectors show the weights themselves.
    values = torch.eye(6).expand(1, 2, 6, 6)
    shown = recalibrated(torch.tensor([share]), hidden)(q, k, values, None)
    shown = shown.unflatten(-1, (2, 6)).transpose(1, 2)
    factor = torch.where(~hidden[0, :, None] & hidden[0], share, 1.0)
    expected = weights * factor
    torch.testing.assert_close(shown, expected / expected.sum(dim=-1, keepdim=True))


def test_at_share_zero_visible_outputs_are_those_of_visible_tokens_alone() -> None:
    torch.manual_seed(0)
    block, tokens = Block(8, 2), torch.randn(1, 6, 8)
    hidden = torch.tensor([[False, False, True, False, True, True]])
    seen = ~hidden[0]
    out = block(tokens, reading=recalibrated(torch.zeros(1), hidden))
    torch.testing.assert_close(out[:, seen], block(tokens[:, seen]))
    assert not torch.allclose(out[:, seen], block(tokens)[:, seen])


def test_the_embedded_tap_holds_the_mask_token_without_positions() -> None:
    method = make()
    output = run(method)
    embedded = output.features.taps[EMBEDDED]
    token = method.get_parameter("corruption.mask_token")[0, 0]
    torch.testing.assert_close(embedded[1, output.plan.predict[1, 3]], token)


def test_nothing_of_it_remains_at_inference_and_blocks_are_checked() -> None:
    images = torch.randn(1, 3, *GRID.image_size)
    on, off = make().encoder, make(**OFF, recalibrate=False).encoder
    assert torch.equal(on(images), off(images))
    with pytest.raises(UsageError, match="at least two of the 2 blocks"):
        make(tracked_blocks=(0, 2))
