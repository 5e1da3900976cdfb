"""Part `faces`: who is it? How features are read is chosen on people that nobody judges.

Pre-training has seen images of the validation people, without their names; test people are new to
it. Every kind of features is read in the way that was best for it on the validation people.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from ...core.batch import Batch
from ...core.config_tree import from_plain, to_plain
from ...core.encoders.contract import Encoder
from ...core.heads.pool import Pooling, image_features, token_features
from ...core.masking.facial import FACE
from ..faces.recognise import PROBES, identity_question, recognise
from ..faces.rows import Face, store_faces
from ..faces.scoring import Reading
from ..features import Source, pixel_sources, random_method
from ..recipe import Recipe, recipe_grid
from ..stores import open_group
from .faces_data import JUDGED, ORL, REAL
from .page import table, verdict
from .scenes import normaliser_of, pretrained
from .units import Numbers, Study, Unit, run_units

NAME = "faces-identity"
SHOTS, DRAWS = 3, 5
PIXELS = "16x16 pixels"
IDENTITY = {probe: f"ORL identity, {SHOTS} images, {probe}" for probe in PROBES}
KINDS = ("FSFM", "MAE", "random", "pixels")
_DAMPING = 0.1  # of whitening: share of the mean variance that is added to each


@dataclass(frozen=True)
class Look:
    """How the tokens of a frozen encoder become one vector.

    Args:
        take: what of the tokens.
        tap: block that is read, zero-based; -1 is the final output.
        cells: cells a side over which tokens are averaged, for "cells".
        whiten: directions weigh alike, by the statistics of the faces of pre-training.
    """

    take: Literal["mean and deviation", "class token", "regions", "cells", "tokens"]
    tap: int = -1
    cells: int = 4
    whiten: bool = False

    @property
    def name(self) -> str:
        """What tables call it."""
        where = "last output" if self.tap < 0 else f"block {self.tap + 1}"
        taken = {"cells": f"{self.cells} x {self.cells} cells", "tokens": "every token"}
        ending = ", whitened" if self.whiten else ""
        return f"{taken.get(self.take, self.take)}, {where}{ending}"

    def extract(self, encoder: Encoder, batch: Batch) -> Float[Tensor, "b f"]:
        """Return a vector for each image."""
        if self.take == "mean and deviation":
            return image_features(encoder, batch, Pooling(taps=(self.tap,)))
        if self.take == "class token":
            both = Pooling(taps=(self.tap,), std=False, class_token=True)
            return image_features(encoder, batch, both).chunk(2, dim=1)[1]
        tokens = token_features(encoder, batch, Pooling(taps=(self.tap,)))
        if self.take == "tokens":
            return tokens.flatten(1)
        sides = [n // p for n, p in zip(batch.images.shape[2:], encoder.grid.patch, strict=True)]
        if self.take == "cells":
            grid = tokens.transpose(1, 2).unflatten(-1, sides)
            return adaptive_avg_pool2d(grid, self.cells).flatten(1)
        return by_region(tokens, batch, encoder.grid.patch[0])


LOOKS = (
    Look("mean and deviation"),
    Look("mean and deviation", whiten=True),
    *(Look("mean and deviation", tap) for tap in (0, 1, 2)),
    Look("class token"),
    Look("regions"),
    Look("cells"),
    Look("cells", whiten=True),
    Look("tokens"),
    *(Look("tokens", tap) for tap in (0, 1, 2)),
)
"""What is tried; the first one is how the rest of the study reads an image."""


def by_region(tokens: Float[Tensor, "b n d"], batch: Batch, patch: int) -> Float[Tensor, "b f"]:
    """Return the mean token of each region of a face; zeros for a region that is not seen."""
    assert batch.regions is not None  # the study's stores have parsing maps
    found = []
    for region in FACE.regions:
        member = torch.isin(batch.regions, torch.tensor(region.classes, dtype=batch.regions.dtype))
        share = avg_pool2d(member[:, None].float(), patch).flatten(1)
        total = share.sum(dim=1, keepdim=True).clamp_min(1e-3)
        found.append(torch.einsum("bn,bnd->bd", share / total, tokens))
    return torch.cat(found, dim=1)


def whitened(
    features: Float[Tensor, "n f"], reference: Float[Tensor, "m f"]
) -> Float[Tensor, "n k"]:
    """Return features whose directions have equal variance over reference faces, nearly.

    Args:
        features: to change.
        reference: of faces without labels; fewer of them than numbers leave as many directions.
    """
    mean = reference.double().mean(dim=0)
    _, lengths, axes = torch.linalg.svd(reference.double() - mean, full_matrices=False)
    variance = lengths.square() / len(reference)
    scale = (variance + _DAMPING * variance.mean()).sqrt()
    return ((features.double() - mean) @ axes.T / scale).float()


def encoder_of(work: Path, kind: str, chosen: Recipe) -> Encoder:
    """Return a pre-trained encoder, or a random one of the same shape."""
    if kind != "random":
        return pretrained(work, kind, to_plain(chosen), REAL)
    grid = recipe_grid(chosen, open_group(work / REAL).meta.num_channels)
    return random_method(chosen.method, grid, 1000 + chosen.seed).encoder


def store_features(
    work: Path, store: str, sources: Sequence[Source], chosen: Recipe
) -> tuple[list[Face], list[Tensor]]:
    """Return the faces of a store and their features, pixels read as in pre-training."""
    group = open_group(work / store)
    faces = store_faces(group)
    reading = Reading(
        groups=(group,),
        faces=faces,
        normaliser=normaliser_of(open_group(work / REAL)),
        size=chosen.image_size,
    )
    return faces, reading.features(list(sources), np.arange(len(faces)))


def sources_of(work: Path, kind: str, looks: Sequence[Look], chosen: Recipe) -> list[Source]:
    """Return features by all looks; pixels have one way only."""
    if kind == "pixels":
        return [source for source in pixel_sources() if source.name == PIXELS]
    encoder = encoder_of(work, kind, chosen)

    def source(look: Look) -> Source:
        return Source(look.name, lambda batch: look.extract(encoder, batch))

    return [source(look) for look in looks]


def identify(faces: Sequence[Face], features: torch.Tensor, seed: int) -> Numbers:
    """Return the accuracy of both probes on the people of ORL among some faces."""
    places = [place for place, face in enumerate(faces) if face.collection == ORL]
    question = identity_question([faces[place] for place in places], SHOTS)
    lines = recognise(
        question,
        features[places][question.places],
        fact="identity",
        name="",
        source_seed=None,
        shots=SHOTS,
        draws=DRAWS,
        seed=seed,
    )
    return {IDENTITY[line.probe]: statistics.fmean(line.accuracy) for line in lines}


def ask(
    work: Path, kind: str, recipe: Mapping[str, Any], looks: Sequence[Any], store: str
) -> Numbers:
    """Return both probes by each look.

    Args:
        work: folder of the study.
        kind: of features.
        recipe: says which run, the size of the images, and the seed of the draws.
        looks: ways of reading, as plain data.
        store: with the people that are asked for: `REAL` for validation, `JUDGED` for the test.
    """
    chosen: Recipe = from_plain(Recipe, recipe)
    tried: list[Look] = [from_plain(Look, look) for look in looks]
    sources = sources_of(work, kind, tried, chosen)
    faces, features = store_features(work, store, sources, chosen)
    if kind == "pixels":
        return {PIXELS: identify(faces, features[0], chosen.seed)}
    seen = features if store == REAL else store_features(work, REAL, sources, chosen)[1]
    found = {}
    for look, own, reference in zip(tried, features, seen, strict=True):
        vectors = whitened(own, reference) if look.whiten else own
        found[look.name] = identify(faces, vectors, chosen.seed)
    return found


Recipes = Mapping[tuple[str, int], Mapping[str, Any]]


def ask_all(
    study: Study, recipes: Recipes, looks: Mapping[str, Sequence[Look]], store: str
) -> dict[str, Numbers]:
    """Ask every kind and seed; return the numbers by name of the unit."""
    units = [
        Unit(
            NAME,
            f"{kind}-{seed}",
            "faces_identity:ask",
            {"kind": kind, "recipe": dict(plain), "looks": to_plain(looks[kind]), "store": store},
        )
        for (kind, seed), plain in recipes.items()
    ]
    return run_units(units, study, f"faces: identity, {store}")


def values(
    results: Mapping[str, Numbers], kind: str, look: str, seeds: int
) -> dict[str, list[float]]:
    """Return the accuracy of every seed by probe."""
    return {
        probe: [results[f"{kind}-{seed}"][look][column] for seed in range(seeds)]
        for probe, column in IDENTITY.items()
    }


def best(results: Mapping[str, Numbers], kind: str, seeds: int) -> Look:
    """Return the look with the best mean of both probes and all seeds; the first of equals."""

    def score(look: Look) -> float:
        found = values(results, kind, look.name, seeds)
        return statistics.fmean(value for probe in PROBES for value in found[probe])

    return max(LOOKS, key=score)


def subsection(study: Study, recipes: Recipes, names: Mapping[str, str]) -> str:
    """Choose how to read each kind of features, judge it once, and return the page's text.

    Args:
        study: where everything is.
        recipes: of each kind and seed.
        names: what tables call the kinds.
    """
    seeds = study.seeds
    tried = ask_all(study, recipes, dict.fromkeys(KINDS, LOOKS), REAL)
    readers = [kind for kind in KINDS if kind != "pixels"]
    chosen = {kind: best(tried, kind, seeds) for kind in readers}
    looks = {**{kind: (look,) for kind, look in chosen.items()}, "pixels": LOOKS[:1]}
    judged = ask_all(study, recipes, looks, JUDGED)
    titles = {**{kind: look.name for kind, look in chosen.items()}, "pixels": PIXELS}
    final = {kind: values(judged, kind, titles[kind], seeds) for kind in KINDS}
    columns = [f"{kind}, {probe}" for kind in readers for probe in PROBES]
    rows = [
        (
            look.name,
            [values(tried, kind, look.name, seeds)[p] for kind in readers for p in PROBES],
        )
        for look in LOOKS
    ]
    pixels = values(tried, "pixels", PIXELS, seeds)
    yardstick = " and ".join(f"{statistics.fmean(pixels[p]):.3f} ({p})" for p in PROBES)
    lines = [(f"{names[k]}: {titles[k]}", list(final[k].values())) for k in KINDS]
    goals = [
        verdict(
            f"FSFM over {names[rival]}, {IDENTITY[probe]}, each read as chosen",
            final["FSFM"][probe],
            final[rival][probe],
        )
        for probe in PROBES
        for rival in ("random", "pixels", "MAE")
    ]
    return f"""### People: what was tried

How features are read was chosen on other people: those of ORL whose images, without names,
pre-training has seen. {SHOTS} images each, {DRAWS} draws a seed, accuracy; the ridge on {PIXELS}
has {yardstick} there.

{table(columns, rows)}

Each kind of features is then read in the way whose mean of both probes was best for it there, and
judged once on the test people of ORL:

{table(list(IDENTITY.values()), lines)}

{chr(10).join(goals)}"""
