"""Study `scaling`: model size, amount of data and length of training, and what they bring.

After Xie et al., "On Data Scaling in Masked Image Modeling" (CVPR 2023): the masked loss of images
that were held out tells more about a model than the loss of those that it was trained on, because
a large model learns a small set by heart.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.config_tree import from_plain, to_plain
from ...core.methods import EncoderConfig, MethodConfig
from ...datasets.order import num_steps
from ..efficiency import Efficiency
from ..pretrain import PretrainConfig, training_rows, with_recipe
from ..pretrain import run as pretrain
from ..recipe import Recipe, load_recipe, recipe_grid
from ..stores import open_group
from .page import Section, spread, table
from .pictures import curves
from .stores import scenes_store
from .units import Numbers, Study, Unit, run_path, run_units

NAME = "scaling"
STORE = "scenes"
RECIPE = "satellite/selectivemae-tiny"
LOOKED_AT = 256  # held-out images


@dataclass(frozen=True)
class Size:
    """An encoder.

    Args:
        embed_dim: width.
        depth: blocks.
        num_heads: attention heads.
    """

    embed_dim: int
    depth: int
    num_heads: int


SIZES = (Size(48, 2, 2), Size(96, 4, 4), Size(160, 4, 4))
FRACTIONS = (0.125, 0.25, 0.5, 1.0)
LENGTHS = (130, 520)
"""Updates: equal for all amounts of data, so that less data is seen more often."""


@dataclass(frozen=True)
class Point:
    """A run of the grid.

    Args:
        size: of the encoder.
        fraction: share of the training split.
        updates: wanted; whole epochs come near.
        seed: of everything random.
    """

    size: Size
    fraction: float
    updates: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its unit."""
        shape = f"{self.size.embed_dim}x{self.size.depth}"
        return f"{shape}-{self.fraction:g}-{self.updates}-{self.seed}"


def recipe(point: Point, num_rows: int) -> Recipe:
    """Return the recipe of a run over so many images; its warm-up is a tenth of it."""
    base = load_recipe(RECIPE)
    encoder = replace(base.method.encoder, **vars(point.size))
    steps = num_steps(num_rows, base.batch_size)
    epochs = max(1, round(point.updates / steps))
    optim = replace(base.optim, warmup_epochs=epochs / 10)
    method = replace(base.method, encoder=encoder)
    return replace(base, method=method, optim=optim, epochs=epochs, seed=point.seed)


def points(seeds: int) -> list[Point]:
    """Return the grid, the longest runs first."""
    found = [
        Point(size, fraction, updates, seed)
        for seed in range(seeds)
        for updates in LENGTHS
        for size in SIZES
        for fraction in FRACTIONS
    ]
    return sorted(found, key=lambda p: -p.updates * p.size.embed_dim**2 * p.size.depth)


def unit(point: Point, work: Path) -> Unit:
    """Return the unit of a run."""
    group = open_group(work / STORE)
    wanted = PretrainConfig(data=work / STORE, out=work, fraction=point.fraction)
    chosen = recipe(point, len(training_rows(wanted, load_recipe(RECIPE), group)))
    arguments = {"recipe": to_plain(chosen), "fraction": point.fraction}
    return Unit(NAME, point.name, "scaling:train", arguments)


