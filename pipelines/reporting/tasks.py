"""Test scores of a fine-tuned model, and its answers on test images beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from ...core.heads.task import LoadedTask, load_task
from ...core.objectives.labels import IGNORED
from ...domains.domain import get_domain
from ..features import collect
from ..groups import without
from ..labelled import TaskData, open_task_data
from ..stores import OpenGroup
from .blocks import Block, Cell, Gallery, Picture, Table, Text
from .embedding import hex_colour, palette
from .pictures import overlay, picture_uri
from .volumes import Look, middle_of, planes_in_words

_HEAD = ("input", "known labels", "prediction")


@dataclass(frozen=True)
class Answers:
    """What a model answered on the test images.

    Args:
        rows: of the store.
        correct: share of the labelled places of each image that were right.
    """

    rows: Int[np.ndarray, " n"]
    correct: Float[np.ndarray, " n"]


def score_blocks(scores: Mapping[str, Any]) -> tuple[Block, ...]:
    """Return scores per class and the confusion matrix."""
    if "accuracy" not in scores:
        return (
            Text(f"Split {scores['split']!r} has no labelled samples, so there are no scores."),
        )
    places = "pixels" if scores["task"] == "segment" else "samples"
    per_class = Table(
        ("class", f"test {places}", "recall", "IoU"),
        (
            *(
                (name, f"{count:,}", _share(recall), _share(iou))
                for name, count, recall, iou in zip(
                    *(scores[key] for key in ("classes", "count", "recall", "iou")), strict=True
                )
            ),
            (
                Cell("mean", strong=True),
                f"{sum(scores['count']):,}",
                Cell(f"{scores['balanced_accuracy']:.3f}", strong=True),
                Cell(f"{scores['miou']:.3f}", strong=True),
            ),
        ),
        f"Accuracy {scores['accuracy']:.3f} over all {places} of split {scores['split']!r}",
    )
    return (per_class, confusion_table(scores["classes"], scores["confusion"], places))


def _share(value: float | None) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:.3f}", shade=0.6 * value)


def confusion_table(classes: Sequence[str], matrix: Sequence[Sequence[int]], what: str) -> Table:
    """Return the confusion matrix; colours are shares of a row."""
    rows = []
    for name, counts in zip(classes, matrix, strict=True):
        total = max(sum(counts), 1)
        cells = (Cell(f"{number:,}", shade=0.6 * number / total) for number in counts)
        rows.append((name, *cells))
    head = ("truth, predicted as →", *classes)
    return Table(head, tuple(rows), f"Confusion matrix, {what}; rows are the truth")


def answer_blocks(
    facts_data: Mapping[str, Any], model: Path, group: OpenGroup, num: int, device: torch.device
) -> tuple[Block, ...]:
    """Return predictions over their input beside the truth: best, median and worst test images.

    Args:
        facts_data: what run.json says about the data.
        model: fine-tuned model directory.
        group: the store.
        num: how many images.
        device: where the model runs.
    """
    task = load_task(model, device=device)
    data = shown_data(task, group, facts_data["splits"])
    answers = score_rows(task, data, device)
    if not len(answers.rows):
        return (Text("There are no labelled test images to show."),)
    chosen = spread(answers, num)
    labels = [f"row {answers.rows[place]}: {answers.correct[place]:.0%} right" for place in chosen]
    return (_gallery(task, data, answers.rows[chosen], labels, device),)


def shown_data(task: LoadedTask, group: OpenGroup, splits: Sequence[str]) -> TaskData:
    """Return the labels of a store, its test rows being those that the model did not see."""
    normaliser = get_domain(group.meta.domain).normaliser(task.normaliser)
    normaliser.check_bands(group.meta.bands, str(group.store.path))
    names: dict[str, str] = dict(zip(("train", "val", "test"), splits, strict=True))
    grid = task.model.encoder.grid
    size = task.config.image_size
    data = open_task_data(group, normaliser, task.config.task, grid, image_size=size, splits=names)
    unseen = task.loaded.data.get("held_out")
    if not unseen:
        return data
    # A model of a fold was trained on groups of all splits, also of the one that is called test.
    train, test = without(group, data.rows["train"], frozenset(unseen))
    return replace(data, rows={**data.rows, "train": train, "test": test})


def score_rows(task: LoadedTask, data: TaskData, device: torch.device) -> Answers:
    """Return how much of each labelled test image a model gets right."""
    rows = data.rows["test"]
    if not len(rows):
        return Answers(rows, np.zeros(0))

    @torch.inference_mode()
    def right(batch) -> torch.Tensor:
        guess = task.model(batch).argmax(dim=1)
        known = batch.labels != IGNORED
        hits = ((guess == batch.labels) & known).reshape(len(guess), -1).sum(dim=1)
        return hits / known.reshape(len(guess), -1).sum(dim=1).clamp_min(1)

    batches = data.batches(rows, 32, device)
    correct = collect(batches, [right], "test images", -(-len(rows) // 32))[0]
    return Answers(rows, correct.numpy().astype(np.float64))


def spread(answers: Answers, num: int) -> Int[np.ndarray, " m"]:
    """Return places of images from the best to the worst, evenly spaced in rank."""
    order = np.lexsort((answers.rows, -answers.correct))
    return order[
        np.unique(np.linspace(0, len(order) - 1, min(num, len(order))).round().astype(int))
    ]


def _gallery(
    task: LoadedTask,
    data: TaskData,
    rows: Int[np.ndarray, " m"],
    labels: Sequence[str],
    device: torch.device,
) -> Gallery:
    names = task.config.classes
    colours = palette(names)
    domain = get_domain(data.group.meta.domain)
    shown = []
    for row, label in zip(rows, labels, strict=True):
        batch = next(data.batches(np.array([row]), 1, device))
        with torch.inference_mode():
            guess = task.model(batch).argmax(dim=1)
        assert batch.labels is not None
        truth, valid, bands = batch.labels, batch.valid, domain.display_bands(data.normaliser)
        rank = batch.images.ndim - 2
        dense = guess.ndim > 1
        look = Look(data.normaliser, rank, middle_of(truth[0]) if dense else None)
        if dense:
            truth, guess = look(truth, IGNORED), look(guess, IGNORED)
        if valid is not None:
            valid = look(valid)
            guess = guess.masked_fill(~valid, IGNORED) if dense else guess
        physical = look(data.normaliser.denormalise(batch.images))
        image = domain.to_rgb(physical, bands, valid)[0]
        truth, guess = (c[0].cpu().numpy().astype(np.uint8) for c in (truth, guess))
        shown.append(_row(image, truth, guess, names, label, colours))
    legend = tuple((name, hex_colour(colours[n])) for n, name in enumerate(names))
    caption = "Labelled test images from the best to the worst. Places without label stay grey."
    caption += planes_in_words(len(data.image_size))
    return Gallery(_HEAD, tuple(shown), caption, legend)


def _row(
    image: UInt8[np.ndarray, "h w 3"],
    truth: UInt8[np.ndarray, "*s"],
    guess: UInt8[np.ndarray, "*s"],
    names: Sequence[str],
    label: str,
    colours: dict[int, tuple[int, int, int]],
) -> tuple[str, tuple[Picture, ...]]:
    """Return one image: classes of pixels as colours, classes of samples as words."""
    if truth.ndim == 0:
        shade = image.shape[:2]
        truth, guess = (np.full(shade, int(c), np.uint8) for c in (truth, guess))
        words = (names[int(truth[0, 0])], names[int(guess[0, 0])])
    else:
        words = ("", "")
    return label, (
        Picture(picture_uri(image), f"input of {label}"),
        Picture(picture_uri(overlay(image, truth, colours)), f"labels of {label}", words[0]),
        Picture(picture_uri(overlay(image, guess, colours)), f"prediction of {label}", words[1]),
    )
