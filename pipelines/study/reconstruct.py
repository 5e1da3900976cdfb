"""Part `reconstruct`: does a model guess hidden pixels better than interpolation does?

Raw pixels are the targets, so that nothing of the truth is lent to the model. Training
strips of the two cloud scenes are seen without labels; the test strips are other ground.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...core.checkpoints.model_dir import load_model
from ...domains.domain import get_domain
from ..efficiency import Efficiency
from ..features import stored_batches
from ..inpaint import score_reconstruction
from ..pretrain import PretrainConfig, with_recipe
from ..pretrain import run as pretrain
from ..recipe import load_recipe
from ..stores import open_group
from .page import table, verdict
from .stores import cloud_store
from .units import Numbers, Study, Unit, run_units

NAME = "reconstruct"
RECIPE = "satellite/selectivemae-pixels-tiny"
DIVISION, EPOCHS = "within", 200
NUM_IMAGES = 32
RATIOS = (0.5, 0.75, 0.85)


def model_path(work: Path, division: str, seed: int) -> Path:
    """Return the model directory of a pre-training run on cloud scenes."""
    return work / "runs" / f"clouds-{division}-{seed}" / "model"


def pretrain_unit(division: str, seed: int) -> Unit:
    """Return the unit that pre-trains on the training strips of a division, without labels."""
    arguments = {"division": division, "seed": seed}
    return Unit("pretrain", f"{division}-{seed}", "reconstruct:pretrain_strips", arguments)


def pretrain_strips(work: Path, division: str, seed: int) -> Numbers:
    """Pre-train on the training strips and return the length of the run."""
    path = model_path(work, division, seed)
    config = PretrainConfig(
        recipe=RECIPE,
        data=work / f"clouds-{division}",
        out=path.parent,
        efficiency=Efficiency(num_threads=1, log_every=50, device="cpu", validate_every=20),
    )
    base = load_recipe(RECIPE)
    optim = replace(base.optim, warmup_epochs=EPOCHS / 10)
    pretrain(with_recipe(config, replace(base, optim=optim, epochs=EPOCHS, seed=seed)))
    return {"epochs": EPOCHS}


def score(work: Path, seed: int, ratio: float) -> Numbers:
    """Return errors of the model and of interpolation on the same hidden pixels of test tiles."""
    method = load_model(model_path(work, DIVISION, seed)).method.eval()
    group = open_group(work / f"clouds-{DIVISION}")
    normaliser = get_domain(group.meta.domain).normaliser(group.normaliser_dict)
    rows = group.rows("test")
    rows = rows[np.linspace(0, len(rows) - 1, NUM_IMAGES).astype(int)]
    batches = stored_batches(group, rows, normaliser, size=method.grid.image_size, batch_size=8)
    found = score_reconstruction(method, batches, seed=seed, mask_ratio=ratio)
    return {
        "model": found.model,
        "biharmonic": found.biharmonic,
        "visible mean": found.visible_mean,
    }


def section(study: Study) -> str:
    """Run the part and return its section."""
    cloud_store(study.samples, study.work, DIVISION)
    seeds = range(study.seeds)
    run_units([pretrain_unit(DIVISION, seed) for seed in seeds], study, "reconstruct: pre-training")
    units = [
        Unit(NAME, f"{ratio}-{seed}", "reconstruct:score", {"seed": seed, "ratio": ratio})
        for ratio in RATIOS
        for seed in seeds
    ]
    results = run_units(units, study, NAME)
    kinds = ("model", "biharmonic", "visible mean")
    values = {
        (ratio, kind): [results[f"{ratio}-{seed}"][kind] for seed in seeds]
        for ratio in RATIOS
        for kind in kinds
    }
    names = {"model": "SelectiveMAE, raw pixels", "biharmonic": "biharmonic inpainting"}
    rows = [(names.get(kind, kind), [values[r, kind] for r in RATIOS]) for kind in kinds]
    goals = [
        verdict(
            f"error of inpainting minus error of the model, {ratio:.0%} hidden",
            values[ratio, "biharmonic"],
            values[ratio, "model"],
        )
        for ratio in RATIOS
    ]
    return f"""## Masked reconstruction

The Landsat-5 and Sentinel-2 cloud scenes (six bands, reflectance), cut into strips of other
ground: two of each train, one is the test. SelectiveMAE on raw pixels (`{RECIPE}`, {EPOCHS}
epochs, trained with 85 % hidden), {NUM_IMAGES} test tiles of 64 pixels; tokens of 4 pixels
are hidden at random, the same for all. Mean squared error over hidden pixels in units of
each band's variance in training; lower is better.

{table([f"{ratio:.0%} hidden" for ratio in RATIOS], rows)}

{chr(10).join(goals)}
"""
