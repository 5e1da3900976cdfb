"""Scores of a two-class detector: curves, error rates at a threshold, calibration, intervals.

The positive class is what the detector looks for (a fake, a presentation attack); a larger score
says "positive". Nothing here chooses a threshold on the data it judges unless its name says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import UsageError

Reduce = Literal["mean", "median"]
Metric = Callable[[Tensor, Tensor], float]

_CLIP = 1e-4  # rates of 0 and 1 have no place on the axes of a DET curve


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic, from the strictest threshold to the laxest.

    Args:
        fpr: share of negatives with a score at or above the threshold; from 0 to 1.
        tpr: share of positives with a score at or above the threshold; from 0 to 1.
        threshold: falling scores; the first is infinite, where nothing is called positive.
    """

    fpr: Float[Tensor, " k"]
    tpr: Float[Tensor, " k"]
    threshold: Float[Tensor, " k"]

    @property
    def fnr(self) -> Float[Tensor, " k"]:
        """Share of positives that are missed."""
        return 1.0 - self.tpr

    def det(self) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """Return (fpr, fnr) as normal deviates, the axes of a DET curve (Martin et al. 1997)."""
        rates = torch.stack([self.fpr, self.fnr]).clamp(_CLIP, 1 - _CLIP)
        first, second = torch.special.ndtri(rates)
        return first, second


@dataclass(frozen=True)
class ErrorRates:
    """Errors at one threshold, in the words of ISO/IEC 30107-3.

    Args:
        threshold: scores at or above it are called an attack.
        apcer: attacks called bona fide, as a share; of the worst species where there are several.
        bpcer: bona fide called an attack, as a share.
        acer: mean of `apcer` and `bpcer`.
        hter: mean of `bpcer` and the share of all attacks called bona fide (species pooled).
        accuracy: share of right answers.
        balanced_accuracy: one minus `hter`.
        species: share of missed attacks of each species; empty when none was named.
    """

    threshold: float
    apcer: float
    bpcer: float
    acer: float
    hter: float
    accuracy: float
    balanced_accuracy: float
    species: dict[str, float]


@dataclass(frozen=True)
class Reliability:
    """How far probabilities are what they say.

    Args:
        ece: expected calibration error, the mean gap weighted by the count of a bin.
        stated: mean probability of each bin that holds something.
        observed: share of positives in it.
        count: its number of samples.
    """

    ece: float
    stated: tuple[float, ...]
    observed: tuple[float, ...]
    count: tuple[int, ...]


@dataclass(frozen=True)
class Interval:
    """A confidence interval from resampling whole groups.

    Args:
        low: lower end.
        high: upper end.
        level: share of draws inside.
        num_groups: groups that were resampled.
        num_draws: draws with a defined value.
        num_undefined: draws that held one class only and count for nothing.
    """

    low: float
    high: float
    level: float
    num_groups: int
    num_draws: int
    num_undefined: int


def undefined(positive: Bool[Tensor, " n"]) -> str | None:
    """Return why curves of such a set are undefined, None when both classes are there."""
    num = int(positive.sum())
    if 0 < num < len(positive):
        return None
    which = "no positive" if num == 0 else "no negative"
    return f"{which} among {len(positive)} samples, so ROC, AUC and EER are undefined"


def roc(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> Roc:
    """Return the ROC curve; equal scores are one step.

    Raises:
        UsageError: for one class only, or a score that is not finite.
    """
    reason = undefined(positive)
    if reason is not None:
        raise UsageError("scores", f"hold {reason}", "judge on a set with both classes")
    if not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).sum())
        raise UsageError("scores", f"{bad} of {len(scores)} are not finite", "score these again")
    ordered, order = scores.double().sort(descending=True, stable=True)
    hits = positive[order].double().cumsum(0)
    alarms = (~positive[order]).double().cumsum(0)
    last = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool)])
    zero, infinite = hits.new_zeros(1), hits.new_full((1,), torch.inf)
    return Roc(
        fpr=torch.cat([zero, alarms[last] / alarms[-1]]),
        tpr=torch.cat([zero, hits[last] / hits[-1]]),
        threshold=torch.cat([infinite, ordered[last]]),
    )


