"""`mimkit doctor`: one page on what this machine has, how fast it is, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UsageError
from .machine.finding import Finding, gigabytes
from .progress import say

if TYPE_CHECKING:
    from .machine.forecast import Forecast
    from .recipe import Recipe
    from .stores import OpenGroup

DEFAULT_CHANNELS = 3
LONG = 7 * 24 * 3600.0  # seconds of a run from which a smaller one is worth a thought


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check this machine: what is installed, how fast it is, and what would hold work up.

    The exit code is 1 only when something is missing without which nothing works.
    """

    folder: Path = Path()
    """Folder whose disk is measured: where stores and runs are to be."""
    disk_mb: int = 256
    """Megabytes of the file that is written there for a moment; 0 leaves the disk alone."""
    talk_seconds: int = 120
    """Time limit for two processes to add up a number, as distributed training does; 0 leaves
    that out."""
    data: Path | None = None
    """Folder that `mimkit curate` wrote: measures how fast its samples are read."""
    group: str | None = None
    """Store in `data`, when it holds several."""
    recipe: str | None = None
    """Recipe whose time and memory are predicted: a name (`mimkit recipe list`) or a YAML file."""
    channels: int | None = None
    """Bands of the images for the prediction; those of `data`, else 3."""
    samples: int | None = None
    """Samples of an epoch for the prediction; those of the split train of `data` when given."""
    device: str = "auto"
    """Where the recipe is to run: `cpu`, `cuda`, `cuda:1` or `auto`."""
    seconds: float = 2.0
    """How long the store and the recipe are measured."""
    json: bool = False
    """Print JSON for programs instead of a page."""


