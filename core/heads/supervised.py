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
from ..objectives.labels import IGNORED, dice
from .task import TaskModel


@dataclass(frozen=True)
class TaskOutput:
    """Losses of a batch.

    Args:
        per_sample: loss of each sample.
        terms: mean of each part of the loss, unweighted.
        scores: class scores as the task model returns them.
    """

    per_sample: Float[Tensor, " b"]
    terms: dict[str, Float[Tensor, ""]]
    scores: Float[Tensor, "b k *s"]


class Supervised(nn.Module):
    """A task model with its losses.

    Cross-entropy is summed over the labelled places of a sample and divided by one constant, the
    mean weight of a training sample. Unlike a mean over the labelled places of a batch it is the
    same however a batch is cut, and a sample with ten labelled pixels does not weigh as much as one
    with a thousand.

    Args:
        model: encoder and head.
        class_weight: weight of each class.
        places: mean sum of the weights of a training sample's labelled places, positive.
        smoothing: share of the target's mass spread over all classes.
        dice_weight: factor of the Dice loss (dense labels), 0 leaves it out; overlap is summed over
            a micro-batch, so this part depends on how a batch is cut.
    """

    class_weight: Tensor

    def __init__(
        self,
        model: TaskModel,
        class_weight: Float[Tensor, " k"],
        places: float,
        *,
        smoothing: float = 0.0,
        dice_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if places <= 0:
            raise UsageError("training split", "has no labelled places", "give labelled samples")
        self.model = model
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
        scores = self.model(batch)
        entropy = self._entropy(scores, batch.labels)
        per_sample, terms = entropy, {"cross_entropy": entropy.mean()}
        if self.dice_weight:
            terms["dice"] = dice(scores, batch.labels)
            per_sample = per_sample + self.dice_weight * terms["dice"]
        return TaskOutput(per_sample, terms, scores)

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
        return losses.reshape(len(losses), -1).sum(dim=1) / self.places


def set_drop_path(model: TaskModel, rate: float) -> None:
    """Set stochastic depth: `rate` in the last block, rising linearly from zero in the first."""
    layers = [part for part in model.encoder.modules() if isinstance(part, DropPath)]
    for number, layer in enumerate(layers):
        layer.rate = rate * number / max(len(layers) - 1, 1)


def freeze_encoder(model: TaskModel) -> None:
    """Train the head only."""
    model.encoder.requires_grad_(False)
