"""Part `clouds`: segmenting cloud and shadow with few labels, and across sensors.

A low-level task on two scenes: a pixel's own bands say most of it, so the honest rival is a
linear classifier of single pixels.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.heads.metrics import Scores, confusion
from ...core.heads.probe import Ridge, fit_ridges
from ...core.objectives.labels import IGNORED
from ...domains.domain import get_domain
from ..efficiency import Efficiency
from ..finetune import FinetuneConfig
from ..finetune import run as finetune
from ..stores import open_group
from .page import table, verdict
from .reconstruct import model_path, pretrain_unit
from .stores import cloud_store
from .units import Numbers, Study, Unit, run_units

NAME = "clouds"
STARTS = ("pre-trained", "scratch")
SETTINGS = {  # name: division of the scenes, labelled tiles a class, epochs
    "few labelled blocks": ("within", 4, 60),
    "Landsat-5 to Sentinel-2": ("across", None, 8),
}
RATE = 1.6e-2  # per 256 samples
_RIDGE, _PIXELS = 1e-3, 50_000


def segment(work: Path, setting: str, start: str, seed: int) -> Numbers:
    """Fine-tune once and return the scores of the test strips."""
    division, labels, epochs = SETTINGS[setting]
    base = FinetuneConfig(
        model=model_path(work, division, seed),
        data=work / f"clouds-{division}",
        out=work / "runs" / f"clouds-{setting}-{start}-{seed}".replace(" ", "-"),
        task="segment",
        scratch=start == "scratch",
        labels_per_class=labels,
        epochs=epochs,
        batch_size=8,
        seed=seed,
        efficiency=Efficiency(num_threads=1, log_every=50, device="cpu", validate_every=1000),
    )
    optim = replace(base.optim, base_lr=RATE, warmup_epochs=epochs / 10)
    if base.scratch:
        optim = replace(optim, layer_decay=None)
    finetune(replace(base, optim=optim))
    return json.loads((base.out / "scores.json").read_text(encoding="utf-8"))


def segment_by_ridge(work: Path, setting: str, seed: int) -> Numbers:
    """Fit a linear classifier of single pixels to the same labelled tiles and score it."""
    from ...core.checkpoints.model_dir import load_model
    from ..labelled import open_task_data

    division, labels, _ = SETTINGS[setting]
    group = open_group(work / f"clouds-{division}")
    normaliser = get_domain(group.meta.domain).normaliser(group.normaliser_dict)
    data = open_task_data(
        group,
        normaliser,
        "segment",
        load_model(model_path(work, division, seed)).method.grid,
        image_size=None,
        splits={name: name for name in ("train", "val", "test")},
        labels_per_class=labels,
        seed=seed,
    )
    pixels, classes = _labelled_pixels(data.batches(data.rows["train"], 16, "cpu"))
    if len(classes) > _PIXELS:
        chosen = np.random.default_rng(seed).permutation(len(classes))[:_PIXELS]
        pixels, classes = pixels[torch.from_numpy(chosen)], classes[torch.from_numpy(chosen)]
    count = classes.bincount(minlength=len(data.classes)).double()
    weight = (1.0 / count.clamp_min(1.0))[classes]  # every class weighs the same
    ridge = fit_ridges(pixels, classes, len(data.classes), (_RIDGE,), weight.float())[0]
    return _score(ridge, data.batches(data.rows["test"], 16, "cpu"), len(data.classes))


def _labelled_pixels(batches) -> tuple[Tensor, Tensor]:
    pixels, classes = [], []
    for batch in batches:
        known = batch.labels != IGNORED
        pixels.append(batch.images.movedim(1, -1)[known])
        classes.append(batch.labels[known])
    return torch.cat(pixels), torch.cat(classes)


def _score(ridge: Ridge, batches, num_classes: int) -> Numbers:
    from ...core.config_tree import to_plain

    total = torch.zeros(num_classes, num_classes, dtype=torch.long)
    for batch in batches:
        pixels, classes = _labelled_pixels([batch])
        total += confusion(ridge.scores(pixels).argmax(dim=1), classes, num_classes)
    return to_plain(Scores.of(total))


def task_units(study: Study) -> list[Unit]:
    """Return the runs of every setting, start and seed, and the classifiers of single pixels."""
    places = [(setting, seed) for setting in SETTINGS for seed in range(study.seeds)]
    tuned = [
        Unit(
            NAME,
            f"{setting}-{start}-{seed}",
            "clouds:segment",
            {"setting": setting, "start": start, "seed": seed},
        )
        for setting, seed in places
        for start in STARTS
    ]
    linear = [
        Unit(
            NAME,
            f"{setting}-ridge-{seed}",
            "clouds:segment_by_ridge",
            {"setting": setting, "seed": seed},
        )
        for setting, seed in places
    ]
    return tuned + linear


def section(study: Study) -> str:
    """Run the part and return its section."""
    seeds = range(study.seeds)
    for division in {division for division, _, _ in SETTINGS.values()}:
        cloud_store(study.samples, study.work, division)
        units = [pretrain_unit(division, seed) for seed in seeds]
        run_units(units, study, f"clouds: pre-training {division}")
    results = run_units(task_units(study), study, NAME)
    values = {
        (setting, kind, name): [results[f"{setting}-{kind}-{seed}"][name] for seed in seeds]
        for setting in SETTINGS
        for kind in (*STARTS, "ridge")
        for name in ("balanced_accuracy", "miou")
    }
    names = {"ridge": "ridge on single pixels"}
    rows = [
        (
            names.get(kind, f"fine-tuned, {kind}"),
            [values[s, kind, n] for s in SETTINGS for n in ("balanced_accuracy", "miou")],
        )
        for kind in (*STARTS, "ridge")
    ]
    goals = [
        verdict(
            f"{setting}: fine-tuned from pre-training over {names.get(rival, rival)}, balanced",
            values[setting, "pre-trained", "balanced_accuracy"],
            values[setting, rival, "balanced_accuracy"],
        )
        for setting in SETTINGS
        for rival in ("scratch", "ridge")
    ]
    columns = [f"{s}: {n}" for s in SETTINGS for n in ("balanced accuracy", "mean IoU")]
    few = SETTINGS["few labelled blocks"][1]
    return f"""## Cloud and shadow

Classes per pixel: shadow, water, land, cloud. *Few labelled blocks*: {few} training tiles of
64 pixels for each most frequent class, tested on strips of other ground of the same two
scenes. *Landsat-5 to Sentinel-2*: trained on one sensor, tested on the other. Same network
and epochs with and without pre-training (on the training strips, without labels).

{table(columns, rows)}

{chr(10).join(goals)}
"""
