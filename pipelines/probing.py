"""The probe table: every kind of features, linear and kNN probe, all labels and a few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import UsageError
from ..core.heads.knn import knn_scores
from ..core.heads.probe import accuracy, balanced_accuracy, few_labels, fit_probe


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """One line of the table.

    Args:
        features: what the probe read, for example "model", "random initialisation".
        probe: "linear" or "kNN".
        labels: labels per class, None for all.
        accuracy: share of test rows with the right class, mean over draws.
        accuracy_std: deviation over draws of labels and random initialisations.
        balanced: mean over classes of the share found, mean over draws.
        balanced_std: its deviation.
        num_draws: draws behind the mean.
    """

    features: str
    probe: str
    labels: int | None
    accuracy: float
    accuracy_std: float
    balanced: float
    balanced_std: float
    num_draws: int


@dataclass(frozen=True)
class Labelled:
    """Features of one kind with classes.

    Args:
        name: kind of features; several entries with one name (seeds of a random initialisation)
            become one line of the table.
        train: of the training rows.
        test: of the test rows.
    """

    name: str
    train: Float[Tensor, "n f"]
    test: Float[Tensor, "m f"]


@dataclass(frozen=True)
class Truth:
    """Classes of training and test rows.

    Args:
        train: classes of the training rows.
        test: classes of the test rows.
        classes: names.
        groups: scene of every training row, kept whole when a probe's penalty is chosen.
    """

    train: Int[Tensor, " n"]
    test: Int[Tensor, " m"]
    classes: tuple[str, ...]
    groups: Int[Tensor, " n"] | None = None

    def check(self) -> None:
        """Raise UsageError unless both sides hold labels and the training side two classes."""
        found = [self.classes[number] for number in self.train.unique().tolist()]
        if len(found) == 1:
            raise UsageError(
                f"all {len(self.train)} training labels",
                f"are of class {found[0]!r}, and a probe needs two classes",
                "curate with more classes, or choose another training split",
            )
        if not found or not len(self.test):
            raise UsageError(
                f"{len(self.train)} labelled training and {len(self.test)} test rows",
                "are too few to fit and to judge a probe",
                "curate with labels (`mimkit curate --help`), or choose other splits",
            )


def probe_table(
    features: Sequence[Labelled],
    truth: Truth,
    *,
    few: Sequence[int] = (10,),
    num_draws: int = 5,
    num_neighbours: int = 20,
    seed: int = 0,
) -> list[ProbeScore]:
    """Fit both probes on every kind of features, with all labels and with few.

    Every kind sees the same labelled rows in each draw.

    Args:
        features: kinds of features.
        truth: classes.
        few: numbers of labels per class.
        num_draws: draws of each of them.
        num_neighbours: of the kNN probe; at most half of the labels of a draw vote.
        seed: of the draws.

    Raises:
        UsageError: when there are too few labels.
    """
    truth.check()
    table = []
    names = list(dict.fromkeys(kind.name for kind in features))
    for name in names:
        kinds = [kind for kind in features if kind.name == name]
        for probe in ("linear", "kNN"):
            for labels in (None, *few):
                runs = [
                    _run(kind, truth, probe, rows, num_neighbours, draw)
                    for kind in kinds
                    for draw, rows in _draws(truth, labels, num_draws, seed)
                ]
                table.append(_line(name, probe, labels, np.array(runs)))
    return table


def linear_scores(
    kind: Labelled, truth: Truth, *, few: int | None = None, num_draws: int = 5, seed: int = 0
) -> tuple[float, float]:
    """Return accuracy and balanced accuracy of the linear probe, averaged over draws of labels."""
    runs = [
        _run(kind, truth, "linear", rows, 0, draw)
        for draw, rows in _draws(truth, few, num_draws, seed)
    ]
    found = np.mean(runs, axis=0)
    return float(found[0]), float(found[1])


def _draws(
    truth: Truth, labels: int | None, num_draws: int, seed: int
) -> Iterator[tuple[int, Tensor]]:
    if labels is None:
        yield seed, torch.arange(len(truth.train))
        return
    for draw in range(seed * num_draws, (seed + 1) * num_draws):
        yield draw, few_labels(truth.train, labels, draw)


def _run(
    kind: Labelled, truth: Truth, probe: str, rows: Tensor, num_neighbours: int, seed: int
) -> tuple[float, float]:
    train, labels = kind.train[rows], truth.train[rows]
    if probe == "linear":
        groups = None if truth.groups is None else truth.groups[rows]
        fit = fit_probe(train, labels, len(truth.classes), seed=seed, groups=groups)
        scores = fit.scores(kind.test)
    else:
        voters = max(1, min(num_neighbours, int(labels.bincount().max()) // 2))
        scores = knn_scores(train, labels, kind.test, len(truth.classes), num_neighbours=voters)
    guess = scores.argmax(dim=1)
    return accuracy(guess, truth.test), balanced_accuracy(guess, truth.test)


def _line(name: str, probe: str, labels: int | None, runs: np.ndarray) -> ProbeScore:
    mean, std = runs.mean(axis=0), runs.std(axis=0)
    return ProbeScore(
        features=name,
        probe=probe,
        labels=labels,
        accuracy=float(mean[0]),
        accuracy_std=float(std[0]),
        balanced=float(mean[1]),
        balanced_std=float(std[1]),
        num_draws=len(runs),
    )


def table_markdown(table: Sequence[ProbeScore]) -> str:
    """Return the table as Markdown, all labels first."""
    lines = [
        "| features | probe | labels a class | accuracy | balanced accuracy | draws |",
        "|---|---|---|---|---|---|",
    ]
    for line in sorted(table, key=lambda s: (s.labels is not None, s.labels or 0)):
        labels = "all" if line.labels is None else str(line.labels)
        spread = [f" ± {v:.3f}" if line.num_draws > 1 else "" for v in _spreads(line)]
        lines.append(
            f"| {line.features} | {line.probe} | {labels} | {line.accuracy:.3f}{spread[0]} "
            f"| {line.balanced:.3f}{spread[1]} | {line.num_draws} |"
        )
    return "\n".join(lines)


def _spreads(line: ProbeScore) -> tuple[float, float]:
    return line.accuracy_std, line.balanced_std
