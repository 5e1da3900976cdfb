"""Training a task model: losses of labelled images or pixels that add up over any micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ..batch import Batch, Progress
from ..errors import UsageError
from ..layers import DropPath
from ..noise import Noise
from ..objectives.labels import IGNORED
from ..objectives.segmentation import DenseLoss, coarser, dice_loss, focal_loss
from .task import TaskModel


@dataclass(frozen=True)
class TaskOutput:
    """Losses of a batch.

    Args:
        per_sample: loss of each sample.
        terms: mean of each part of the loss, unweighted, in full resolution.
        scores: class scores as the task model returns them.
    """

    per_sample: Float[Tensor, " b"]
    terms: dict[str, Float[Tensor, ""]]
    scores: Float[Tensor, "b k *s"]


class Supervised(nn.Module):
    """A task model with its losses.

    Cross-entropy (or focal loss) is summed over the labelled places of a sample and divided by one
    constant, the mean weight of a training sample. Unlike a mean over the labelled places of a
    batch it is the same however a batch is cut, and a sample with ten labelled pixels does not
    weigh as much as one with a thousand. Dice is that of each sample. A head that also scores
    coarser levels (deep supervision) is trained on all of them, each level with half the weight of
    the next finer one, weights summing to one.

    Args:
        model: encoder and head.
        class_weight: weight of each class.
        places: mean sum of the weights of a training sample's labelled places, positive.
        loss: which parts; Dice and focal loss are for dense labels.
        smoothing: share of the target's mass spread over all classes, in cross-entropy.
        dice_weight: factor of the Dice loss where there is one.
    """

    class_weight: Tensor

    def __init__(
        self,
        model: TaskModel,
        class_weight: Float[Tensor, " k"],
        places: float,
        *,
        loss: DenseLoss = "cross-entropy",
        smoothing: float = 0.0,
        dice_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if places <= 0:
            raise UsageError("training split", "has no labelled places", "give labelled samples")
        self.model, self.loss = model, loss
        self.places, self.smoothing, self.dice_weight = places, smoothing, dice_weight
        self.register_buffer("class_weight", class_weight, persistent=False)

    def forward(self, batch: Batch, progress: Progress, noise: Noise) -> TaskOutput:
        """Return the losses of labelled samples.

        Raises:
            UsageError: for a batch without labels.
        """
        del progress, noise
        if batch.labels is None:
            raise UsageError("batch", "has no labels", "train a task on a labelled store")
        every = self.model.all_scores(batch)
        weights = [0.5**level for level in range(len(every))]
        total: Tensor | float = 0.0
        terms: dict[str, Tensor] = {}
        for weight, scores in zip(weights, every, strict=True):
            labels = coarser(batch.labels, tuple(scores.shape[2:]))
            # A coarse level has fewer places; its sums are brought to the scale of the finest.
            parts = self._parts(scores, labels, labels.numel() / batch.labels.numel())
            terms = terms or {name: part.mean() for name, part in parts.items()}
            loss = sum(self._factor(name) * part for name, part in parts.items())
            total = total + weight / sum(weights) * loss
        assert isinstance(total, Tensor)
        return TaskOutput(total, terms, every[0])

    def _factor(self, part: str) -> float:
        return self.dice_weight if part == "dice" else 1.0

    def _parts(
        self, scores: Float[Tensor, "b k *s"], labels: Int[Tensor, "b *s"], share: float
    ) -> dict[str, Float[Tensor, " b"]]:
        """Return each part of the loss of every sample."""
        places = self.places * share
        if self.loss == "dice-focal":
            parts = {"focal": focal_loss(scores, labels, self.class_weight) / places}
        else:
            parts = {"cross_entropy": self._entropy(scores, labels) / places}
        if self.loss != "cross-entropy":
            parts["dice"] = dice_loss(scores, labels)
        return parts

    def _entropy(
        self, scores: Float[Tensor, "b k *s"], labels: Int[Tensor, "b *s"]
    ) -> Float[Tensor, " b"]:
        losses = functional.cross_entropy(
            scores.float(),
            labels,
            weight=self.class_weight,
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self.smoothing,
        )
        return losses.reshape(len(losses), -1).sum(dim=1)


def set_drop_path(model: TaskModel, rate: float) -> None:
    """Set stochastic depth: `rate` in the last block, rising linearly from zero in the first."""
    layers = [part for part in model.encoder.modules() if isinstance(part, DropPath)]
    for number, layer in enumerate(layers):
        layer.rate = rate * number / max(len(layers) - 1, 1)


def freeze_encoder(model: TaskModel) -> None:
    """Train the head only."""
    model.encoder.requires_grad_(False)
