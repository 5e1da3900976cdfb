"""Labelled samples of a store, per pixel or per sample, as batches that a task model trains on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.batch import Batch
from ..core.errors import UsageError
from ..core.grid import Grid
from ..core.heads.metrics import confusion
from ..core.heads.probe import few_labels
from ..core.heads.task import Task, TaskModel
from ..core.objectives.labels import IGNORED
from ..datasets.samples import Samples
from ..domains.domain import Normaliser, get_domain
from .groups import few_groups, held_out, names_of
from .stores import OpenGroup

_CHUNK = 256


@dataclass(frozen=True)
class TaskData:
    """Labelled samples.

    Args:
        group: the store.
        normaliser: of the model that reads them.
        task: what the labels are about.
        classes: names.
        image_size: pixels per axis of a batch.
        patch: pixels per token and axis.
        rows: labelled rows of the splits "train", "val" and "test".
        counts: labelled places of each class in the training rows: pixels, or samples.
        places: labelled places of each class per training row.
    """

    group: OpenGroup
    normaliser: Normaliser
    task: Task
    classes: tuple[str, ...]
    image_size: tuple[int, ...]
    patch: tuple[int, ...]
    rows: Mapping[str, np.ndarray]
    counts: Float[Tensor, " k"]
    places: Float[Tensor, "n k"]

    @property
    def num_tokens(self) -> int:
        """Tokens of an image."""
        return math.prod(n // p for n, p in zip(self.image_size, self.patch, strict=True))

    def mean_weight(self, class_weight: Float[Tensor, " k"]) -> float:
        """Return the mean sum of class weights over the labelled places of a training image.

        Images are resized, so pixels are counted as shares of a stored sample.
        """
        total = float((self.places @ class_weight).mean())
        if self.task == "classify":
            return total
        return total / math.prod(self.group.meta.size) * math.prod(self.image_size)

    @property
    def foreground(self) -> np.ndarray:
        """Which training samples hold another class than the first, (n,) bool."""
        return (self.places[:, 1:].sum(dim=1) > 0).numpy()

    def group_names(self, part: str) -> list[str]:
        """Return the groups (patients, scenes) of a part, sorted."""
        return sorted(set(names_of(self.group, self.rows[part])))

    def describe(self) -> str:
        """Say in one line what the samples are."""
        what = "pixels" if self.task == "segment" else "samples"
        return (
            f"{len(self.rows['train'])} samples of {self.group.store.path.name} with classes of "
            f"{what}: {', '.join(self.classes)}"
        )

    def to_batch(
        self,
        samples: Samples,
        augment: object,
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> Batch:
        """Turn stored samples into a batch with labels, (b, *s) or (b,)."""
        batch = get_domain(self.group.meta.domain).to_batch(
            samples,
            self.group.meta,
            self.normaliser,
            size=self.image_size,
            augment=augment,
            generator=generator,
            device=device,
        )
        if self.task == "segment":
            return batch
        index = torch.from_numpy(self.group.tile_labels.index[samples.rows]).to(device)
        return replace(batch, labels=index.masked_fill(index < 0, IGNORED))

    def batches(
        self, rows: np.ndarray, batch_size: int, device: torch.device | str
    ) -> Iterator[Batch]:
        """Yield the samples of some rows as batches, unchanged by augmentation."""
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            samples = self.group.store.read(chosen, labels=self.task == "segment")
            yield self.to_batch(samples, False, None, device)

    def confusion(self, model: TaskModel, rows: np.ndarray, batch_size: int) -> Int[Tensor, "k k"]:
        """Count pairs (true class, predicted class) over the labelled places of some rows."""
        device = next(model.parameters()).device
        total = torch.zeros(len(self.classes), len(self.classes), dtype=torch.long)
        with torch.inference_mode():
            for batch in self.batches(rows, batch_size, device):
                guess = model(batch).argmax(dim=1)
                assert batch.labels is not None
                total += confusion(guess, batch.labels, len(self.classes)).cpu()
        return total


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which labelled samples train and which are held out.

    Args:
        labels_per_class: see `few_labels`; for training only.
        num_groups: train on so many groups (patients, scenes), drawn by the seed.
        num_folds: divide the groups of the training split into so many parts and hold out one of
            them as test; there is no validation split then.
        fold: the part that is held out.
        seed: of all draws.
    """

    labels_per_class: int | None = None
    num_groups: int | None = None
    num_folds: int | None = None
    fold: int = 0
    seed: int = 0


EVERYTHING = Choice()


