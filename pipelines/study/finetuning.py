"""Part `finetune`: is fine-tuning from the pre-trained encoder better than from scratch?

Both sides have the same network, views, epochs and labels. Each has the best of the same learning
rates, chosen with one seed on the validation quarter of the official training part. The official
test part is scored once per seed, with all training labels and with ten a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...core.config_tree import to_plain
from . import scenes
from .page import Section, table, verdict
from .pictures import bars
from .tuning import RATES, STARTS, Start, Tuning, best_rate, candidates
from .units import Numbers, Study, Unit, run_units

NAME = "finetune"
LABELS = {"all labels": (None, 6), "10 a class": (10, 40)}  # labels a class, epochs
METHOD = "SelectiveMAE"


def tuning(start: Start, labels: str, seed: int, rate: float = RATES[0]) -> Tuning:
    """Return the run of a start, a number of labels and a seed."""
    amount, epochs = LABELS[labels]
    pretraining = to_plain(scenes.recipe(METHOD, seed, scenes.EPOCHS))
    return Tuning(
        data=scenes.NAME,
        model=str(scenes.model_path(Path(), METHOD, pretraining)),
        task="classify",
        start=start,
        labels=amount,
        epochs=epochs,
        batch_size=32,
        rate=rate,
        seed=seed,
    )


def choosing_units() -> list[Unit]:
    """Return the runs that choose a learning rate for each start and number of labels."""
    return [
        run.unit(NAME, f"choose-{start}-{labels}-{run.rate:g}")
        for labels in LABELS
        for start in STARTS
        for run in candidates(tuning(start, labels, 0))
    ]


def chosen_rates(results: Mapping[str, Numbers]) -> dict[tuple[Start, str], float]:
    """Return the rate with the best validation accuracy of each start and number of labels."""
    return {
        (start, labels): best_rate(
            {rate: results[f"choose-{start}-{labels}-{rate:g}"]["accuracy"] for rate in RATES}
        )
        for start in STARTS
        for labels in LABELS
    }


def units(study: Study, rates: Mapping[tuple[Start, str], float]) -> list[Unit]:
    """Return the runs whose test scores count."""
    return [
        replace(tuning(start, labels, seed), rate=rate).unit(NAME, f"{start}-{labels}-{seed}")
        for (start, labels), rate in rates.items()
        for seed in range(study.seeds)
    ]


def accuracies(results: Mapping[str, Numbers], start: str, labels: str, seeds: int) -> list[float]:
    """Return the test accuracy of every seed."""
    return [results[f"{start}-{labels}-{seed}"]["accuracy"] for seed in range(seeds)]


def section(study: Study) -> Section:
    """Run the part and return its section."""
    scenes.run(study)  # the encoders it starts from
    chosen = chosen_rates(run_units(choosing_units(), study, "finetune: learning rates"))
    results = run_units(units(study, chosen), study, "finetune")
    rows = [
        (f"fine-tuned, {start}", [accuracies(results, start, n, study.seeds) for n in LABELS])
        for start in STARTS
    ]
    goals = []
    for labels in LABELS:
        ours, theirs = (accuracies(results, start, labels, study.seeds) for start in STARTS)
        goals.append(verdict(f"pre-trained over scratch, {labels}", ours, theirs))
    rates = "; ".join(f"{start}, {labels}: {r:g}" for (start, labels), r in chosen.items())
    lengths = ", ".join(f"{labels}: {epochs} epochs" for labels, (_, epochs) in LABELS.items())
    text = f"""## Fine-tuning

The same images and encoder: the official training part without the quarter that chooses the
learning rate (of {", ".join(f"{r:g}" for r in RATES)} per 256 samples; chosen: {rates}). Both
sides have the same budget ({lengths}, batch 32) and differ in nothing but the start and layer
decay, which makes sense for a pre-trained encoder only.

{table([f"accuracy, {labels}" for labels in LABELS], rows)}

{chr(10).join(goals)}

![accuracy after fine-tuning](satellite-finetune.png)
"""
    return Section(text, {"satellite-finetune.png": bars("accuracy, test", list(LABELS), rows)})
