"""Meters of collapse on features whose answer is known."""

from __future__ import annotations

import pytest
import torch

from mimkit.core.heads.collapse import effective_rank, relative_spread


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rank_counts_equal_directions(rank: int) -> None:
    basis = torch.linalg.qr(random(20, 20)).Q[:rank]
    features = torch.cat([basis, -basis]) + 5  # a constant is no direction
    assert effective_rank(features) == pytest.approx(rank, rel=1e-4)


def test_equal_rows_have_collapsed() -> None:
    features = random(1, 16).expand(50, -1)
    assert effective_rank(features) == 0.0
    assert relative_spread(features) == pytest.approx(0.0, abs=1e-6)
    assert relative_spread(features + 0.01 * random(50, 16)) < 0.1


def test_all_directions_are_spread() -> None:
    assert relative_spread(random(4000, 16)) == pytest.approx(1.0, abs=0.02)
    assert relative_spread(10 * random(4000, 16)) == pytest.approx(
        relative_spread(random(4000, 16))
    )
