"""Part `scenes`: do frozen features of scene photographs get better by pre-training?

SelectiveMAE and MAE with one encoder, each for the same wall-clock time, on all images of RSSCN7
without labels; probes on the official training part, judged on the official test part.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ...core.batch import Batch, Progress
from ...core.checkpoints.model_dir import load_model
from ...core.heads.pool import Pooling
from ...core.methods import build
from ...core.noise import Noise
from ...core.training.engine import PlainEngine
from ...core.training.optim import OptimConfig
from ...domains.domain import get_domain
from ..efficiency import Efficiency
from ..features import (
    Source,
    band_means,
    collect,
    histogram,
    image_source,
    random_method,
    stored_batches,
)
from ..pretrain import PretrainConfig, with_recipe
from ..pretrain import run as pretrain
from ..probing import Labelled, Truth, probe_table
from ..recipe import Recipe, load_recipe, recipe_grid
from ..stores import OpenGroup, open_group
from .page import table, verdict
from .stores import scenes_store
from .units import Numbers, Study, Unit, run_units

NAME = "scenes"
RECIPES = {
    "SelectiveMAE": "satellite/selectivemae-tiny",
    "MAE": "satellite/mae-tiny",
}
FEW, DRAWS = 10, 8
EPOCHS = 30  # of SelectiveMAE; the other method gets the same time
_TURNS, _STEPS = 12, 4


def recipe(method: str, seed: int, epochs: int) -> Recipe:
    """Return the recipe of one run; warm-up takes a tenth of it."""
    base = load_recipe(RECIPES[method])
    optim = replace(base.optim, warmup_epochs=epochs / 10)
    return replace(base, optim=optim, epochs=epochs, seed=seed)


def timing_unit() -> Unit:
    """Return the unit that measures both methods' steps side by side."""
    return Unit(NAME, "timing", "scenes:time_steps")


def units(study: Study, epochs: dict[str, int]) -> list[Unit]:
    """Return pre-training and probing of each method and seed, and what they are compared with.

    Args:
        study: seeds.
        epochs: length of a run of each method.
    """
    trained = [
        Unit(NAME, f"{method}-{seed}", "scenes:pretrain_and_probe", arguments)
        for seed in range(study.seeds)
        for method in RECIPES
        for arguments in [{"method": method, "seed": seed, "epochs": epochs[method]}]
    ]
    others = [
        Unit(NAME, f"random-{seed}", "scenes:probe_random", {"seed": seed})
        for seed in range(study.seeds)
    ]
    return [*trained, *others, Unit(NAME, "pixels", "scenes:probe_pixels")]


def equal_time(epochs: int, seconds: dict[str, float]) -> dict[str, int]:
    """Return the epochs of each method that take the time of `epochs` of SelectiveMAE."""
    budget = epochs * seconds["SelectiveMAE"]
    return {method: round(budget / seconds[method]) for method in RECIPES}


def time_steps(work: Path) -> Numbers:
    """Measure one update of each method on real batches, in turns; returns median seconds."""
    group = open_group(work / NAME)
    engines = {method: _engine(method, group) for method in RECIPES}
    batches = [_batch(group, load_recipe(RECIPES["MAE"]), start) for start in range(_STEPS)]
    taken: dict[str, list[float]] = {method: [] for method in RECIPES}
    for turn in range(_TURNS):
        for method, engine in engines.items():
            start = time.perf_counter()
            for place, batch in enumerate(batches):
                # The whole run is looked at, because the curriculum changes the work of a step.
                progress = Progress(turn / _TURNS, 1)
                engine.step([batch], progress, Noise(turn * _STEPS + place))
            taken[method].append((time.perf_counter() - start) / _STEPS)
    return {method: statistics.median(values[1:]) for method, values in taken.items()}


def _engine(method: str, group: OpenGroup) -> PlainEngine:
    chosen = load_recipe(RECIPES[method])
    model = build(chosen.method, recipe_grid(chosen, group.meta.num_channels))
    optim = OptimConfig(base_lr=1e-4, warmup_epochs=0)
    return PlainEngine(model, optim, batch_size=chosen.batch_size, num_epochs=1)


def _batch(group: OpenGroup, chosen: Recipe, place: int) -> Batch:
    rows = np.arange(place * chosen.batch_size, (place + 1) * chosen.batch_size)
    normaliser = get_domain("satellite").normaliser(group.normaliser_dict)
    return next(
        stored_batches(group, rows, normaliser, size=chosen.image_size, batch_size=len(rows))
    )


def model_path(work: Path, method: str, seed: int) -> Path:
    """Return the model directory of a pre-training run."""
    return work / "runs" / f"{NAME}-{method.lower()}-{seed}" / "model"


def pretrain_and_probe(work: Path, method: str, seed: int, epochs: int) -> Numbers:
    """Pre-train on all images without labels, then probe the frozen encoder."""
    path, started = model_path(work, method, seed), time.process_time()
    config = PretrainConfig(
        recipe=RECIPES[method],
        data=work / NAME,
        out=path.parent,
        split="all",
        efficiency=Efficiency(num_threads=1, log_every=50, device="cpu"),
    )
    pretrain(with_recipe(config, recipe(method, seed, epochs)))
    minutes = (time.process_time() - started) / 60
    encoder = load_model(path).method.encoder.eval()
    source = image_source(method, encoder, Pooling())
    return {"cpu_minutes": minutes, **probe(work, source, seed)}


