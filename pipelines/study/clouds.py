"""Part `clouds`: segmenting cloud and shadow with few labels, and across sensors.

A low-level task on two scenes: a pixel's own bands say most of it, so the honest rival is a
linear classifier of single pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.batch import Batch
from ...core.config_tree import to_plain
from ...core.grid import Grid
from ...core.heads.metrics import Scores, confusion
from ...core.heads.probe import Ridge, fit_ridges
from ...core.objectives.labels import IGNORED
from ...domains.domain import get_domain
from ..labelled import Choice, open_task_data
from ..stores import open_group
from . import cloud_tiles, reconstruct
from .page import Section, Values, table, verdict
from .stores import make_store
from .tuning import RATES, STARTS, Start, Tuning, best_rate, candidates
from .units import Numbers, Study, Unit, run_units

NAME = "clouds"
_RIDGE, _PIXELS = 1e-3, 50_000
_BATCH = 16


@dataclass(frozen=True)
class Setting:
    """A question to the cloud scenes.

    Args:
        title: what the page calls it.
        data: scenes that are pre-trained on without labels, and divided.
        labels: labelled tiles for each most frequent class, None for all.
        epochs: of fine-tuning.
    """

    title: str
    data: reconstruct.Data
    labels: int | None
    epochs: int


ACROSS = reconstruct.Data("clouds-across", 50, "Landsat-5 for training, Sentinel-2 for the test")
SETTINGS = (
    Setting("few labelled blocks", reconstruct.CLOUDS, 4, 40),
    Setting("Landsat-5 to Sentinel-2", ACROSS, None, 8),
)
METRICS = {"balanced_accuracy": "balanced accuracy", "miou": "mean IoU"}


def tuning(setting: Setting, start: Start, seed: int, rate: float = RATES[0]) -> Tuning:
    """Return the run of a setting, a start and a seed."""
    return Tuning(
        data=setting.data.store,
        model=str(reconstruct.model_path(Path(), setting.data, seed)),
        task="segment",
        start=start,
        labels=setting.labels,
        epochs=setting.epochs,
        batch_size=8,
        rate=rate,
        seed=seed,
    )


def choosing_units() -> list[Unit]:
    """Return the runs that choose the learning rate of each setting and start."""
    return [
        run.unit(NAME, f"choose-{setting.title}-{start}-{run.rate:g}")
        for setting in SETTINGS
        for start in STARTS
        for run in candidates(tuning(setting, start, 0))
    ]


def chosen_rate(results: Mapping[str, Numbers], setting: Setting, start: Start) -> float:
    """Return the rate with the best balanced accuracy on the validation strips."""
    names = {rate: f"choose-{setting.title}-{start}-{rate:g}" for rate in RATES}
    return best_rate({rate: results[name]["balanced_accuracy"] for rate, name in names.items()})


def units(study: Study, chosen: Mapping[str, Numbers]) -> list[Unit]:
    """Return the runs whose test scores count, and the classifiers of single pixels."""
    found = []
    for setting in SETTINGS:
        for seed in range(study.seeds):
            for start in STARTS:
                rate = chosen_rate(chosen, setting, start)
                run = replace(tuning(setting, start, seed), rate=rate)
                found.append(run.unit(NAME, f"{setting.title}-{start}-{seed}"))
            arguments = {"store": setting.data.store, "labels": setting.labels, "seed": seed}
            name = f"{setting.title}-ridge-{seed}"
            found.append(Unit(NAME, name, "clouds:segment_by_ridge", arguments))
    return found


def segment_by_ridge(work: Path, store: str, labels: int | None, seed: int) -> Numbers:
    """Fit a linear classifier of single pixels to the same labelled tiles and score it."""
    group = open_group(work / store)
    data = open_task_data(
        group,
        get_domain(group.meta.domain).normaliser(group.normaliser_dict),
        "segment",
        Grid.for_image(group.meta.size, 4, group.meta.num_channels),
        image_size=None,
        splits={name: name for name in ("train", "val", "test")},
        choice=Choice(labels_per_class=labels, seed=seed),
    )
    pixels, classes = labelled_pixels(data.batches(data.rows["train"], _BATCH, "cpu"))
    if len(classes) > _PIXELS:
        chosen = torch.from_numpy(np.random.default_rng(seed).permutation(len(classes))[:_PIXELS])
        pixels, classes = pixels[chosen], classes[chosen]
    count = classes.bincount(minlength=len(data.classes)).double()
    weight = (1.0 / count.clamp_min(1.0))[classes]  # every class weighs the same
    ridge = fit_ridges(pixels, classes, len(data.classes), (_RIDGE,), weight.float())[0]
    return scored(ridge, data.batches(data.rows["test"], _BATCH, "cpu"), len(data.classes))


def labelled_pixels(batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Return the bands of all labelled pixels and their classes."""
    pixels, classes = [], []
    for batch in batches:
        assert batch.labels is not None
        known = batch.labels != IGNORED
        pixels.append(batch.images.movedim(1, -1)[known])
        classes.append(batch.labels[known])
    return torch.cat(pixels), torch.cat(classes)


