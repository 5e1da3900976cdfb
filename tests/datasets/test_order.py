"""Order is a permutation, a partition among ranks, and never changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimkit.datasets.order import batch_indices, epoch_order, num_steps


@given(st.integers(-(2**70), 2**70), st.integers(0, 1000), st.integers(0, 300))
def test_epoch_order_is_a_permutation(seed: int, epoch: int, num_samples: int) -> None:
    order = epoch_order(seed, epoch, num_samples)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(num_samples))
    assert np.array_equal(order, epoch_order(seed, epoch, num_samples))


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 40), st.booleans())
def test_ranks_partition_every_batch(num: int, world: int, batch: int, drop_last: bool) -> None:
    order = epoch_order(3, 1, num)
    seen: list[int] = []
    for step in range(num_steps(num, batch, drop_last)):
        shares = [batch_indices(order, step, batch, rank, world) for rank in range(world)]
        together = np.concatenate(shares)
        assert set(together) == set(batch_indices(order, step, batch))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        seen.extend(together)
    expected = num // batch * batch if drop_last else num
    assert len(seen) == len(set(seen)) == expected


def test_orders_differ_between_seeds_and_epochs() -> None:
    orders = {tuple(epoch_order(s, e, 50)) for s in range(-3, 6) for e in range(9)}
    assert len(orders) == 81


def test_positions_are_uniform() -> None:
    """The first place of 4000 epochs of 8 samples: a chi-square far below the 0.1 % limit."""
    first = np.array([epoch_order(5, e, 8)[0] for e in range(4000)])
    chi2 = (((np.bincount(first, minlength=8) - 500) ** 2) / 500).sum()
    assert chi2 < 24.3


def test_order_is_frozen_forever() -> None:
    """A changed sequence would silently break the resuming of old runs."""
    assert epoch_order(0, 0, 10).tolist() == FROZEN
    assert epoch_order(2**64, 0, 10).tolist() == FROZEN


@pytest.mark.parametrize(
    ("rank", "world", "step", "batch"), [(2, 2, 0, 4), (0, 1, -1, 4), (0, 1, 0, 0)]
)
def test_impossible_requests_are_refused(rank: int, world: int, step: int, batch: int) -> None:
    with pytest.raises(ValueError):
        batch_indices(np.arange(8), step, batch, rank, world)


FROZEN = [7, 3, 1, 5, 4, 2, 8, 9, 0, 6]
