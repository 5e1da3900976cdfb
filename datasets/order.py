"""The order of samples is arithmetic: a pure function of seed, epoch and step.

Ranks, threads and restarts only choose which part of the same sequence they read, so a resumed run
needs no state besides its step number.
"""

from __future__ import annotations

import math

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 values one to one (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """Return the permutation in which an epoch visits its samples.

    Integer hashing is used instead of numpy's generators because their streams may change between
    numpy versions, and a resumed run must not depend on that.

    Args:
        seed: seed of the run, any integer.
        epoch: epoch number, from 0.
        num_samples: how many samples there are.

    Returns:
        (num_samples,) int64, every number from 0 to num_samples - 1 once.
    """
    if num_samples < 0 or epoch < 0:
        raise ValueError(f"num_samples {num_samples} and epoch {epoch} must not be negative")
    base = _mix(np.array([seed % 2**64], np.uint64) + _GOLDEN)
    base = _mix(base ^ _mix(np.array([epoch], np.uint64) * _GOLDEN + np.uint64(1)))
    keys = _mix(base + np.arange(num_samples, dtype=np.uint64) * _GOLDEN)
    return np.argsort(keys, kind="stable").astype(np.int64)


def balanced_order(seed: int, epoch: int, chosen: np.ndarray, share: float) -> np.ndarray:
    """Return an epoch in which a share of the visits goes to chosen samples, the rest to others.

    Each kind is visited in endless permutations that go on from epoch to epoch, so over a run
    every sample of a kind is visited equally often (give or take one).

    Args:
        seed: seed of the run.
        epoch: epoch number, from 0.
        chosen: (n,) bool, for example whether a crop holds foreground.
        share: of the n visits, 0 to 1; without samples of one kind all visits go to the other.

    Returns:
        (n,) int64, places in `chosen`, some of them repeated, others left out.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share {share} must lie in [0, 1]")
    kinds = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    wanted = round(share * len(chosen))
    wanted = wanted if len(kinds[1]) else len(chosen)
    wanted = wanted if len(kinds[0]) else 0
    visits = [
        _endless(seed * 2 + stream, epoch * num, num, kind)
        for stream, (kind, num) in enumerate(
            zip(kinds, (wanted, len(chosen) - wanted), strict=True)
        )
    ]
    return np.concatenate(visits)[epoch_order(seed, epoch, len(chosen))]


def _endless(seed: int, start: int, num: int, values: np.ndarray) -> np.ndarray:
    """Return `num` entries from `start` on of one permutation of the values after the other."""
    if not num:
        return np.zeros(0, np.int64)
    first, last = start // len(values), (start + num - 1) // len(values)
    rounds = [values[epoch_order(seed, turn, len(values))] for turn in range(first, last + 1)]
    return np.concatenate(rounds)[start - first * len(values) :][:num].astype(np.int64)


def num_steps(num_samples: int, batch_size: int, drop_last: bool = True) -> int:
    """Return how many batches an epoch has.

    Args:
        num_samples: samples visited in the epoch.
        batch_size: samples per step over all ranks.
        drop_last: leave out a last batch that is not full.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")
    return num_samples // batch_size if drop_last else math.ceil(num_samples / batch_size)


def batch_indices(
    order: np.ndarray, step: int, batch_size: int, rank: int = 0, world: int = 1
) -> np.ndarray:
    """Return the part of a step's batch that one rank reads.

    The batch of a step is the same set of samples for every `world`: `batch_size` counts the
    samples of all ranks together, and rank r takes the r-th of `world` parts that follow each
    other, so that images that are mixed with their neighbours stay together.

    Args:
        order: (n,) visiting order of the epoch.
        step: step within the epoch, from 0.
        batch_size: samples per step over all ranks.
        rank: this process, 0 <= rank < world.
        world: number of processes.

    Returns:
        The rank's entries of `order`; the shares of all ranks partition the batch.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} must lie in [0, {world})")
    if step < 0 or batch_size < 1:
        raise ValueError(f"step {step} must be >= 0 and batch_size {batch_size} >= 1")
    return np.array_split(order[step * batch_size : (step + 1) * batch_size], world)[rank]