def scored(ridge: Ridge, batches: Iterable[Batch], num_classes: int) -> Numbers:
    """Return the scores of a classifier of single pixels."""
    total = torch.zeros(num_classes, num_classes, dtype=torch.long)
    for batch in batches:
        pixels, classes = labelled_pixels([batch])
        total += confusion(ridge.scores(pixels).argmax(dim=1), classes, num_classes)
    return to_plain(Scores.of(total))


def section(study: Study) -> Section:
    """Run the part and return its section."""
    seeds = range(study.seeds)
    for name in (*(setting.data.store for setting in SETTINGS), cloud_tiles.STORE):
        make_store(name, study.samples, study.work)
    pretraining = [reconstruct.pretrain_unit(s.data, seed) for seed in seeds for s in SETTINGS]
    run_units(pretraining, study, "clouds: pre-training")
    chosen = run_units(choosing_units(), study, "clouds: learning rates")
    results = run_units(units(study, chosen), study, NAME)
    tiles = run_units(cloud_tiles.units(ACROSS, NAME, seeds), study, "clouds: tiles")
    rates = "; ".join(
        f"{setting.title}, {start}: {chosen_rate(chosen, setting, start):g}"
        for setting in SETTINGS
        for start in STARTS
    )
    return Section(f"""## Cloud and shadow

Classes per pixel: shadow, water, land, cloud. *Few labelled blocks*: {SETTINGS[0].labels} training
tiles of 64 pixels for each most frequent class, tested on strips of other ground of the same two
scenes. *Landsat-5 to Sentinel-2*: trained on one sensor, tested on the other. Same network and
epochs with and without pre-training (on the training strips, without labels); each side has the
best of the same learning rates on validation strips ({rates}).

{segmentation_table(results, study.seeds)}

Tiles of 32 pixels, cloudy (over {cloud_tiles.SHARE:.0%} cloud), shadow (over
{cloud_tiles.SHARE:.0%} shadow) or clear, from Landsat-5 to Sentinel-2: a linear probe on frozen
features, and on the means of the six bands.

{table(["balanced accuracy"], cloud_tiles.rows_of(tiles, study))}
""")


def segmentation_table(results: Mapping[str, Numbers], seeds: int) -> str:
    """Return the table of both settings and the comparisons."""
    names = {start: f"fine-tuned, {start}" for start in STARTS} | {"ridge": "ridge, single pixels"}
    values: dict[tuple[str, str, str], Values] = {
        (s.title, kind, metric): [results[f"{s.title}-{kind}-{n}"][metric] for n in range(seeds)]
        for s in SETTINGS
        for kind in names
        for metric in METRICS
    }
    rows = [
        (name, [values[s.title, kind, metric] for s in SETTINGS for metric in METRICS])
        for kind, name in names.items()
    ]
    goals = [
        verdict(
            f"{s.title}: pre-trained over {names[rival]}, balanced accuracy",
            values[s.title, "pre-trained", "balanced_accuracy"],
            values[s.title, rival, "balanced_accuracy"],
        )
        for s in SETTINGS
        for rival in ("scratch", "ridge")
    ]
    columns = [f"{s.title}: {metric}" for s in SETTINGS for metric in METRICS.values()]
    return "\n".join([table(columns, rows), "", *goals])
