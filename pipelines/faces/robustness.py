"""How a detector's AUC falls when pictures get worse: one curve per degradation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int
from torch import Tensor

from ...core.heads.curves import auc, undefined
from ...datasets.samples import Samples
from ...domains.faces.degradations import DEGRADATIONS, degrade
from ..features import Source
from .rows import classes
from .scoring import Change, Detector, Reading


@dataclass(frozen=True, kw_only=True)
class RobustnessCurve:
    """AUC of one detector on the same faces, more and more degraded.

    Args:
        features: what the detector reads.
        degradation: what was done to the stored pixels.
        unit: of the strengths.
        strengths: from harmless to strong.
        auc: one number per strength.
        num_faces: faces that were scored.
    """

    features: str
    degradation: str
    unit: str
    strengths: tuple[float, ...]
    auc: tuple[float, ...]
    num_faces: int


def degraded(name: str, strength: float) -> Change:
    """Return the change that degrades stored pixels; noise is a function of the row."""

    def change(samples: Samples) -> Samples:
        return replace(samples, pixels=degrade(name, strength, samples.pixels, samples.rows))

    return change


def robustness(
    reading: Reading,
    places: Int[np.ndarray, " n"],
    sources: Sequence[Source],
    detectors: Sequence[Detector],
    names: Sequence[str] = tuple(DEGRADATIONS),
) -> list[RobustnessCurve]:
    """Return the curves of some detectors on the same degraded faces.

    Args:
        reading: faces and pixels.
        places: faces that are scored, of both classes.
        sources: features that the detectors read.
        detectors: one per source, from features to scores.
        names: degradations.

    Returns:
        A curve for every detector and degradation; none when the faces are of one class.
    """
    positive = classes([reading.faces[place] for place in places.tolist()])
    if undefined(positive):
        return []
    found = []
    for name in names:
        strengths = DEGRADATIONS[name].strengths
        tables = [_aucs(reading, places, sources, detectors, degraded(name, s)) for s in strengths]
        for number, source in enumerate(sources):
            found.append(
                RobustnessCurve(
                    features=source.name,
                    degradation=name,
                    unit=DEGRADATIONS[name].unit,
                    strengths=strengths,
                    auc=tuple(table[number] for table in tables),
                    num_faces=len(places),
                )
            )
    return found


def _aucs(
    reading: Reading,
    places: Int[np.ndarray, " n"],
    sources: Sequence[Source],
    detectors: Sequence[Callable[[Tensor], Tensor]],
    change: Change,
) -> list[float]:
    positive = classes([reading.faces[place] for place in places.tolist()])
    features = reading.features(sources, places, change)
    return [auc(f(values), positive) for f, values in zip(detectors, features, strict=True)]


def evenly(reading: Reading, places: Int[np.ndarray, " n"], num: int) -> Int[np.ndarray, " m"]:
    """Return at most `num` places, half of each class where there are enough, spread evenly."""
    positive = classes([reading.faces[place] for place in places.tolist()]).numpy()
    kept = []
    for side in (positive, ~positive):
        members = places[side]
        amount = min(len(members), max(num // 2, num - int((positive != side).sum())))
        if amount:
            kept.append(members[np.linspace(0, len(members) - 1, amount).astype(np.int64)])
    return np.unique(np.concatenate(kept)) if kept else places[:0]
