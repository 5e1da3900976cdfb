"""Part `finetune`: is fine-tuning from the pre-trained encoder better than from scratch?

Both sides have the same network, views, epochs and labels. Each has the best of the same three
learning rates, chosen with one seed on the validation quarter of the official training part. From
scratch all layers learn at one rate; a pre-trained encoder has layer decay, as published. The
official test part is scored once per seed, with all training labels and with ten a class.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ..efficiency import Efficiency
from ..finetune import FinetuneConfig
from ..finetune import run as finetune
from . import scenes
from .page import table, verdict
from .units import Numbers, Study, Unit, run_units

NAME = "finetune"
STARTS = ("pre-trained", "scratch")
RATES = (1e-3, 4e-3, 1.6e-2)  # per 256 samples
LABELS = {"all labels": (None, 8), "10 a class": (10, 60)}  # labels a class, epochs
METHOD = "SelectiveMAE"


def choosing_units() -> list[Unit]:
    """Return the runs that choose a learning rate for each start and number of labels."""
    return [
        Unit(
            NAME,
            f"choose-{start}-{labels}-{rate:g}",
            "finetuning:fit_and_score",
            {"start": start, "labels": labels, "rate": rate, "seed": 0, "split": "val"},
        )
        for start in STARTS
        for labels in LABELS
        for rate in RATES
    ]


def chosen_rates(results: dict[str, Numbers]) -> dict[tuple[str, str], float]:
    """Return the rate with the best validation accuracy of each start and number of labels."""
    return {
        (start, labels): max(
            RATES, key=lambda rate: results[f"choose-{start}-{labels}-{rate:g}"]["accuracy"]
        )
        for start in STARTS
        for labels in LABELS
    }


def units(study: Study, rates: dict[tuple[str, str], float]) -> list[Unit]:
    """Return the runs whose test scores count."""
    return [
        Unit(
            NAME,
            f"{start}-{labels}-{seed}",
            "finetuning:fit_and_score",
            {"start": start, "labels": labels, "rate": rate, "seed": seed, "split": "test"},
        )
        for (start, labels), rate in rates.items()
        for seed in range(study.seeds)
    ]


def fit_and_score(
    work: Path, start: str, labels: str, rate: float, seed: int, split: str
) -> Numbers:
    """Fine-tune once and return the accuracy on a split."""
    amount, epochs = LABELS[labels]
    name = f"{NAME}-{start}-{labels}-{rate:g}-{split}-{seed}".replace(" ", "-")
    base = FinetuneConfig(
        model=scenes.model_path(work, METHOD, seed),
        data=work / scenes.NAME,
        out=work / "runs" / name,
        test=split,
        scratch=start == "scratch",
        labels_per_class=amount,
        epochs=epochs,
        seed=seed,
        efficiency=Efficiency(num_threads=1, log_every=50, device="cpu", validate_every=1000),
    )
    optim = replace(base.optim, base_lr=rate, warmup_epochs=epochs / 10)
    if base.scratch:
        optim = replace(optim, layer_decay=None)
    finetune(replace(base, optim=optim))
    scores = json.loads((base.out / "scores.json").read_text(encoding="utf-8"))
    return {"accuracy": scores["accuracy"], "rate": rate}


def accuracies(results: dict[str, Numbers], start: str, labels: str, seeds: int) -> list[float]:
    """Return the test accuracy of every seed."""
    return [results[f"{start}-{labels}-{seed}"]["accuracy"] for seed in range(seeds)]


def section(study: Study) -> str:
    """Run the part `finetune` and return its section."""
    scenes.section(study)  # the encoders it starts from
    chosen = chosen_rates(run_units(choosing_units(), study, "finetune: learning rates"))
    results = run_units(units(study, chosen), study, "finetune")
    rows = [
        (start, [accuracies(results, start, n, study.seeds) for n in LABELS]) for start in STARTS
    ]
    goals = []
    for labels in LABELS:
        ours, theirs = (accuracies(results, start, labels, study.seeds) for start in STARTS)
        goals.append(verdict(f"pre-trained over scratch, {labels}", ours, theirs))
    rates = "; ".join(f"{start}, {labels}: {r:g}" for (start, labels), r in chosen.items())
    lengths = ", ".join(f"{labels}: {epochs} epochs" for labels, (_, epochs) in LABELS.items())
    return f"""## Fine-tuning

The same images and encoder: 1064 images of the official training part train, 336 choose the
learning rate (of {", ".join(f"{r:g}" for r in RATES)} per 256 samples; chosen: {rates}), 700
are the test. Both sides have the same budget ({lengths}, batch 32).

{table([f"accuracy, {labels}" for labels in LABELS], rows)}

{chr(10).join(goals)}
"""
