"""From faces to scores: features of one pass, a detector on top, probabilities where they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...core.batch import Batch
from ...core.checkpoints.model_dir import LoadedModel, load_model
from ...core.encoders.contract import Encoder
from ...core.errors import UsageError
from ...core.heads.curves import undefined
from ...core.heads.pool import Pooling
from ...core.heads.probe import fit_probe
from ...core.heads.task import HEAD_PART, TaskModel, load_task
from ...datasets.samples import Samples
from ...domains.domain import Normaliser
from ...domains.faces.attacks import simulate
from ...domains.faces.facts import NEGATIVES, POSITIVES
from ..evaluate import RANDOM, model_normaliser
from ..features import Source, collect, image_source, pixel_sources, random_method, stored_batches
from ..stores import OpenGroup, open_group
from .rows import Face, classes, numbered, store_faces, with_attacks

MODEL = "model"
Change = Callable[[Samples], Samples]
Detector = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Faces and how their pixels are read.

    Args:
        groups: the stores; a face's number of the store counts them.
        faces: of all stores, in their order.
        normaliser: of the model.
        size: pixels per axis that the model reads.
        batch_size: faces per forward pass; changes no result.
        device: where the model is.
    """

    groups: tuple[OpenGroup, ...]
    faces: list[Face]
    normaliser: Normaliser
    size: tuple[int, ...]
    batch_size: int = 64
    device: torch.device | str = "cpu"

    def features(
        self, sources: Sequence[Source], places: Int[np.ndarray, " n"], change: Change | None = None
    ) -> list[Float[Tensor, "n f"]]:
        """Return the features of some faces, in the order of their places.

        Args:
            sources: kinds of features; all are made of one reading of the pixels.
            places: in `faces`.
            change: done to the stored pixels first.
        """
        parts = self._parts(places)
        total = sum(-(-len(orders) // self.batch_size) for orders in parts.values())
        batches = self.batches(places, change)
        found = collect(batches, [source.extract for source in sources], "features", total)
        back = torch.tensor([order for orders in parts.values() for order in orders]).argsort()
        return [values[back] for values in found]

    def batches(
        self, places: Int[np.ndarray, " n"], change: Change | None = None
    ) -> Iterator[Batch]:
        """Yield some faces as batches, those of one store and one kind of attack together."""
        for (store, attack), orders in self._parts(places).items():
            steps = [step for step in (attacked(attack) if attack else None, change) if step]
            yield from stored_batches(
                self.groups[store],
                np.array([self.faces[place].row for place in places[orders].tolist()], np.int64),
                self.normaliser,
                size=self.size,
                batch_size=self.batch_size,
                device=self.device,
                change=chained(steps) if steps else None,
            )

    def _parts(self, places: Int[np.ndarray, " n"]) -> dict[tuple[int, str], list[int]]:
        parts: dict[tuple[int, str], list[int]] = {}
        for order, place in enumerate(places.tolist()):
            face = self.faces[place]
            parts.setdefault((face.store, face.attack or ""), []).append(order)
        return parts


def chained(steps: Sequence[Change]) -> Change:
    """Return changes one after the other as one."""

    def changed(samples: Samples) -> Samples:
        for step in steps:
            samples = step(samples)
        return samples

    return changed


def attacked(name: str) -> Change:
    """Return the change that makes simulated attacks of stored genuine faces."""
    return lambda samples: replace(samples, pixels=simulate(name, samples.pixels, samples.rows))


def open_reading(
    loaded: LoadedModel,
    model: Path,
    stores: Sequence[Path],
    *,
    simulated: bool = False,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> Reading:
    """Open the stores that a model is judged on.

    Args:
        loaded: the model.
        model: its folder, for messages.
        stores: folders that curation wrote.
        simulated: add simulated attacks made from genuine faces.
        batch_size: faces per forward pass.
        device: where the model is.

    Raises:
        UsageError: for a store of another domain or with other bands.
        WeightsError: for a model that does not know its normalisation.
        DataError: for a store whose faces were cropped in another way than the model's.
    """
    groups = tuple(open_group(path) for path in stores)
    normalisers = [model_normaliser(loaded, group, model) for group in groups]
    faces = [face for n, group in enumerate(groups) for face in store_faces(group, n)]
    return Reading(
        groups=groups,
        faces=with_attacks(faces) if simulated else faces,
        normaliser=normalisers[0],
        size=loaded.method.grid.image_size,
        batch_size=batch_size,
        device=device,
    )


@dataclass(frozen=True)
class Subject:
    """What is judged: kinds of features, and whether they already are scores.

    Args:
        loaded: the model.
        sources: the model first, then what it is compared with.
        fine_tuned: the model's features are its own probabilities of the positive class.
    """

    loaded: LoadedModel
    sources: list[Source]
    fine_tuned: bool


def open_subject(
    model: Path, pooling: Pooling, *, random_seeds: int, device: torch.device | str
) -> Subject:
    """Open a model for evaluation; a fine-tuned one keeps its own answers.

    Raises:
        UsageError: when a fine-tuned model tells other classes apart.
        WeightsError: when the model cannot be read.
    """
    loaded = load_model(model, device=device)
    loaded.method.eval()
    pixels = [source for source in pixel_sources() if source.name == "16x16 pixels"]
    if f"{HEAD_PART}.safetensors" in loaded.tensors:
        task = load_task(model, device=device)
        own = Source(MODEL, lambda batch: positive_probability(task.model, batch))
        answer_classes(task.config.classes, model)
        return Subject(loaded, [own, *pixels], fine_tuned=True)
    encoder: Encoder = loaded.method.encoder
    pooling.check(encoder)
    sources = [image_source(MODEL, encoder, pooling)]
    for seed in range(random_seeds):
        fresh = random_method(loaded.config, loaded.method.grid, 1000 + seed).to(device)
        sources.append(image_source(RANDOM, fresh.encoder, pooling, seed))
    return Subject(loaded, [*sources, *pixels], fine_tuned=False)


def answer_classes(names: Sequence[str], subject: object) -> list[int]:
    """Return which of a model's classes are positive.

    Raises:
        UsageError: unless all classes say genuine or not, and both occur.
    """
    positive = [place for place, name in enumerate(names) if name in POSITIVES]
    if not positive or len(positive) == len(names) or set(names) - {*POSITIVES, *NEGATIVES}:
        raise UsageError(
            subject,
            f"tells {', '.join(names)} apart, not genuine faces from fakes or attacks",
            f"fine-tune on labels {', '.join(NEGATIVES + POSITIVES)}",
        )
    return positive


def positive_probability(model: TaskModel, batch: Batch) -> Float[Tensor, "b 1"]:
    """Return a fine-tuned model's probability that a face is a fake or an attack."""
    positive = answer_classes(model.config.classes, "the model")
    return model.probabilities(batch)[:, positive].sum(dim=1, keepdim=True)


def fit_detector(
    features: Float[Tensor, "n f"],
    faces: Sequence[Face],
    dev_features: Float[Tensor, "m f"],
    dev_faces: Sequence[Face],
    seed: int = 0,
) -> tuple[Detector, bool]:
    """Fit a linear detector on frozen features.

    Its penalty is chosen on held-out people of the training faces. Development faces, where there
    are both classes, turn its scores into probabilities (Platt 1999): they never fit its weights.

    Args:
        features: of the training faces.
        faces: the training faces.
        dev_features: of the development faces; may be none.
        dev_faces: the development faces.
        seed: of the held-out people.

    Returns:
        Function from features to scores, and whether its scores are probabilities.

    Raises:
        UsageError: when training faces are of one class.
    """
    positive = classes(faces)
    if reason := undefined(positive):
        what = reason.partition(",")[0]
        raise UsageError(
            "training faces", f"hold {what}", "give stores with genuine faces and fakes"
        )
    people = numbered([min(face.people) if face.people else face.unit for face in faces])
    groups = people if len(people.unique()) * 2 <= len(people) else None
    ridge = fit_probe(
        features, positive.long(), 2, seed=seed, groups=_whole_people(groups, positive)
    )

    def margin(values: Tensor) -> Tensor:
        both = ridge.scores(values)
        return both[:, 1] - both[:, 0]

    known = classes(dev_faces)
    if not len(known) or undefined(known):
        return margin, False
    slope, offset = platt(margin(dev_features), known)
    return (lambda values: torch.sigmoid(slope * margin(values) + offset)), True


def _whole_people(groups: Tensor | None, positive: Bool[Tensor, " n"]) -> Tensor | None:
    """Return groups for holding out people, where that leaves both classes on both sides.

    A collection whose people are either all genuine or all fake still has several of each.
    """
    if groups is None:
        return None
    counts = [len(groups[positive == side].unique()) for side in (True, False)]
    return groups if min(counts) >= 8 else None


def platt(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> tuple[float, float]:
    """Return slope and offset of the sigmoid that turns scores into probabilities."""
    from sklearn.linear_model import LogisticRegression

    spread = float(scores.std().clamp_min(1e-9))
    # Ends of a class that is told apart perfectly would be infinite without a little penalty.
    fit = LogisticRegression(C=10.0).fit((scores / spread).numpy()[:, None], positive.numpy())
    return max(float(fit.coef_[0, 0]), 1e-6) / spread, float(fit.intercept_[0])