def open_task_data(
    group: OpenGroup,
    normaliser: Normaliser,
    task: Literal["auto", "segment", "classify"],
    grid: Grid,
    *,
    image_size: tuple[int, ...] | None,
    splits: Mapping[str, str],
    choice: Choice = EVERYTHING,
) -> TaskData:
    """Find the labelled samples of a store.

    Args:
        group: the store.
        normaliser: of the model that will read it.
        task: what to learn; auto takes labels of samples where there are any, else of pixels.
        grid: geometry that the encoder was made for.
        image_size: pixels per axis of a batch; None chooses.
        splits: name in the store of "train", "val" and "test".
        choice: which of their samples.

    Raises:
        UsageError: without labels of that kind, with fewer than two classes among them, with too
            few groups, or for a size that the patch does not divide.
    """
    chosen = choose_task(group, task)
    classes = group.meta.classes if chosen == "segment" else group.tile_labels.classes
    size = image_size or _default_size(group, chosen, grid)
    Grid.for_image(size, grid.patch, grid.channels)
    found = {part: _labelled_rows(group, chosen, name) for part, name in splits.items()}
    if choice.num_folds is not None:
        folds = choice.num_folds, choice.fold, choice.seed
        found["train"], found["test"] = held_out(group, found["train"], *folds)
        found["val"] = found["val"][:0]
    places = count_places(group, chosen, found["train"], len(classes))
    found["train"], places = chosen_rows(group, found["train"], places, choice)
    if int((places.sum(dim=0) > 0).sum()) < 2:
        raise UsageError(
            f"split {splits['train']!r} of {group.store.path}",
            f"has labels of {int((places.sum(dim=0) > 0).sum())} classes",
            "curate with labels of at least two classes (`mimkit curate --help`)",
        )
    return TaskData(
        group,
        normaliser,
        chosen,
        classes,
        tuple(size),
        grid.patch,
        found,
        places.sum(dim=0),
        places,
    )


def chosen_rows(
    group: OpenGroup, rows: np.ndarray, places: Float[Tensor, "n k"], choice: Choice
) -> tuple[np.ndarray, Float[Tensor, "m k"]]:
    """Return the training rows of a few groups or labels, and their labelled places.

    Raises:
        UsageError: when there are too few groups.
    """
    if choice.num_groups is not None:
        names = names_of(group, rows)
        kinds: dict[str, Tensor] = {}
        for name, row in zip(names, places > 0, strict=True):
            kinds[name] = kinds.get(name, row) | row
        useful = [int(kinds[name].sum()) > 1 for name in names]
        kept = few_groups(names, useful, choice.num_groups, choice.seed)
        rows, places = rows[kept], places[torch.from_numpy(kept)]
    if choice.labels_per_class is not None:
        keep = few_labels(places.argmax(dim=1), choice.labels_per_class, choice.seed)
        rows, places = rows[keep.numpy()], places[keep]
    return rows, places


def choose_task(group: OpenGroup, task: Literal["auto", "segment", "classify"]) -> Task:
    """Return the task that the labels of a store allow.

    Raises:
        UsageError: when there are no labels of that kind.
    """
    has: dict[Task, bool] = {
        "classify": bool(group.tile_labels.classes),
        "segment": bool(group.meta.classes),
    }
    for name, found in has.items():
        if found and task in ("auto", name):
            return name
    reason = "has no labels" if task == "auto" else f"has no labels for {task}"
    remedy = "curate with --labels (classes of samples) or --masks (classes of pixels)"
    raise UsageError(group.store.path, reason, remedy)


def _default_size(group: OpenGroup, task: Task, grid: Grid) -> tuple[int, ...]:
    """Return the size of a batch's images when none is asked for.

    With labels per pixel nothing is resized where the patch allows it, so that a scene is predicted
    at the scale of training.
    """
    fits = all(n % p == 0 for n, p in zip(group.meta.size, grid.patch, strict=True))
    return group.meta.size if task == "segment" and fits else grid.image_size


def _labelled_rows(group: OpenGroup, task: Task, split: str) -> np.ndarray:
    rows = group.rows(split)
    if task == "classify":
        return rows[group.tile_labels.index[rows] >= 0]
    share = np.array([1.0 if value is None else value for value in group.column("labelled")])
    return rows[share[rows] > 0]


def count_places(
    group: OpenGroup, task: Task, rows: np.ndarray, num_classes: int
) -> Float[Tensor, "n k"]:
    """Return the labelled places of each class in each row: pixels, or one for a sample's class."""
    counts = torch.zeros(len(rows), num_classes)
    if task == "classify":
        index = torch.from_numpy(group.tile_labels.index[rows])
        counts[torch.arange(len(rows)), index] = 1.0
        return counts
    for start in range(0, len(rows), _CHUNK):
        labels = group.store.read(rows[start : start + _CHUNK], labels=True).labels
        assert labels is not None
        for place, image in enumerate(labels):
            found = np.bincount(image.ravel(), minlength=IGNORED + 1)[:num_classes]
            counts[start + place] = torch.from_numpy(found.astype(np.float32))
    return counts
