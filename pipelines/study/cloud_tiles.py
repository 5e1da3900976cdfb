"""Tiles of 32 pixels as cloudy, shadow or clear, from Landsat-5 to Sentinel-2, encoder frozen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from torch import Tensor

from ...core.batch import Batch
from ...core.checkpoints.model_dir import load_model
from ...core.heads.pool import Pooling
from ...domains.domain import get_domain
from ..features import Source, band_means, collect, image_source, random_method, stored_batches
from ..probing import Labelled, Truth, linear_scores
from ..stores import OpenGroup, open_group
from . import reconstruct
from .units import Numbers, Study, Unit

STORE = "clouds-tiles"
CLASSES = ("clear", "cloudy", "shadow")
SHARE = 0.2  # of a tile's pixels that makes it cloudy, else shadow
KINDS = ("pre-trained", "random")


def tile_classes(batch: Batch, names: Sequence[str]) -> Int[Tensor, " b"]:
    """Return the class of every tile: cloudy before shadow before clear.

    Args:
        batch: with a class per pixel.
        names: of the classes per pixel.
    """
    assert batch.labels is not None
    share = {
        name: (batch.labels == names.index(name)).flatten(1).double().mean(dim=1)
        for name in ("cloud", "shadow")
    }
    shadow = (share["shadow"] > SHARE).long() * CLASSES.index("shadow")
    return shadow.masked_fill(share["cloud"] > SHARE, CLASSES.index("cloudy"))


def units(data: reconstruct.Data, part: str, seeds: Sequence[int]) -> list[Unit]:
    """Return the units: encoders by seed, and band means.

    Args:
        data: what the encoders were pre-trained on.
        part: of the study.
        seeds: of pre-training, of random weights and of the probe.
    """
    models = {seed: str(reconstruct.model_path(Path(), data, seed)) for seed in seeds}
    encoders = [
        Unit(part, f"tiles-{kind}-{seed}", "cloud_tiles:score", arguments)
        for seed in seeds
        for kind in KINDS
        for arguments in [{"kind": kind, "model": models[seed], "seed": seed}]
    ]
    first = {"kind": "band means", "model": models[seeds[0]], "seed": 0}
    return [*encoders, Unit(part, "tiles-band means", "cloud_tiles:score", first)]


def score(work: Path, kind: str, model: str, seed: int) -> Numbers:
    """Return the balanced accuracy of a linear probe on one kind of features."""
    loaded = load_model(work / model)
    encoder = loaded.method.encoder.eval()
    if kind == "random":
        encoder = random_method(loaded.config, loaded.method.grid, 1000 + seed).encoder
    source = image_source(kind, encoder, Pooling())
    if kind == "band means":
        source = Source(kind, band_means)
    group = open_group(work / STORE)
    fit = np.sort(np.concatenate([group.rows("train"), group.rows("val")]))
    (train, first), (test, second) = (
        _read(group, rows, source) for rows in (fit, group.rows("test"))
    )
    truth = Truth(first, second, CLASSES)
    return {"balanced_accuracy": linear_scores(Labelled(kind, train, test), truth, seed=seed)[1]}


def _read(group: OpenGroup, rows: np.ndarray, source: Source) -> tuple[Tensor, Tensor]:
    normaliser = get_domain(group.meta.domain).normaliser(group.normaliser_dict)
    batches = stored_batches(group, rows, normaliser, labels=True)
    names = group.meta.classes
    found = collect(batches, [source.extract, lambda b: tile_classes(b, names)], source.name)
    return found[0], found[1]


def rows_of(results: dict[str, Numbers], study: Study) -> list[tuple[str, list[list[float]]]]:
    """Return the lines of a table of balanced accuracies."""
    names = {"pre-trained": "SelectiveMAE, pre-trained", "random": "random initialisation"}
    lines = [
        (
            names[kind],
            [[results[f"tiles-{kind}-{seed}"]["balanced_accuracy"] for seed in range(study.seeds)]],
        )
        for kind in KINDS
    ]
    return [*lines, ("band means", [[results["tiles-band means"]["balanced_accuracy"]]])]
