"""Learning-rate schedules: pure functions of where a run stands."""

from __future__ import annotations

import math


def cosine_with_warmup(
    step: float, total: float, warmup: float, peak: float, floor: float = 0.0
) -> float:
    """Return the value of a linear warm-up from zero followed by half a cosine.

    Steps may be fractional and of any unit, for example epochs (mae.md, recipe).

    Args:
        step: where the run stands, in [0, total].
        total: length of the run.
        warmup: length of the warm-up, shorter than the run.
        peak: value at the end of the warm-up.
        floor: value at the end of the run; never undercut after the warm-up.
    """
    if step < warmup:
        return peak * step / warmup
    if total <= warmup:
        return peak
    done = min((step - warmup) / (total - warmup), 1.0)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * done))
