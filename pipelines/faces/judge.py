"""What scores are worth: curves, errors at an honest and at a flattering threshold, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...core.heads.curves import (
    ErrorRates,
    Interval,
    Reliability,
    auc,
    bootstrap,
    eer,
    eer_threshold,
    error_rates,
    reduce_groups,
    reliability,
    tpr_at_fpr,
    undefined,
)
from .rows import Face, classes, numbered

Level = Literal["frame", "video mean", "video median"]
LEVELS: tuple[Level, ...] = ("frame", "video mean", "video median")

DEMOGRAPHIC = ("gender", "sex", "age", "ethnicity", "race", "skin_tone", "tone")
"""Facts by which results are broken down where a collection has them."""

FPR_LIMIT = 0.01
_UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Results of a part of a test set.

    Args:
        by: fact that divides the set, "method" or for example "gender".
        value: of the fact.
        num_positive: fakes or attacks.
        num_negative: genuine faces.
        auc: None where it is undefined.
        apcer: share of missed attacks at the development threshold; None without one or the other.
        bpcer: share of refused genuine faces at it.
    """

    by: str
    value: str
    num_positive: int
    num_negative: int
    auc: float | None
    apcer: float | None
    bpcer: float | None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Results of one detector on one test set at one level.

    Args:
        features: what the detector reads, for example "model".
        fold: training that it comes from.
        test: test set.
        level: frames, or videos by mean or median of their frames.
        num_positive: fakes or attacks.
        num_negative: genuine faces.
        seed: of a random initialisation.
        undefined: why curves are undefined; None when they are defined.
        auc: area under the ROC curve.
        auc_interval: interval over people or, where they are unknown, videos.
        resampled: what the interval drew, "people" or "videos".
        eer: equal error rate, found on the test set (it is a curve's property, no operating point).
        tpr_at_fpr: attacks found while at most 1 % of genuine faces are refused.
        bona_fide_at_apcer: genuine faces accepted while at most 1 % of attacks pass; what papers on
            anti-spoofing call TPR@FPR=1%, whose positives are live faces.
        from_development: errors at the threshold chosen on development data; None without them.
        from_test_as_published: errors at the threshold with equal errors on the TEST set, as many
            papers report them: flattering, for comparison with them only.
        calibration: of probabilities; None where scores are none.
        parts: results by attack and by demographic facts.
    """

    features: str
    fold: str
    test: str
    level: Level
    num_positive: int
    num_negative: int
    seed: int | None = None
    undefined: str | None = None
    auc: float | None = None
    auc_interval: Interval | None = None
    resampled: str | None = None
    eer: float | None = None
    tpr_at_fpr: float | None = None
    bona_fide_at_apcer: float | None = None
    from_development: ErrorRates | None = None
    from_test_as_published: ErrorRates | None = None
    calibration: Reliability | None = None
    parts: tuple[Part, ...] = field(default=())


@dataclass(frozen=True)
class Scored:
    """Faces with one score each, at one level.

    Args:
        faces: one face of every unit; it stands for its video.
        scores: larger means fake or attack.
        probabilities: whether scores are probabilities.
    """

    faces: list[Face]
    scores: Float[Tensor, " n"]
    probabilities: bool

    @property
    def positive(self) -> Bool[Tensor, " n"]:
        """Which are fakes or attacks."""
        return classes(self.faces)


def at_level(scored: Scored, level: Level) -> Scored:
    """Return scores of frames as they are, or one score per video (still images are their own)."""
    if level == "frame" or not len(scored.faces):
        return scored
    # A video of both labels would be two: a swap and its original never share a name.
    units = numbered([(face.unit, face.label) for face in scored.faces])
    first: dict[int, Face] = {}
    for number, face in zip(units.tolist(), scored.faces, strict=True):
        first.setdefault(number, face)
    scores = reduce_groups(scored.scores, units, "mean" if level == "video mean" else "median")
    return Scored(list(first.values()), scores, scored.probabilities)


def development_threshold(dev: Scored) -> float | None:
    """Return the threshold with equal errors on development data; None without both classes."""
    if not len(dev.faces) or undefined(dev.positive):
        return None
    return eer_threshold(dev.scores, dev.positive)


def judge(
    scored: Scored,
    dev: Scored,
    *,
    features: str,
    fold: str,
    test: str,
    level: Level,
    source_seed: int | None = None,
    breakdown: Sequence[str] = DEMOGRAPHIC,
    num_draws: int = 500,
    seed: int = 0,
) -> Judged:
    """Return everything that is measured on a test set.

    Args:
        scored: frames of the test set.
        dev: frames of the development data, of other people.
        features: name of the detector.
        fold: name of its training.
        test: name of the test set.
        level: frames or videos.
        source_seed: of a random initialisation.
        breakdown: facts that divide the results where faces have them.
        num_draws: draws of the interval.
        seed: of these draws.
    """
    threshold = development_threshold(at_level(dev, level))
    here = at_level(scored, level)
    positive, scores = here.positive, here.scores
    reason = undefined(positive)
    shared = {
        "features": features,
        "fold": fold,
        "test": test,
        "level": level,
        "seed": source_seed,
        "num_positive": int(positive.sum()),
        "num_negative": int((~positive).sum()),
        "parts": parts(here, threshold, breakdown),
    }
    if reason is not None:
        return Judged(**shared, undefined=reason)
    resampled, groups = resampling(here.faces)
    species = [face.method or _UNKNOWN for face in here.faces]
    chosen = error_rates(scores, positive, eer_threshold(scores, positive), species)
    return Judged(
        **shared,
        auc=auc(scores, positive),
        auc_interval=bootstrap(auc, scores, positive, groups, num_draws=num_draws, seed=seed),
        resampled=resampled,
        eer=eer(scores, positive),
        tpr_at_fpr=tpr_at_fpr(scores, positive, FPR_LIMIT),
        bona_fide_at_apcer=tpr_at_fpr(-scores, ~positive, FPR_LIMIT),
        from_development=None
        if threshold is None
        else error_rates(scores, positive, threshold, species),
        from_test_as_published=chosen,
        calibration=reliability(scores, positive) if here.probabilities else None,
    )


def resampling(faces: Sequence[Face]) -> tuple[str, Tensor]:
    """Return what an interval draws, and the number of each face's group.

    People where every face has one, chained where a swap joins two; videos elsewhere.
    """
    if not all(face.identities for face in faces):
        return "videos", numbered([face.unit for face in faces])
    leader: dict[object, object] = {}

    def find(name: object) -> object:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for face in faces:
        first, *others = sorted(face.people)
        for other in others:
            leader[find(other)] = find(first)
    return "people", numbered([find(min(face.people)) for face in faces])


def parts(scored: Scored, threshold: float | None, breakdown: Sequence[str]) -> tuple[Part, ...]:
    """Return results by attack (beside all genuine faces) and by demographic facts."""
    faces, found = scored.faces, []
    methods = sorted({face.method for face in faces if face.positive and face.method})
    if len(methods) > 1:
        for method in methods:
            keep = [not face.positive or face.method == method for face in faces]
            found.append(_part("method", method, scored, keep, threshold))
    for fact in breakdown:
        values = sorted({face.facts[fact] for face in faces if fact in face.facts})
        for value in values:
            keep = [face.facts.get(fact) == value for face in faces]
            found.append(_part(fact, value, scored, keep, threshold))
    return tuple(found)


def _part(
    by: str, value: str, scored: Scored, keep: Sequence[bool], threshold: float | None
) -> Part:
    rows = torch.tensor(keep, dtype=torch.bool)
    positive, scores = scored.positive[rows], scored.scores[rows]
    num = int(positive.sum())
    called = None if threshold is None else scores >= threshold
    genuine = len(positive) - num
    return Part(
        by=by,
        value=value,
        num_positive=num,
        num_negative=genuine,
        auc=None if undefined(positive) else auc(scores, positive),
        apcer=None if called is None or not num else float((~called[positive]).double().mean()),
        bpcer=None if called is None or not genuine else float(called[~positive].double().mean()),
    )
