"""A method is a value: mask, encoder and heads, and the one forward that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .batch import Batch, Progress
from .context import Context, make_context
from .decoders.contract import Predictor
from .encoders.contract import Features
from .encoders.vit import ViT
from .errors import UsageError
from .grid import Grid
from .masking.plan import MaskPlan
from .masking.strategies import MaskStrategy
from .noise import Noise
from .objectives.dense import TokenLoss
from .objectives.reduce import reduce
from .targets.contract import Target


@dataclass(frozen=True)
class Output:
    """Everything a step, a report or a test may ask for.

    Args:
        loss: the number that is minimised, float32.
        terms: mean loss of each head, unweighted.
        per_sample: weighted sum over heads for every sample; the loss is its mean.
        plan: roles of the tokens.
        predictions: per head, for the plan's predicted tokens in raster order.
        features: what the encoder gave.
        context: patches, absent tokens and progress of the step.
    """

    loss: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    per_sample: Float[Tensor, " b"]
    plan: MaskPlan
    predictions: dict[str, Float[Tensor, "b p t"]]
    features: Features
    context: Context


class Head(nn.Module):
    """One objective: who predicts, what is true, how far apart, how much it counts.

    Args:
        predictor: guesses the target of tokens.
        target: called without gradient as target(context, index).
        loss: per-token loss.
        weight: factor in the sum over heads.
    """

    def __init__(
        self, predictor: Predictor, target: Target, loss: TokenLoss, weight: float = 1.0
    ) -> None:
        super().__init__()
        self.predictor, self.target, self.loss, self.weight = predictor, target, loss, weight

    @property
    def taps(self) -> tuple[int, ...]:
        """Encoder blocks whose output the predictor reads."""
        return self.predictor.taps

    def predict(
        self, features: Features, plan: MaskPlan, index: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, "b q t"]:
        """Return predictions for tokens (by default those the plan asks for)."""
        return self.predictor(features, plan, index)

    def forward(
        self, features: Features, plan: MaskPlan, context: Context
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "b p t"]]:
        """Return the loss of each sample and the predictions."""
        prediction = self.predict(features, plan)
        with torch.no_grad():
            truth = self.target(context, plan.predict)
        per_token, weight = self.loss(prediction, truth)
        return reduce(per_token, weight * plan.predict_weight), prediction


class Method(nn.Module):
    """A pre-training method composed of a mask, an encoder and heads.

    Args:
        name: the method's name in the table.
        grid: geometry of the images it is trained on.
        mask: strategy that gives every token its role.
        encoder: represents visible tokens.
        heads: objectives by name.
        min_valid: tokens with a smaller share of valid pixels are absent.
    """

    def __init__(
        self,
        name: str,
        grid: Grid,
        mask: MaskStrategy,
        encoder: ViT,
        heads: Mapping[str, Head],
        min_valid: float = 0.5,
    ) -> None:
        super().__init__()
        self.name, self.grid, self.mask, self.min_valid = name, grid, mask, min_valid
        self.encoder = encoder
        self.heads = nn.ModuleDict(heads)

    @property
    def objectives(self) -> dict[str, Head]:
        """The heads by name."""
        return cast("dict[str, Head]", dict(self.heads.items()))

    @property
    def taps(self) -> tuple[int, ...]:
        """Encoder blocks whose raw output some head reads."""
        return tuple(sorted({tap for head in self.objectives.values() for tap in head.taps}))

    def context(self, batch: Batch, progress: Progress, noise: Noise) -> Context:
        """Cut a batch into tokens.

        Raises:
            UsageError: when the images are not of the size and channels the method was made for.
        """
        wanted = (self.grid.channels, *self.grid.image_size)
        if tuple(batch.images.shape[1:]) != wanted:
            raise UsageError(
                f"images of shape {tuple(batch.images.shape[1:])}",
                f"do not fit a method made for {wanted} (channels, then pixels per axis)",
                "crop the images, select the bands, or build the method for this size",
            )
        return make_context(batch, self.grid, progress, noise, self.encoder.embed, self.min_valid)

    def forward(
        self, batch: Batch, progress: Progress, noise: Noise, plan: MaskPlan | None = None
    ) -> Output:
        """Run one step: plan, encode what is seen, predict, compare.

        Args:
            batch: normalised images.
            progress: where the run stands.
            noise: all randomness of the step.
            plan: a given plan instead of the method's own, for tests and pictures.
        """
        context = self.context(batch, progress, noise)
        plan = self.mask(context) if plan is None else plan
        features = self.encoder.encode_patches(context.patches, plan, taps=self.taps)
        per_sample = torch.zeros(context.batch_size, device=batch.images.device)
        terms, predictions = {}, {}
        for name, head in self.objectives.items():
            losses, predictions[name] = head(features, plan, context)
            terms[name] = losses.mean()
            per_sample = per_sample + head.weight * losses
        return Output(per_sample.mean(), terms, per_sample, plan, predictions, features, context)
