"""From a store to what a probe needs: features of labelled samples or tokens, and their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..core.batch import Batch
from ..core.errors import UsageError
from ..core.grid import Grid
from ..core.heads.task import Task
from ..core.objectives.labels import IGNORED
from ..domains.domain import Normaliser
from .features import Extract, Source, collect, stored_batches, token_labels
from .labelled import choose_task
from .probing import Labelled, Truth
from .stores import OpenGroup

Unit = Literal["tile", "token"]


@dataclass(frozen=True, kw_only=True)
class ProbeData:
    """Features with classes.

    Args:
        unit: what has a class.
        truth: classes of both sides.
        features: one entry per source, rows as in `truth`.
    """

    unit: Unit
    truth: Truth
    features: tuple[Labelled, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How samples are read; shared by both sides.

    Args:
        group: the store.
        normaliser: of the model.
        grid: geometry of the model.
        batch_size: samples per forward pass, changes no result.
        max_tokens: with classes of pixels, at most so many tokens a side, drawn at random.
        seed: of that draw.
        device: where the model is.
    """

    group: OpenGroup
    normaliser: Normaliser
    grid: Grid
    batch_size: int = 64
    max_tokens: int = 20_000
    seed: int = 0
    device: torch.device | str = "cpu"

    def collect(self, rows: np.ndarray, extracts: Sequence[Extract], labels: bool) -> list[Tensor]:
        """Run functions over some rows, one pass."""
        batches = stored_batches(
            self.group,
            rows,
            self.normaliser,
            size=self.grid.image_size,
            batch_size=self.batch_size,
            labels=labels,
            device=self.device,
        )
        return collect(batches, extracts, "features", -(-len(rows) // self.batch_size))


def labelled_task(group: OpenGroup) -> Task | None:
    """Return what the classes of a store belong to, samples first; None without classes."""
    has_classes = bool(group.tile_labels.classes or group.meta.classes)
    return choose_task(group, "auto") if has_classes else None


def split_rows(group: OpenGroup, train: str, test: str) -> tuple[np.ndarray, np.ndarray]:
    """Return labelled rows to fit and to judge a probe.

    Raises:
        UsageError: for an unknown split, one without labelled rows, or when both share rows.
    """
    found = []
    for name in (train, test):
        rows = group.rows(name, labelled=True)
        if not len(rows):
            raise UsageError(
                f"split {name!r} of {group.store.path}",
                "has no labelled samples",
                "choose other splits with --train and --test, or curate with labels",
            )
        found.append(rows)
    if np.intersect1d(*found).size:
        raise UsageError(
            f"splits {train!r} and {test!r}",
            "share samples, so the test would be of what was learned by heart",
            "choose splits that do not overlap",
        )
    return found[0], found[1]


def read_probe_data(
    reading: Reading, sources: Sequence[Source], task: Task, train: np.ndarray, test: np.ndarray
) -> ProbeData:
    """Return the features of some rows and the classes that belong to them.

    Args:
        reading: how to read.
        sources: kinds of features, of images for "classify" and of tokens for "segment".
        task: what the classes belong to.
        train: rows of the store to fit on.
        test: rows of the store to judge by.
    """
    read = _samples if task == "classify" else _tokens
    sides = [read(reading, sources, rows) for rows in (train, test)]
    group = reading.group
    classes = group.tile_labels.classes if task == "classify" else group.meta.classes
    truth = Truth(
        sides[0].classes, sides[1].classes, classes, scene_numbers(group, sides[0].rows.numpy())
    )
    features = tuple(
        Labelled(source.name, first, second)
        for source, first, second in zip(sources, sides[0].features, sides[1].features, strict=True)
    )
    return ProbeData(unit="tile" if task == "classify" else "token", truth=truth, features=features)


@dataclass(frozen=True)
class _Side:
    features: list[Tensor]
    classes: Int[Tensor, " n"]
    rows: Int[Tensor, " n"]


def _samples(reading: Reading, sources: Sequence[Source], rows: np.ndarray) -> _Side:
    found = reading.collect(rows, [source.extract for source in sources], labels=False)
    index = reading.group.tile_labels.index[rows]
    return _Side(found, torch.from_numpy(index), torch.from_numpy(rows))


def _tokens(reading: Reading, sources: Sequence[Source], rows: np.ndarray) -> _Side:
    def token_classes(batch: Batch) -> Tensor:
        assert batch.labels is not None  # they were asked for
        return token_labels(batch.labels, reading.grid.patch)

    # Which tokens take part is settled first, so that features of others are never kept.
    classes = reading.collect(rows, [token_classes], labels=True)[0]
    places = (classes != IGNORED).flatten().nonzero()[:, 0]
    if len(places) > reading.max_tokens:
        random = np.random.default_rng(reading.seed)
        places = places[torch.from_numpy(random.permutation(len(places))[: reading.max_tokens])]
    chosen = torch.zeros(classes.numel(), dtype=torch.bool)
    chosen[places] = True
    chosen, order = chosen.view_as(classes), torch.from_numpy(rows)

    def some(extract: Extract) -> Extract:
        return lambda batch: extract(batch).cpu()[
            chosen[torch.searchsorted(order, batch.ids.cpu())]
        ]

    found = reading.collect(rows, [some(source.extract) for source in sources], labels=False)
    return _Side(found, classes[chosen], order[chosen.nonzero()[:, 0]])


def scene_numbers(group: OpenGroup, rows: np.ndarray) -> Int[Tensor, " n"] | None:
    """Return the scene of each row as a number; None when most rows have one of their own."""
    names = group.column("group")
    numbers = {name: place for place, name in enumerate(dict.fromkeys(names[row] for row in rows))}
    if len(numbers) * 2 > len(rows):
        return None
    return torch.tensor([numbers[names[row]] for row in rows], dtype=torch.long)