def train(work: Path, recipe: Mapping[str, Any], fraction: float) -> Numbers:
    """Pre-train and return what the log says at the end."""
    chosen = from_plain(Recipe, recipe)
    out = run_path(work, NAME, {"recipe": dict(recipe), "fraction": fraction})
    config = PretrainConfig(
        recipe=RECIPE,
        data=work / STORE,
        out=out,
        fraction=fraction,
        efficiency=Efficiency(
            num_threads=1,
            device="cpu",
            keep=1,
            log_every=10,
            validate_every=chosen.epochs,
            probe_every=chosen.epochs,
            validate_samples=LOOKED_AT,
        ),
    )
    pretrain(with_recipe(config, chosen))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "val" not in line]
    seen = [line["loss"] for line in steps[-max(1, len(steps) // 10) :]]
    look = [line["val"] for line in lines if "val" in line][-1]
    return {
        "updates": steps[-1]["step"],
        "epochs": chosen.epochs,
        "training loss": statistics.fmean(seen),
        "held-out loss": look["loss"],
        "linear probe": look.get("linear_probe"),
        "effective rank": look["effective_rank"],
    }


def power_law(amounts: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """Return (a, b) of the line loss = a amount^-b through points, fitted in logarithms."""
    slope, start = np.polyfit(np.log(amounts), np.log(losses), 1)
    return math.exp(start), -float(slope)


def millions(size: Size, channels: int) -> float:
    """Return the parameters of an encoder in millions."""
    from ...core.methods import build

    chosen = load_recipe(RECIPE)
    method: MethodConfig = replace(chosen.method, encoder=replace(_encoder(chosen), **vars(size)))
    network = build(method, recipe_grid(replace(chosen, method=method), channels))
    return sum(p.numel() for p in network.encoder.parameters()) / 1e6


def _encoder(chosen: Recipe) -> EncoderConfig:
    encoder = chosen.method.encoder
    assert isinstance(encoder, EncoderConfig)
    return encoder


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> str:
    """Return Spearman's correlation of two numbers of the same runs, for a page."""
    from scipy.stats import spearmanr

    if len(set(first)) < 2 or len(set(second)) < 2:
        return "not defined"
    found: Any = spearmanr(first, second)
    return f"{float(found.statistic):+.2f}"


COLUMNS = ("training loss", "held-out loss", "linear probe", "effective rank")


def section(study: Study) -> Section:
    """Run the grid and return its page."""
    scenes_store(study.samples, study.work)
    grid = points(study.seeds)
    units = {point: unit(point, study.work) for point in grid}
    results = run_units(list(units.values()), study, NAME)
    channels = open_group(study.work / STORE).meta.num_channels
    names = {size: f"{millions(size, channels):.2f} M" for size in SIZES}
    rows, lines, fits = [], {}, []
    for updates in LENGTHS:
        for size in SIZES:
            losses = []
            for fraction in FRACTIONS:
                found = [
                    results[Point(size, fraction, updates, seed).name]
                    for seed in range(study.seeds)
                ]
                title = f"{names[size]}, {fraction:.3g} of the data, {found[0]['updates']} updates"
                cells = [[numbers[c] for numbers in found] for c in COLUMNS]
                rows.append((f"{title} ({found[0]['epochs']} epochs)", cells))
                losses.append(statistics.fmean(cells[1]))
            factor, slope = power_law(FRACTIONS, losses)
            fits.append(f"| {names[size]} | {updates} | {factor:.3f} | {slope:+.3f} |")
            fitted = [factor * f**-slope for f in FRACTIONS]
            lines[f"{names[size]}, {updates} updates"] = (FRACTIONS, losses, fitted)
    every = list(results.values())
    probe = [numbers["linear probe"] for numbers in every]
    told = {
        name: rank_correlation([-numbers[name] for numbers in every], probe)
        for name in ("held-out loss", "training loss")
    }
    return Section(
        text(rows, fits, told, study.seeds),
        {"scaling.png": curves("share of the training images", "held-out masked loss", lines)},
    )


def text(
    rows: list[tuple[str, list[list[float]]]],
    fits: list[str],
    told: Mapping[str, str],
    seeds: int,
) -> str:
    """Return the page's text.

    Args:
        rows: lines of the table.
        fits: lines of the table of fitted curves.
        told: rank correlation of each loss with the probe.
        seeds: repetitions.
    """
    gap = [s[0][0] - s[1][0] for _, s in rows]
    widest = max(range(len(rows)), key=lambda place: -gap[place])
    repeats = "one seed" if seeds == 1 else f"{seeds} seeds"
    return f"""## Model size, data and length

`{RECIPE}` with other encoders on shares of the training images of RSSCN7 (smaller shares are part
of larger ones), {repeats}. The held-out loss is that of {LOOKED_AT} images of the validation part
with fixed masks; the linear probe is fitted on training images and judged on the same validation
images (balanced accuracy).

{table(COLUMNS, rows)}

![held-out loss over the share of data, with fitted curves](scaling.png)

Curves: held-out loss = a x share^-b, fitted in logarithms; a positive b means that more data help.

| encoder | updates | a | b |
|---|---|---|---|
{chr(10).join(fits)}

- Rank correlation with the linear probe over all runs: held-out loss (lower is better)
  {told["held-out loss"]}, training loss {told["training loss"]}.
- Largest gap between held-out and training loss: {rows[widest][0]},
  {spread([b - a for a, b in zip(rows[widest][1][0], rows[widest][1][1], strict=True)])}.
"""
