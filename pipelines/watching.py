"""What is looked at while a run trains: the masked loss of held-out samples, probes, collapse.

Nothing here changes the run: no random state is used up, and no number chooses anything but, where
asked for, which state is kept as the best (by the held-out loss).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.batch import Progress
from ..core.heads.collapse import effective_rank, relative_spread
from ..core.heads.knn import knn_scores
from ..core.heads.pool import Pooling, image_features
from ..core.heads.probe import balanced_accuracy, fit_ridges
from ..core.method import Method
from ..core.noise import Noise
from ..core.training.engine import step_seed
from ..domains.domain import Normaliser
from .efficiency import Efficiency
from .features import image_source, stored_batches, token_source
from .probe_data import ProbeData, Reading, labelled_task, read_probe_data
from .recipe import Recipe
from .stores import OpenGroup

_VALIDATION = 7  # stream of random numbers for the masks of held-out samples
_PENALTY = 1.0  # of the linear probe: one for all looks, so that they can be compared
_TOKENS = 4000  # with classes of pixels, on each side of a probe


@dataclass(frozen=True)
class Watch:
    """A model in training and the samples by which it is watched.

    Args:
        recipe: sizes and seed.
        method: what is trained.
        group: the store.
        normaliser: of the store.
        held_out: (n,) rows of the validation split.
        train: (m,) labelled training rows that probes are fitted on; empty without classes.
        device: where the model is.
    """

    recipe: Recipe
    method: Method
    group: OpenGroup
    normaliser: Normaliser
    held_out: np.ndarray
    train: np.ndarray
    device: torch.device

    @torch.no_grad()
    def loss(self) -> Mapping[str, float]:
        """Return the masked loss of held-out samples and, of several, each head's part.

        Masks are the same at every call and are drawn as at the end of the run, so that a
        curriculum does not show as a change of the loss. Between runs it predicts quality after
        fine-tuning (Xie et al., "On Data Scaling in Masked Image Modeling", CVPR 2023, section 5).
        """
        noise = Noise(step_seed(self.recipe.seed, 0, _VALIDATION), self.device)
        sums: dict[str, float] = {}
        for batch in self._batches(self.held_out, self.recipe.batch_size):
            output = self.method(batch, Progress(1.0, 1), noise)
            parts = {"loss": output.per_sample.sum()}
            if len(output.terms) > 1:
                parts |= {f"loss_{k}": v * len(batch.ids) for k, v in output.terms.items()}
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return {name: value / len(self.held_out) for name, value in sums.items()}

    def features(self) -> Mapping[str, float]:
        """Return meters of collapse and, with classes, the balanced accuracy of two probes."""
        found = torch.cat([self._pooled(batch) for batch in self._batches(self.held_out, 64)])
        numbers: dict[str, float] = {
            "effective_rank": effective_rank(found),
            "spread": relative_spread(found),
        }
        return {**numbers, **(self._probes() if len(self.train) else {})}

    def _pooled(self, batch) -> Float[Tensor, "b f"]:
        return image_features(self.method.encoder, batch, Pooling()).cpu()

    def _batches(self, rows: np.ndarray, size: int):
        return stored_batches(
            self.group,
            rows,
            self.normaliser,
            size=self.recipe.image_size,
            batch_size=size,
            device=self.device,
        )

    def _probes(self) -> Mapping[str, float]:
        data = self._probe_data()
        features, truth = data.features[0], data.truth
        num_classes = len(truth.classes)
        if len(truth.train.unique()) < 2 or not len(truth.test):
            return {}
        train, test = features.train.float(), features.test.float()
        linear = fit_ridges(train, truth.train, num_classes, (_PENALTY,))[0].scores(test)
        nearest = knn_scores(train, truth.train, test, num_classes)
        return {
            f"{name}_probe": balanced_accuracy(scores.argmax(1), truth.test)
            for name, scores in (("linear", linear), ("knn", nearest))
        }

    def _probe_data(self) -> ProbeData:
        task = labelled_task(self.group)
        assert task is not None  # there are labelled rows
        source = (image_source if task == "classify" else token_source)(
            "model", self.method.encoder, Pooling()
        )
        reading = Reading(
            group=self.group,
            normaliser=self.normaliser,
            grid=self.method.grid,
            max_tokens=_TOKENS,
            device=self.device,
        )
        known = np.intersect1d(self.held_out, self.group.rows("val", labelled=True))
        return read_probe_data(reading, [source], task, self.train, known)


def watch(
    recipe: Recipe,
    method: Method,
    group: OpenGroup,
    normaliser: Normaliser,
    efficiency: Efficiency,
    device: torch.device,
) -> Watch | None:
    """Return what watches a run; None when there are no held-out samples.

    Args:
        recipe: of the run.
        method: what is trained.
        group: the store.
        normaliser: of the store.
        efficiency: says how many samples are looked at.
        device: where the model is.
    """
    rows = group.rows("val")[: efficiency.validate_samples]
    rows = rows[: len(rows) // method.batch_multiple * method.batch_multiple]
    if not len(rows):
        return None
    train = np.zeros(0, np.int64)
    if efficiency.probe_samples and labelled_task(group) is not None:
        if len(np.intersect1d(rows, group.rows("val", labelled=True))):
            train = group.rows("train", labelled=True)
        if len(train) > efficiency.probe_samples:
            train = train[np.linspace(0, len(train) - 1, efficiency.probe_samples).astype(int)]
    return Watch(recipe, method, group, normaliser, rows, train, device)