def auc(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float:
    """Return the area under the ROC curve: the chance that a positive outscores a negative.

    Raises:
        UsageError: see `roc`.
    """
    curve = roc(scores, positive)
    return float(torch.trapezoid(curve.tpr, curve.fpr))


def eer(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float:
    """Return the equal error rate: where the ROC curve, drawn straight, has fpr = fnr.

    Raises:
        UsageError: see `roc`.
    """
    curve = roc(scores, positive)
    gap = curve.fpr - curve.fnr  # rises from -1 to 1
    after = int((gap >= 0).nonzero()[0, 0])
    low, high = gap[after - 1], gap[after]
    part = -low / (high - low)
    return float(torch.lerp(curve.fpr[after - 1], curve.fpr[after], part))


def eer_threshold(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float:
    """Return the threshold at which fpr and fnr are closest; of equals the strictest.

    It lies midway between two scores, so that where the classes are apart neither is favoured.
    Choosing it on the data that is judged flatters the result: give development data.

    Raises:
        UsageError: see `roc`.
    """
    curve = roc(scores, positive)
    best = 1 + int((curve.fpr - curve.fnr)[1:].abs().argmin())  # the first one is infinite
    below = curve.threshold[min(best + 1, len(curve.threshold) - 1)]
    return float((curve.threshold[best] + below) / 2)


def tpr_at_fpr(
    scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"], limit: float = 0.01
) -> float:
    """Return the largest share of positives found while at most `limit` of negatives are called.

    Nothing is interpolated: with fewer than 1 / limit negatives no false alarm is allowed.

    Raises:
        UsageError: see `roc`.
    """
    curve = roc(scores, positive)
    return float(curve.tpr[curve.fpr <= limit].max())


def error_rates(
    scores: Float[Tensor, " n"],
    positive: Bool[Tensor, " n"],
    threshold: float,
    species: Sequence[str] | None = None,
) -> ErrorRates:
    """Return the errors at a threshold.

    Args:
        scores: larger means attack.
        positive: true for attacks.
        threshold: from development data, unless the caller says otherwise in the result's name.
        species: kind of attack of every sample (ignored for bona fide); one kind when None.

    Raises:
        UsageError: for one class only.
    """
    reason = undefined(positive)
    if reason is not None:
        raise UsageError("scores", f"hold {reason}", "judge on a set with both classes")
    called = scores >= threshold
    bpcer = float(called[~positive].double().mean())
    missed = ~called[positive]
    pooled = float(missed.double().mean())
    kinds: dict[str, float] = {}
    if species is not None:
        names = [name for name, attack in zip(species, positive.tolist(), strict=True) if attack]
        for kind in sorted(set(names)):
            of_kind = torch.tensor([name == kind for name in names])
            kinds[kind] = float(missed[of_kind].double().mean())
    apcer = max(kinds.values(), default=pooled)
    hter = (pooled + bpcer) / 2
    return ErrorRates(
        threshold=threshold,
        apcer=apcer,
        bpcer=bpcer,
        acer=(apcer + bpcer) / 2,
        hter=hter,
        accuracy=float((called == positive).double().mean()),
        balanced_accuracy=1 - hter,
        species=kinds,
    )


def reliability(
    probabilities: Float[Tensor, " n"], positive: Bool[Tensor, " n"], num_bins: int = 10
) -> Reliability:
    """Return the reliability diagram of probabilities and its error (Guo et al. 2017, eq. 3).

    Args:
        probabilities: of the positive class, 0 to 1.
        positive: which samples are.
        num_bins: bins of equal width.

    Raises:
        UsageError: for numbers that are no probabilities, or none at all.
    """
    if not len(probabilities) or not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        reason = "are none, or not all between 0 and 1"
        raise UsageError("probabilities", reason, "give the softmax of a classifier")
    place = (probabilities.double() * num_bins).long().clamp_max(num_bins - 1)
    count = torch.bincount(place, minlength=num_bins)
    stated = torch.bincount(place, probabilities.double(), num_bins) / count.clamp_min(1)
    observed = torch.bincount(place, positive.double(), num_bins) / count.clamp_min(1)
    ece = float(((stated - observed).abs() * count).sum() / len(probabilities))
    kept = count > 0
    return Reliability(
        ece,
        tuple(stated[kept].tolist()),
        tuple(observed[kept].tolist()),
        tuple(int(n) for n in count[kept]),
    )


def reduce_groups(
    values: Float[Tensor, " n"], groups: Int[Tensor, " n"], how: Reduce = "mean"
) -> Float[Tensor, " g"]:
    """Return one value per group, in the order of group numbers: the score of a video.

    Args:
        values: scores of frames.
        groups: number of each frame's video, 0 to g - 1, none of them empty.
        how: the mean, or the median (the mean of the middle two of an even count).
    """
    if how == "mean":
        count = torch.bincount(groups)
        return torch.bincount(groups, values.double(), len(count)) / count
    order = torch.argsort(groups, stable=True)
    parts = values.double()[order].split(torch.bincount(groups).tolist())
    return torch.stack([part.quantile(0.5) for part in parts])


def bootstrap(
    metric: Metric,
    scores: Float[Tensor, " n"],
    positive: Bool[Tensor, " n"],
    groups: Int[Tensor, " n"],
    *,
    num_draws: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Return the percentile interval of a metric when whole groups are drawn with replacement.

    Frames of a video, or videos of a person, are no independent samples: resampling them one by
    one gives intervals that are far too narrow (the cluster bootstrap, Davison and Hinkley 1997,
    section 3.8).

    Args:
        metric: function of scores and classes, such as `auc`.
        scores: of the samples.
        positive: their classes.
        groups: video or identity of each sample, 0 to g - 1.
        num_draws: draws.
        level: share of the draws between the ends.
        seed: of the draws.

    Returns:
        The interval; None with fewer than two groups, or when few draws held both classes.
    """
    num_groups = int(groups.unique().numel())
    if num_groups < 2 or undefined(positive) is not None:
        return None
    found = [
        metric(scores[rows], positive[rows])
        for rows in group_draws(groups, num_draws, seed)
        if undefined(positive[rows]) is None
    ]
    if not found or len(found) < num_draws / 2:
        return None
    return percentile_interval(found, level, num_groups, num_draws - len(found))


def group_draws(
    groups: Int[Tensor, " n"], num_draws: int, seed: int
) -> Iterator[Int[Tensor, " _"]]:
    """Yield the rows of as many whole groups as there are, drawn with replacement.

    Args:
        groups: group of each row, 0 to g - 1.
        num_draws: draws.
        seed: of the draws.
    """
    members = torch.argsort(groups, stable=True).split(torch.bincount(groups).tolist())
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_draws):
        drawn = torch.randint(len(members), (len(members),), generator=generator)
        yield torch.cat([members[number] for number in drawn.tolist()])


def percentile_interval(
    found: Sequence[float], level: float, num_groups: int, num_undefined: int = 0
) -> Interval:
    """Return the interval that holds a share of the values that draws gave."""
    edges = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.tensor(found, dtype=torch.float64).quantile(edges).tolist()
    return Interval(low, high, level, num_groups, len(found), num_undefined)
