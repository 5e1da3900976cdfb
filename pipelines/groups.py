"""Which patients, scenes or other groups a run trains on: cross-validation and few labels.

What belongs to a group never straddles two parts. A group's part is a function of its name and a
seed alone, so it does not depend on the order of a store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from ..core.errors import UsageError
from .stores import OpenGroup


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """Return distinct names in an order that depends on the seed and on each name alone."""

    def key(name: str) -> bytes:
        return hashlib.sha256(f"{seed}/{name}".encode()).digest()

    return sorted(set(names), key=key)


def fold_of(names: Iterable[str], num_folds: int, seed: int) -> dict[str, int]:
    """Return the fold of each group; folds differ by one group at most.

    Raises:
        UsageError: when there are fewer groups than folds.
    """
    order = shuffled(names, seed)
    if len(order) < num_folds:
        reason = f"are more than the {len(order)} groups with labels"
        raise UsageError(f"folds {num_folds}", reason, f"use at most {len(order)}")
    return {name: place % num_folds for place, name in enumerate(order)}


def names_of(group: OpenGroup, rows: np.ndarray) -> list[str]:
    """Return the group of each row; a sample without one is a group of its own."""
    names, ids = group.column("group"), group.column("id")
    return [names[row] or ids[row] for row in rows]


def held_out(
    group: OpenGroup, rows: np.ndarray, num_folds: int, fold: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows into those of the other folds and those of one fold.

    Raises:
        UsageError: when there are fewer groups than folds.
    """
    folds = fold_of(names_of(group, rows), num_folds, seed)
    return without(group, rows, {name for name, place in folds.items() if place == fold})


def without(
    group: OpenGroup, rows: np.ndarray, names: Collection[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows into those of other groups and those of the groups that are named."""
    out = np.array([name in names for name in names_of(group, rows)], dtype=np.bool_)
    return rows[~out], rows[out]


def few_groups(
    names: Sequence[str], useful: Sequence[bool], num_groups: int, seed: int
) -> np.ndarray:
    """Return which rows belong to a few groups that are drawn by a seed.

    Args:
        names: group of each row.
        useful: whether a row may be what its group is drawn for; groups without such a row would
            teach nothing and are not drawn.
        num_groups: groups to draw.
        seed: of the draw.

    Returns:
        (n,) bool.

    Raises:
        UsageError: when there are not enough groups.
    """
    order = shuffled((name for name, fine in zip(names, useful, strict=True) if fine), seed)
    if len(order) < num_groups:
        reason = f"are more than the {len(order)} groups with more than one class"
        raise UsageError(f"labelled_groups {num_groups}", reason, f"use at most {len(order)}")
    drawn = set(order[:num_groups])
    return np.array([name in drawn for name in names], dtype=np.bool_)