def probe_random(work: Path, seed: int) -> Numbers:
    """Probe the same encoder with random weights."""
    group, chosen = open_group(work / NAME), recipe("SelectiveMAE", seed, 1)
    grid = recipe_grid(chosen, group.meta.num_channels)
    encoder = random_method(chosen.method, grid, 1000 + seed).encoder
    return probe(work, image_source("random initialisation", encoder, Pooling()), seed)


def probe_pixels(work: Path) -> Numbers:
    """Probe what raw pixels give."""
    kinds = {
        "band means": band_means,
        "colour histogram": histogram,
        "16 x 16 pixels": lambda b: functional.adaptive_avg_pool2d(b.images, 16).flatten(1),
    }
    return {name: probe(work, Source(name, extract), 0) for name, extract in kinds.items()}


def probe(work: Path, source: Source, seed: int) -> Numbers:
    """Return accuracies of both probes, with all labels of the training part and ten a class."""
    group = open_group(work / NAME)
    normaliser = get_domain("satellite").normaliser(group.normaliser_dict)
    size = load_recipe(RECIPES["MAE"]).image_size
    rows = {
        "train": np.sort(np.concatenate([group.rows("train"), group.rows("val")])),
        "test": group.rows("test"),
    }
    labels = {k: torch.from_numpy(group.tile_labels.index[v]) for k, v in rows.items()}
    found = {
        part: collect(
            stored_batches(group, chosen, normaliser, size=size),
            [source.extract],
            f"{source.name}, {part}",
        )[0]
        for part, chosen in rows.items()
    }
    truth = Truth(labels["train"], labels["test"], group.tile_labels.classes)
    kinds = [Labelled(source.name, found["train"], found["test"])]
    lines = probe_table(kinds, truth, few=(FEW,), num_draws=DRAWS, seed=seed)
    return {key(line.probe, line.labels): line.accuracy for line in lines}


def key(kind: str, labels: int | None) -> str:
    """Return the name of a number: "linear, all labels" or "kNN, 10 a class"."""
    return f"{kind}, {'all labels' if labels is None else f'{labels} a class'}"


def mean_of(results: dict[str, Numbers], prefix: str, name: str, seeds: int) -> list[float]:
    """Return one number of every seed."""
    return [results[f"{prefix}-{seed}"][name] for seed in range(seeds)]


COLUMNS = [key(kind, labels) for labels in (None, FEW) for kind in ("linear", "kNN")]
_JUDGED = (COLUMNS[0], COLUMNS[2])


def rows_of(results: dict[str, Numbers], study: Study) -> list[tuple[str, Sequence[Any]]]:
    """Return the lines of the table: a name and per column the values of all seeds."""
    lines: list[tuple[str, Sequence[Any]]] = []
    for prefix, name in (
        ("SelectiveMAE", "SelectiveMAE, pre-trained"),
        ("MAE", "MAE, pre-trained, equal time"),
        ("random", "random initialisation"),
    ):
        lines.append((name, [mean_of(results, prefix, c, study.seeds) for c in COLUMNS]))
    for name, numbers in results["pixels"].items():
        lines.append((name, [[numbers[c]] for c in COLUMNS]))
    return lines


def section(study: Study) -> str:
    """Run the part `scenes` and return its section."""
    scenes_store(study.samples, study.work)
    timing = run_units([timing_unit()], study, "scenes: timing")["timing"]
    epochs = equal_time(EPOCHS, timing)
    results = run_units(units(study, epochs), study, NAME)
    best = {
        (kind, column): mean_of(results, kind, column, study.seeds)
        for kind in ("SelectiveMAE", "MAE", "random")
        for column in COLUMNS
    }
    goals = [
        verdict(f"SelectiveMAE over random initialisation, {c}", first, second, 0.12)
        for c in _JUDGED
        for first, second in [(best["SelectiveMAE", c], best["random", c])]
    ]
    goals += [
        verdict(
            f"SelectiveMAE over MAE at equal time, {c}", best["SelectiveMAE", c], best["MAE", c]
        )
        for c in _JUDGED
    ]
    minutes = [
        f"{method} {epochs[method]} epochs, {1000 * timing[method]:.0f} ms a step"
        for method in RECIPES
    ]
    return f"""## Frozen features of scenes

RSSCN7: seven classes of overhead photographs, 1400 training and 700 test images in contiguous
blocks, here 128 x 128 pixels. Encoder: ViT, 128 wide, 4 blocks, 64 x 64 pixels, patch 4.
Pre-training sees all images without labels; both methods have the same wall-clock time, by
steps timed in turns in one process ({"; ".join(minutes)}). Features: mean and deviation of
the last tokens. Linear probe: ridge, penalty chosen on held-out training rows; kNN:
neighbours by cosine. Ten labels a class: {DRAWS} draws. Random initialisation is the same
network, read in the same way.

{table(COLUMNS, rows_of(results, study))}

{chr(10).join(goals)}
"""
