"""Learning-rate schedules: pure functions of where a run stands."""

from __future__ import annotations

import math
from collections.abc import Sequence


def cosine_with_warmup(
    step: float, total: float, warmup: float, peak: float, floor: float = 0.0, start: float = 0.0
) -> float:
    """Return the value of a linear warm-up followed by half a cosine.

    Steps may be fractional and of any unit, for example epochs (mae.md, recipe).

    Args:
        step: where the run stands, in [0, total].
        total: length of the run.
        warmup: length of the warm-up, shorter than the run.
        peak: value at the end of the warm-up.
        floor: value at the end of the run; never undercut after the warm-up.
        start: value at the beginning of the warm-up.
    """
    if step < warmup:
        return start + (peak - start) * step / warmup
    if total <= warmup:
        return peak
    done = min((step - warmup) / (total - warmup), 1.0)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * done))


def steps_with_warmup(
    step: float,
    warmup: float,
    peak: float,
    stops: Sequence[float],
    factor: float = 0.1,
    start: float = 0.0,
) -> float:
    """Return the value of a linear warm-up, then of a constant that falls at stops (simmim.md).

    Args:
        step: where the run stands.
        warmup: length of the warm-up.
        peak: value after the warm-up.
        stops: where the value is multiplied by `factor`.
        factor: see `stops`.
        start: value at the beginning of the warm-up.
    """
    if step < warmup:
        return start + (peak - start) * step / warmup
    return peak * factor ** sum(step >= stop for stop in stops)
