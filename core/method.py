"""A method is a value: mask, encoder and heads, and the one forward that runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .batch import Batch, Progress
from .context import Context, make_context
from .corruption import Corruption
from .decoders.contract import Predictor, Trunk
from .encoders.contract import Encoder, Features
from .errors import UsageError
from .grid import Grid
from .masking.plan import MaskPlan
from .masking.strategies import MaskStrategy
from .noise import Noise
from .objectives.dense import TokenLoss
from .objectives.reduce import reduce
from .targets.contract import Target, TargetValue
from .teacher import Teacher
from .tokens import all_tokens
from .views import Seen, Views, stack_views


@dataclass(frozen=True)
class Output:
    """Everything a step, a report or a test may ask for.

    Args:
        loss: the number that is minimised, float32.
        terms: mean loss of each head, unweighted.
        per_sample: weighted sum over heads for every sample; the loss is its mean.
        plan: roles of the tokens of the first view.
        predictions: per head, for the plan's predicted tokens in raster order.
        features: what the encoder gave for the first view.
        context: patches, absent tokens and progress of the step, first view.
        seen: the same three for all views; with one view they are those above.
    """

    loss: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    per_sample: Float[Tensor, " b"]
    plan: MaskPlan
    predictions: dict[str, Float[Tensor, "b p t"]]
    features: Features
    context: Context
    seen: Seen


@dataclass(frozen=True)
class HeadResult:
    """What an objective computed, for all rows that it was given.

    Args:
        per_sample: loss of every sample, or of every view of every sample.
        prediction: for the plan's predicted tokens, or for all of a head that answers for all;
            None when the objective predicts none.
        per_token: loss of each predicted token; None when there is no such thing.
        weight: how much each token counts.
    """

    per_sample: Float[Tensor, " b"]
    prediction: Float[Tensor, "b p t"] | None = None
    per_token: Float[Tensor, "b p"] | None = None
    weight: Float[Tensor, "b p"] | None = None


class Objective(nn.Module, ABC):
    """One term of a method's loss.

    Attributes:
        weight: factor in the sum over objectives.
        first_view: look at the first view only, where a method has several; the losses of an
            objective that looks at all are averaged over them.
    """

    weight: float = 1.0
    first_view: bool = False

    @property
    def taps(self) -> tuple[int, ...]:
        """Encoder blocks whose raw output is read."""
        return ()

    @abstractmethod
    def forward(
        self,
        features: Features,
        plan: MaskPlan,
        context: Context,
        earlier: Mapping[str, HeadResult],
    ) -> HeadResult:
        """Compute the loss of every sample.

        Args:
            features: of the encoder.
            plan: roles of the tokens.
            context: of the step.
            earlier: results of the objectives in front of this one, by name.
        """

    @abstractmethod
    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of one sample's forward; see `Predictor.forward_flops`."""

    def teacher_flops(self, encoder: Encoder) -> int:
        """Return the FLOP that a teacher spends on one sample for this objective."""
        del encoder
        return 0


