"""Who is it, and what is seen on the face: probes with a few labelled images of each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...core.errors import UsageError
from ...core.heads.knn import knn_scores
from ...core.heads.probe import accuracy, balanced_accuracy, few_labels, fit_probe
from .leakage import check_disjoint
from .rows import Face, numbered

IDENTITY = "identity"
PROBES = ("linear", "nearest neighbour")


@dataclass(frozen=True)
class Question:
    """Faces with one of several answers.

    Args:
        places: of the faces that have an answer.
        labels: number of the answer of each.
        classes: answers.
        train: which of them may be learned from.
        test: which of them are judged; for identity the same ones, less those that were drawn.
        units: number of the video of each, or its own: what is drawn is judged in no frame.
    """

    places: Int[np.ndarray, " n"]
    labels: Int[Tensor, " n"]
    classes: tuple[str, ...]
    train: Int[Tensor, " a"]
    test: Int[Tensor, " b"]
    units: Int[Tensor, " n"]


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """One line of the table.

    Args:
        features: what the probe reads.
        seed: of a random initialisation.
        fact: what is asked.
        probe: "linear" or "nearest neighbour" (by cosine of standardised features).
        shots: labelled images of each class.
        accuracy: share of right answers, one number per draw.
        balanced: mean over classes of the share found, one number per draw.
        num_classes: classes.
        num_test: judged images of a draw.
    """

    features: str
    seed: int | None
    fact: str
    probe: str
    shots: int
    accuracy: tuple[float, ...]
    balanced: tuple[float, ...]
    num_classes: int
    num_test: int


def identity_question(faces: Sequence[Face], shots: int) -> Question:
    """Return who is it, for people with more images than are learned from.

    Faces of a person are on both sides, as the task wants it; a video never is.

    Raises:
        UsageError: with fewer than two such people.
    """
    alone = [
        (place, face)
        for place, face in enumerate(faces)
        if len(face.identities) == 1 and not face.positive
    ]
    count = Counter(min(face.people) for _, face in alone)
    kept = [(place, min(face.people)) for place, face in alone if count[min(face.people)] > shots]
    names = sorted({who for _, who in kept})
    if len(names) < 2:
        raise UsageError(
            f"{len(names)} people",
            f"have more than {shots} genuine images with a known identity",
            "lower --shots, or curate with identities",
        )
    numbers = {name: number for number, name in enumerate(names)}
    labels = torch.tensor([numbers[who] for _, who in kept])
    everyone = torch.arange(len(kept))
    places = np.array([place for place, _ in kept], np.int64)
    titles = tuple(": ".join(filter(None, name)) for name in names)
    units = numbered([faces[place].unit for place, _ in kept])
    return Question(places, labels, titles, everyone, everyone, units)


def fact_question(faces: Sequence[Face], fact: str) -> Question:
    """Return what a fact or the label says, from the training part to the test part.

    Raises:
        UsageError: when no face has it, or a part has fewer than two answers.
        DataError: when people are in both parts.
    """
    answers = [face.label if fact == "label" else face.facts.get(fact) for face in faces]
    places = [
        place
        for place, answer in enumerate(answers)
        if answer and faces[place].split in ("train", "test")
    ]
    known = sorted({name for face in faces for name in face.facts})
    names = sorted({str(answers[place]) for place in places})
    numbers = {name: number for number, name in enumerate(names)}
    labels = torch.tensor([numbers[str(answers[place])] for place in places], dtype=torch.long)
    sides = [
        torch.tensor([n for n, place in enumerate(places) if faces[place].split == split])
        for split in ("train", "test")
    ]
    if any(len(side) == 0 or len(labels[side.long()].unique()) < 2 for side in sides):
        raise UsageError(
            f"fact {fact!r}",
            "needs two answers among the training and among the test faces",
            f"choose one of: label, {', '.join(known) or 'no facts are known'}",
        )
    train, test = (side.long() for side in sides)
    named = {"train": train, "test": test}
    check_disjoint(
        {name: [faces[places[n]] for n in side.tolist()] for name, side in named.items()},
        f"fact {fact!r}",
    )
    units = numbered([faces[place].unit for place in places])
    return Question(np.array(places, np.int64), labels, tuple(names), train, test, units)


def recognise(
    question: Question,
    features: Float[Tensor, "n f"],
    *,
    fact: str,
    name: str,
    source_seed: int | None,
    shots: int,
    draws: int,
    seed: int = 0,
) -> list[Recognition]:
    """Return both probes with a few labels of each class, over several draws of them.

    Args:
        question: faces and answers.
        features: of the question's faces.
        fact: what is asked.
        name: what the features are called.
        source_seed: of a random initialisation.
        shots: labelled images a class.
        draws: draws of these images.
        seed: of the draws.
    """
    results: dict[str, list[tuple[float, float]]] = {probe: [] for probe in PROBES}
    num_test = 0
    for draw in range(seed * draws, (seed + 1) * draws):
        picked = question.train[few_labels(question.labels[question.train], shots, draw)]
        seen = question.units[picked]
        judged = question.test[~torch.isin(question.units[question.test], seen)]
        num_test = len(judged)
        for probe in PROBES:
            guess = _guess(probe, question, features, picked, judged, draw)
            truth = question.labels[judged]
            results[probe].append((accuracy(guess, truth), balanced_accuracy(guess, truth)))
    return [
        Recognition(
            features=name,
            seed=source_seed,
            fact=fact,
            probe=probe,
            shots=shots,
            accuracy=tuple(right for right, _ in found),
            balanced=tuple(balanced for _, balanced in found),
            num_classes=len(question.classes),
            num_test=num_test,
        )
        for probe, found in results.items()
    ]


def _guess(
    probe: str,
    question: Question,
    features: Float[Tensor, "n f"],
    picked: Int[Tensor, " a"],
    judged: Int[Tensor, " b"],
    seed: int,
) -> Int[Tensor, " b"]:
    labels, num = question.labels[picked], len(question.classes)
    if probe == "linear":
        fit = fit_probe(features[picked], labels, num, seed=seed)
        return fit.scores(features[judged]).argmax(dim=1)
    scores = knn_scores(features[picked], labels, features[judged], num, num_neighbours=1)
    return scores.argmax(dim=1)