def run(config: DoctorConfig) -> int:
    """Look at everything and print it.

    Returns:
        1 when something essential is missing, else 0.

    Raises:
        UsageError: for a folder, recipe or number that cannot be used.
        DataError: when the store cannot be read.
    """
    check(config)
    findings = examine(config)
    if config.json:
        say(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        show(findings)
    return int(any(finding.fatal for finding in findings))


def check(config: DoctorConfig) -> None:
    """Raise UsageError for a setting that cannot be used, naming field, value and fix."""
    if not config.folder.is_dir():
        raise UsageError(f"folder {config.folder}", "does not exist", "give one that does")
    for name, least in (("disk_mb", 0), ("talk_seconds", 0), ("channels", 1), ("samples", 1)):
        value = getattr(config, name)
        if value is not None and value < least:
            raise UsageError(f"{name} {value}", "is too small", f"use {least} or more")
    if not 0 < config.seconds <= 600:
        raise UsageError(f"seconds {config.seconds}", "is out of range", "use 0.1 to 600")


def examine(config: DoctorConfig) -> list[Finding]:
    """Return everything that was found, software first: without it nothing else can be tried."""
    from .machine.software import software

    findings = software()
    if any(finding.fatal for finding in findings):
        return findings
    from .machine.disk import disk
    from .machine.hardware import hardware
    from .machine.talking import talking
    from .recipe import load_recipe
    from .stores import open_group

    # What the reader asked for comes before measurements that take a while.
    group = None if config.data is None else open_group(config.data, config.group)
    recipe = None if config.recipe is None else load_recipe(config.recipe)
    findings += hardware()
    if config.disk_mb:
        findings += disk(config.folder, config.disk_mb * 10**6)
    if config.talk_seconds:
        findings += talking(config.talk_seconds)
    rate = None if group is None else _loader_rate(group, config.seconds)
    predicted = None if recipe is None else _forecast(recipe, config, group)
    if group is not None and rate is not None:
        findings.append(store_finding(group, rate, predicted))
    if recipe is not None and predicted is not None:
        findings += recipe_findings(recipe, predicted, config, group)
    return findings


def _loader_rate(group: OpenGroup, seconds: float) -> float:
    from ..datasets.benchmark import loader_benchmark

    return loader_benchmark(group.store.path, seconds).loader


def _forecast(recipe: Recipe, config: DoctorConfig, group: OpenGroup | None) -> Forecast:
    from .efficiency import resolve_device
    from .machine.forecast import forecast

    own = DEFAULT_CHANNELS if group is None else group.meta.num_channels
    device = resolve_device(config.device)
    return forecast(recipe, config.channels or own, device, seconds=config.seconds)


def store_finding(group: OpenGroup, rate: float, predicted: Forecast | None) -> Finding:
    """Compare how fast samples are read with how fast they are used.

    Args:
        group: the store.
        rate: samples per second of the loader.
        predicted: what the recipe can use, None without a recipe.
    """
    megabytes = rate * group.meta.sample_bytes / 1e6
    found = f"{rate:.0f} samples/s ({megabytes:.0f} MB/s) of {group.store.path.name}, read before"
    if predicted is None or rate >= predicted.images_per_s:
        return Finding("store", found)
    remedy = "Training will wait for data: raise --efficiency.loader-threads."
    return Finding("store", found, "slow", remedy)


def recipe_findings(
    recipe: Recipe, predicted: Forecast, config: DoctorConfig, group: OpenGroup | None
) -> Iterator[Finding]:
    """Yield what a recipe costs here: arithmetic, time and memory."""
    count, millions = predicted.flops, predicted.num_parameters / 1e6
    found = f"{count.training / 1e9:.2f} GFLOP per image and step, {millions:.1f} M parameters"
    yield Finding("recipe", f"{config.recipe}: {found}")
    samples = config.samples or (None if group is None else len(group.rows("train")))
    yield time_finding(recipe, predicted, samples)
    yield memory_finding(predicted, free_bytes(config.device))


def time_finding(recipe: Recipe, predicted: Forecast, samples: int | None) -> Finding:
    """Say how long a run takes."""
    rate = predicted.images_per_s
    found = f"about {rate:.0f} images/s" if rate >= 10 else f"about {rate:.2g} images/s"
    if samples is None:
        per_thousand = duration(1000 / rate * recipe.epochs)
        return Finding(
            "recipe: time", f"{found}: {recipe.epochs} epochs of 1000 take {per_thousand}"
        )
    epoch = samples / rate
    total = epoch * recipe.epochs
    found += f": an epoch of {samples} takes {duration(epoch)}, all {recipe.epochs} epochs "
    found += duration(total)
    if total <= LONG:
        return Finding("recipe: time", found)
    remedy = "Use a GPU, a smaller recipe (`mimkit recipe list`) or fewer --epochs."
    return Finding("recipe: time", found, "slow", remedy)


def memory_finding(predicted: Forecast, free: float) -> Finding:
    """Say whether a run fits into the memory, and how to make it fit."""
    batch, needed = predicted.batch_size, predicted.memory()
    found = f"about {gigabytes(needed)} of {gigabytes(free)} free, with {batch} images at a time"
    if needed <= free:
        return Finding("recipe: memory", found)
    fits = predicted.largest_micro_batch(0.9 * free)
    if fits:
        remedy = f"Use --efficiency.micro-batch {fits}; the result is the same."
        return Finding("recipe: memory", found, "slow", remedy)
    remedy = "Not even one image fits: use a smaller recipe, or a machine with more memory."
    return Finding("recipe: memory", found, "missing", remedy)


def free_bytes(device: str) -> float:
    """Return the memory that is free where a recipe is to run."""
    import torch

    from .efficiency import resolve_device
    from .machine.hardware import free_memory

    where = resolve_device(device)
    return torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else free_memory()


def duration(seconds: float) -> str:
    """Return a time in the unit that people would use."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def show(findings: Sequence[Finding]) -> None:
    """Print a page: one line for each finding, with what to do below it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "slow": "yellow", "missing": "red"}
    table = Table(title="mimkit doctor", show_lines=False)
    table.add_column("state")
    table.add_column("what", overflow="fold")
    table.add_column("found, and what to do", overflow="fold")
    for finding in findings:
        colour = colours[finding.state]
        text = escape(finding.found)
        if finding.remedy:
            text += f"\n[{colour}]{escape(finding.remedy)}[/]"
        table.add_row(f"[{colour}]{finding.state}[/]", escape(finding.topic), text)
    console = Console()
    console.print(table)
    console.print(verdict(findings))


def verdict(findings: Sequence[Finding]) -> str:
    """Return what the page says in one sentence."""
    fatal = [finding.topic for finding in findings if finding.fatal]
    if fatal:
        return f"Nothing works before this is repaired: {', '.join(fatal)}."
    slow = [finding.topic for finding in findings if finding.state == "slow"]
    if slow:
        return f"Everything needed is here; what holds work up: {', '.join(slow)}."
    return "Everything needed is here, and nothing holds work up."
