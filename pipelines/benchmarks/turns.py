"""Times of several things that take turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

from ...core.training.meters import measured_flops
from ..progress import Bar

_LEAST_TURNS = 3


@dataclass(frozen=True)
class Times:
    """Seconds of every turn of one side.

    Attributes:
        wall: what a clock on the wall shows.
        cpu: what the process's threads used; other programs of the machine do not count.
    """

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


@dataclass(frozen=True)
class Turns:
    """What taking turns gave.

    Attributes:
        times: of every side.
        peak: FLOP per second of a large float32 product, median over the same turns.
    """

    times: dict[str, Times]
    peak: float

    def wall(self, side: str) -> float:
        """Return the median seconds of a turn."""
        return median(self.times[side].wall)

    def cpu(self, side: str) -> float:
        """Return the median processor seconds of a turn."""
        return median(self.times[side].cpu)

    def speedup(self, side: str, over: str, *, cpu: bool = False) -> float:
        """Return how many times as fast a side is: the median over turns of the quotient."""
        kind = "cpu" if cpu else "wall"
        pairs = zip(getattr(self.times[over], kind), getattr(self.times[side], kind), strict=True)
        return median(slow / fast for slow, fast in pairs)

    @property
    def num_turns(self) -> int:
        """How often every side was measured."""
        return len(next(iter(self.times.values())).wall)


def take_turns(
    sides: Mapping[str, Callable[[], object]],
    seconds: float,
    device: torch.device,
    label: str,
) -> Turns:
    """Call all sides in turns until the time is over, after one call of each that does not count.

    Args:
        sides: what to time, by name; the order changes from turn to turn.
        seconds: how long; at least three turns are made.
        device: where the work is done, to wait for it.
        label: what the progress line says.
    """
    names = list(sides)
    for name in names:
        _timed(sides[name], device)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    peaks = []
    began = time.perf_counter()
    with Bar(label) as bar:
        while len(peaks) < _LEAST_TURNS or time.perf_counter() - began < seconds:
            for name in names:
                found[name].append(_timed(sides[name], device))
            peaks.append(measured_flops(device))
            names.reverse()
            last = ", ".join(f"{name} {found[name][-1][0]:.2f} s" for name in sides)
            bar.advance(1, f"turns, {last}")
    times = {name: Times(*zip(*pairs, strict=True)) for name, pairs in found.items()}
    return Turns(times, median(peaks))


def _timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    _wait(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
