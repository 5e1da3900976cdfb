"""How well two label maps agree, per case and structure, in voxels and in mm.

Dice: overlap. HD95: the larger of the two 95th percentiles of the distances from the surface voxels
of one mask to the surface of the other. NSD (surface Dice at a tolerance, Nikolov et al. 2021,
section "Performance metrics"): share of both surfaces that lies within the tolerance of the other;
surfaces are counted in voxels. Surface voxels are those with a face to the outside; distances are
those of voxel centres, with the spacing of each axis. Values are MONAI's.

Empty masks: a structure that neither truth nor prediction holds is not scored (None), so that
absent organs do not raise the mean. Where one of the two is empty Dice and NSD are 0 and HD95 is
the diagonal of the volume, the largest distance that there could be.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped

from ...core.heads.curves import Interval, group_draws, percentile_interval
from ...core.objectives.labels import IGNORED

METRICS = ("dice", "hd95", "nsd")
MEAN = "mean over structures"


@dataclass(frozen=True, kw_only=True)
class StructureScore:
    """One structure of one case.

    Args:
        case: name of the volume.
        group: patient.
        structure: name of the class.
        dice: 0 to 1; None where neither mask holds it.
        hd95: mm.
        nsd: 0 to 1.
        truth_ml: volume of the true mask.
        predicted_ml: volume of the predicted mask.
    """

    case: str
    group: str
    structure: str
    dice: float | None
    hd95: float | None
    nsd: float | None
    truth_ml: float
    predicted_ml: float


COLUMNS = tuple(field.name for field in fields(StructureScore))


def agreement(
    predicted: Bool[np.ndarray, "i j k"],
    truth: Bool[np.ndarray, "i j k"],
    spacing: Sequence[float],
    tolerance: float,
) -> dict[str, float | None]:
    """Return Dice, HD95 and NSD of two masks; see the module for empty ones.

    Args:
        predicted: mask.
        truth: mask.
        spacing: mm between voxel centres along each axis.
        tolerance: mm within which surfaces count as the same.
    """
    sizes = int(predicted.sum()), int(truth.sum())
    if not any(sizes):
        return dict.fromkeys(METRICS)
    if not all(sizes):
        sides = zip(truth.shape, spacing, strict=True)
        return {"dice": 0.0, "hd95": math.hypot(*(n * step for n, step in sides)), "nsd": 0.0}
    common = int((predicted & truth).sum())
    there, back = surface_distances(predicted, truth, spacing)
    close = int((there <= tolerance).sum() + (back <= tolerance).sum())
    return {
        "dice": 2 * common / sum(sizes),
        "hd95": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "nsd": close / (len(there) + len(back)),
    }


def surface_distances(
    predicted: Bool[np.ndarray, "i j k"],
    truth: Bool[np.ndarray, "i j k"],
    spacing: Sequence[float],
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " t"]]:
    """Return mm from each predicted surface voxel to the true surface, and the other way round."""
    from monai.metrics.utils import get_edge_surface_distance

    masks = torch.from_numpy(predicted), torch.from_numpy(truth)
    with warnings.catch_warnings():
        # MONAI 1.5 warns of an argument that it passes itself.
        warnings.simplefilter("ignore", FutureWarning)
        _, found, _ = get_edge_surface_distance(*masks, spacing=list(spacing), symmetric=True)
    there, back = found[0], found[-1]
    return there.numpy(), back.numpy()


def score_case(
    predicted: Shaped[np.ndarray, "i j k"],
    truth: Shaped[np.ndarray, "i j k"],
    spacing: Sequence[float],
    classes: Sequence[str],
    *,
    case: str,
    group: str,
    tolerance: float,
) -> list[StructureScore]:
    """Return the scores of every class but the first, which is background.

    Args:
        predicted: class of every voxel.
        truth: the same, 255 where it is not known; such voxels count in neither mask.
        spacing: mm between voxel centres along each axis.
        classes: names in the order of the numbers.
        case: name of the volume.
        group: patient.
        tolerance: mm, for NSD.
    """
    known = truth != IGNORED
    millilitres = math.prod(spacing) / 1000
    rows = []
    for number, name in enumerate(classes[1:], start=1):
        masks = [(labels == number) & known for labels in (predicted, truth)]
        found = agreement(masks[0], masks[1], spacing, tolerance)
        sizes = [float(mask.sum()) * millilitres for mask in masks]
        rows.append(
            StructureScore(
                case=case,
                group=group,
                structure=name,
                **found,
                truth_ml=sizes[1],
                predicted_ml=sizes[0],
            )
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A metric of a structure over cases.

    Args:
        structure: name of the class, or `MEAN`.
        metric: name.
        mean: over cases; of `MEAN`, over structures of the means over cases.
        interval: of that mean when patients are drawn with replacement; None for one patient.
        num_cases: cases with a value.
    """

    structure: str
    metric: str
    mean: float | None
    interval: Interval | None
    num_cases: int


def summarise(
    scores: Sequence[StructureScore], *, num_draws: int = 1000, seed: int = 0
) -> list[Summary]:
    """Return every metric of every structure, and their means over structures.

    Args:
        scores: of all cases.
        num_draws: draws of patients; cases of a patient are drawn together.
        seed: of the draws.
    """
    names = list(dict.fromkeys(score.structure for score in scores))
    wanted = {name: [name] for name in names} | ({MEAN: names} if len(names) > 1 else {})
    return [
        _summary(scores, name, chosen, metric, num_draws, seed)
        for name, chosen in wanted.items()
        for metric in METRICS
    ]


def _summary(
    scores: Sequence[StructureScore],
    name: str,
    structures: Sequence[str],
    metric: str,
    num_draws: int,
    seed: int,
) -> Summary:
    rows = [s for s in scores if s.structure in structures and getattr(s, metric) is not None]
    patients = {name: place for place, name in enumerate(dict.fromkeys(s.group for s in rows))}
    values = torch.tensor([getattr(s, metric) for s in rows], dtype=torch.float64)
    kinds = torch.tensor([structures.index(s.structure) for s in rows], dtype=torch.int64)

    def mean(chosen: torch.Tensor) -> float:
        parts = [values[chosen][kinds[chosen] == kind] for kind in kinds[chosen].unique()]
        return float(torch.stack([part.mean() for part in parts]).mean())

    interval = None
    if len(patients) > 1:
        groups = torch.tensor([patients[s.group] for s in rows])
        draws = [mean(drawn) for drawn in group_draws(groups, num_draws, seed)]
        interval = percentile_interval(draws, 0.95, len(patients))
    return Summary(
        structure=name,
        metric=metric,
        mean=mean(torch.arange(len(rows))) if rows else None,
        interval=interval,
        num_cases=len({s.case for s in rows}),
    )


def cases_in_order(scores: Sequence[StructureScore]) -> list[tuple[str, float]]:
    """Return (case, mean Dice over its structures), the worst first; cases without are left out."""
    found: dict[str, list[float]] = {}
    for score in scores:
        if score.dice is not None:
            found.setdefault(score.case, []).append(score.dice)
    return sorted(((c, sum(v) / len(v)) for c, v in found.items()), key=lambda item: item[1])