class Head(Objective):
    """One objective on tokens: who predicts, what is true, how far apart, how much it counts.

    Args:
        predictor: guesses the target of tokens.
        target: called without gradient as target(context, index).
        loss: per-token loss.
        weight: factor in the sum over heads.
        first_view: see `Objective`.
        num_everywhere: tokens of the grid, to answer for all of them, visible ones too, instead
            of those that the plan asks for.
    """

    def __init__(
        self,
        predictor: Predictor,
        target: Target,
        loss: TokenLoss,
        weight: float = 1.0,
        first_view: bool = False,
        num_everywhere: int | None = None,
    ) -> None:
        super().__init__()
        self.num_everywhere = num_everywhere
        self.predictor, self.target, self.loss, self.weight = predictor, target, loss, weight
        self.first_view = first_view

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
        self,
        features: Features,
        plan: MaskPlan,
        context: Context,
        earlier: Mapping[str, HeadResult],
    ) -> HeadResult:
        """Compare predictions of the plan's tokens, or of all, with the truth."""
        del earlier
        if self.num_everywhere is not None:
            rows, device = len(plan.predict), plan.predict.device
            plan = replace(plan, predict=all_tokens(rows, self.num_everywhere, device))
        prediction = self.predict(features, plan)
        with torch.no_grad():
            truth = self.target(context, plan.predict)
        per_token, weight = self.compare(prediction, truth, plan)
        return HeadResult(reduce(per_token, weight), prediction, per_token, weight)

    def compare(
        self, prediction: Float[Tensor, "b q t"], truth: TargetValue, plan: MaskPlan
    ) -> tuple[Float[Tensor, "b q"], Float[Tensor, "b q"]]:
        """Return the loss of each predicted token and how much it counts."""
        per_token, weight = self.loss(prediction, truth)
        return per_token, weight * plan.predict_weight

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of the predictor."""
        num = num_predict if self.num_everywhere is None else self.num_everywhere
        return self.predictor.forward_flops(num_context, num)


class Method(nn.Module):
    """A pre-training method composed of a mask, an encoder and heads.

    Args:
        name: the method's name in the table.
        grid: geometry of the images it is trained on.
        mask: strategy that gives every token its role.
        encoder: represents tokens.
        heads: objectives by name, in the order in which they are computed.
        corruption: what stands in for hidden tokens; None drops them, so that the encoder never
            computes them.
        neck: what is normalised last, see `Encoder.encode_patches`; a module of (last output, taps)
            with the attribute `taps`.
        trunk: computed once behind the encoder and shared by heads, see `Features.trunk`.
        teacher: slow copy of parts of this method, named by their path in it, or a frozen model.
        views: how the masks of further views of each image follow from that of the first one; None
            for a method that looks at each image once.
        min_valid: tokens with a smaller share of valid pixels are absent.
    """

    def __init__(
        self,
        name: str,
        grid: Grid,
        mask: MaskStrategy,
        encoder: Encoder,
        heads: Mapping[str, Objective],
        *,
        corruption: Corruption | None = None,
        neck: nn.Module | None = None,
        trunk: Trunk | None = None,
        teacher: Teacher | None = None,
        views: Views | None = None,
        min_valid: float = 0.5,
    ) -> None:
        super().__init__()
        self.name, self.grid, self.mask, self.min_valid = name, grid, mask, min_valid
        self.encoder = encoder
        self.heads = nn.ModuleDict(heads)
        self.corruption, self.neck, self.trunk = corruption, neck, trunk
        self.teacher, self.views = teacher, views

    @property
    def objectives(self) -> dict[str, Objective]:
        """All terms of the loss by name."""
        return cast("dict[str, Objective]", dict(self.heads.items()))

    @property
    def taps(self) -> tuple[int, ...]:
        """Encoder blocks whose raw output some head, the neck or the trunk reads."""
        taps = {tap for head in self.objectives.values() for tap in head.taps}
        for part in (self.neck, self.trunk):
            taps |= set(getattr(part, "taps", ()))
        return tuple(sorted(taps))

    @property
    def num_views(self) -> int:
        """Views of each image."""
        return 1 if self.views is None else self.views.num_views

    @property
    def num_encoded(self) -> int:
        """Tokens of a view that the encoder computes, prefix tokens not counted."""
        if self.corruption is None:
            return self.mask.num_visible
        return self.corruption.num_encoded(self.grid, self.mask.num_visible)

    @property
    def batch_multiple(self) -> int:
        """Samples that a batch has to be a multiple of: more than one where images are mixed."""
        return getattr(self.corruption, "group", 1)

    def encoder_flops(self) -> int:
        """Return the FLOP of one view's pass through the encoder."""
        if self.corruption is None:
            return self.encoder.visible_flops(self.num_encoded)
        return self.corruption.encoder_flops(self.encoder, self.grid)

    def scalars(self) -> dict[str, Tensor]:
        """Return numbers that parts want to see in the log beside the loss, by name."""
        return getattr(self.neck, "scalars", dict)()

    def after_step(self, progress: Progress) -> None:
        """Let the teacher follow; called after every update of the weights.

        Args:
            progress: where the run stood before the update.
        """
        if self.teacher is not None:
            students = {name: self.get_submodule(name) for name in self.teacher.names}
            self.teacher.update(students, progress)

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
        context = make_context(
            batch, self.grid, progress, noise, self.encoder.embed, self.min_valid
        )
        features = batch.features
        if features is None and self.teacher is not None:
            features = self.teacher.tokens(context.images)
        return replace(context, teacher=self.teacher, features=features)

    def encode(self, context: Context, plan: MaskPlan) -> Features:
        """Represent what a plan shows."""
        if self.corruption is None:
            features = self.encoder.encode_patches(
                context.patches, plan, taps=self.taps, neck=self.neck
            )
        else:
            context = replace(context, plan=plan)
            features = self.corruption.encode(self.encoder, context, self.taps, self.neck)
        if self.trunk is not None:
            features = replace(features, trunk=self.trunk(features, plan))
        return features

    def see(
        self, batch: Batch, progress: Progress, noise: Noise, plan: MaskPlan | None = None
    ) -> Seen:
        """Make the views of a batch, plan what each shows and encode it; see `forward`."""
        context = self.context(stack_views(batch, self.views), progress, noise)
        context = replace(context, num_views=self.num_views)
        plan = self.mask(context.first()) if plan is None else plan
        if self.views is not None and len(plan.visible) < context.batch_size:
            plan = self.views(context, plan)
        return Seen(context, plan, self.encode(context, plan))

    def forward(
        self, batch: Batch, progress: Progress, noise: Noise, plan: MaskPlan | None = None
    ) -> Output:
        """Run one step: plan, encode what is seen, predict, compare.

        Args:
            batch: normalised images.
            progress: where the run stands.
            noise: all randomness of the step.
            plan: a given plan instead of the method's own, for tests and pictures; of the first
                view, or of all.
        """
        seen = self.see(batch, progress, noise, plan)
        first, num = seen.first(), seen.context.num_samples
        per_sample = torch.zeros(num, device=batch.images.device)
        results: dict[str, HeadResult] = {}
        for name, head in self.objectives.items():
            own = first if head.first_view else seen
            result = head(own.features, own.plan, own.context, results)
            results[name] = result
            over_views = result.per_sample.unflatten(0, (-1, num)).mean(dim=0)
            per_sample = per_sample + head.weight * over_views
        terms = {name: result.per_sample.mean() for name, result in results.items()}
        predictions = {
            name: result.prediction[:num]
            for name, result in results.items()
            if result.prediction is not None
        }
        shown = (first.plan, predictions, first.features, first.context)
        return Output(per_sample.mean(), terms, per_sample, *shown, seen)
