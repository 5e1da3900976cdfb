"""One table for training steps of several sides: time, arithmetic, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..progress import say
from .config import BenchmarkConfig
from .steps import Side, Step, Workload, peak_growth
from .table import Cell
from .turns import Turns, take_turns

IMAGE_SIZE, PATCH_SIZE, VOLUME_SIZE = 224, 16, 96


def workload(config: BenchmarkConfig, device: torch.device) -> Workload:
    """Return what the steps of a configuration work on."""
    threads = torch.get_num_threads()
    return Workload(
        config.batch_size, IMAGE_SIZE, PATCH_SIZE, device=str(device), num_threads=threads
    )


def volumes(config: BenchmarkConfig, device: torch.device) -> Workload:
    """Return the same with volumes of one channel."""
    return replace(workload(config, device), image_size=VOLUME_SIZE, channels=1, rank=3)


def compare(
    sides: Sequence[Side], work: Workload, seconds: float, label: str
) -> tuple[list[dict[str, Cell]], Turns]:
    """Measure training steps of several sides, time in turns and memory one after the other.

    Args:
        sides: what to compare; the last one is what the others are compared with.
        work: what a step works on.
        seconds: how long the turns take.
        label: what progress lines say.

    Returns:
        a row per side, and the times.

    Raises:
        UsageError: when a side needs a package that is missing.
    """
    for side in sides:
        side.check()
    say(f"{label}: memory of a step, each side in a process of its own")
    peaks = [peak_growth(sides, place, work) for place in range(len(sides))]
    steps = {side.name: side.build(work) for side in sides}
    kept = [step.kept_bytes() for step in steps.values()]
    say(f"{label}: steps of {work.batch_size} images in turns for {seconds:.0f} s")
    device = torch.device(work.device)
    turns = take_turns({name: step.run for name, step in steps.items()}, seconds, device, label)
    base = sides[-1].name
    rows = [
        _row(name, step, turns, base, memory)
        for (name, step), *memory in zip(steps.items(), kept, peaks, strict=True)
    ]
    return rows, turns


def _row(name: str, step: Step, turns: Turns, base: str, memory: list[int]) -> dict[str, Cell]:
    wall, batch = turns.wall(name), len(step.images)
    other = name != base
    on_cpu = step.images.device.type == "cpu"
    return {
        "side": name,
        "s per step": wall,
        "images/s": batch / wall,
        "times as fast": turns.speedup(name, base) if other else None,
        "CPU s per step": turns.cpu(name) if on_cpu else None,
        "times as fast, CPU time": turns.speedup(name, base, cpu=True)
        if other and on_cpu
        else None,
        "GFLOP per image": step.flops / 1e9,
        "MFU": f"{batch * step.flops / wall / turns.peak:.0%}",
        "kept for backward, MB": memory[0] / 1e6,
        "peak memory, MB": memory[1] / 1e6,
    }


def number(rows: Sequence[dict[str, Cell]], place: int, column: str) -> float:
    """Return a number of a row."""
    value = rows[place][column]
    assert isinstance(value, int | float)
    return float(value)
