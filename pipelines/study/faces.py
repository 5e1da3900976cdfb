"""Part `faces`: do frozen features of real faces tell fakes of an unseen generator, and people?

FSFM and MAE with one encoder, each for the same wall-clock time, on genuine faces without labels.
Nobody who is judged is in pre-training; nobody who is judged, and no image of the generator that
is judged, is seen by the detector.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from ...core.config_tree import from_plain, to_plain
from ...core.heads.curves import auc, error_rates
from ...core.heads.pool import Pooling
from ...core.methods import FSFMConfig, MAEConfig
from ..faces.judge import Scored, development_threshold
from ..faces.protocols import Fold
from ..faces.rows import Face, classes, store_faces
from ..faces.scoring import Reading, fit_detector
from ..features import Source, image_source, pixel_sources, random_method
from ..recipe import Recipe, load_recipe, recipe_grid
from ..stores import open_group
from .faces_data import CALTECH, JUDGED, ORL, REAL, SFHQ, STYLEGAN, make_stores
from .faces_identity import DRAWS, IDENTITY, PIXELS, SHOTS, identify, subsection
from .page import Section, table, verdict
from .pictures import bars
from .scenes import equal_time, mean_of, normaliser_of, pretrained
from .units import Numbers, Study, Unit, run_units

NAME = "faces"
RECIPE = "fsfm/tiny"
METHODS = ("FSFM", "MAE")
EPOCHS = 60  # of FSFM; MAE gets the same time
UNSEEN, SEEN = "SFHQ, unseen", "StyleGAN3, seen"
COLUMNS = (
    *(f"{name}: AUC" for name in (UNSEEN, SEEN)),
    f"{UNSEEN}: balanced accuracy, threshold from development",
    *IDENTITY.values(),
)
_JUDGED = (COLUMNS[0], IDENTITY["nearest neighbour"])


def recipe(method: str, seed: int, epochs: int) -> Recipe:
    """Return the recipe of one run: MAE has FSFM's encoder, decoder, views and optimiser."""
    base = load_recipe(RECIPE)
    assert isinstance(base.method, FSFMConfig)
    own = base.method
    if method == "MAE":
        own = MAEConfig(encoder=own.encoder, decoder=own.decoder, mask_ratio=own.mask_ratio)
    optim = replace(base.optim, warmup_epochs=epochs / 10)
    return replace(base, method=own, optim=optim, epochs=epochs, seed=seed)


def recipe_of(kind: str, seed: int, epochs: Mapping[str, int]) -> Recipe:
    """Return the recipe of a kind of features; those without training have FSFM's."""
    method = kind if kind in METHODS else "FSFM"
    return recipe(method, seed, epochs[method])


def timing_unit() -> Unit:
    """Return the unit that measures both methods' steps side by side."""
    recipes = {method: to_plain(recipe(method, 0, EPOCHS)) for method in METHODS}
    return Unit(NAME, "timing", "scenes:time_steps", {"recipes": recipes, "store": REAL})


def units(study: Study, epochs: Mapping[str, int]) -> list[Unit]:
    """Return pre-training and judging of each method and seed, and what they are compared with."""
    trained = [
        Unit(
            NAME,
            f"{method}-{seed}",
            "faces:pretrain_and_judge",
            {"method": method, "recipe": to_plain(recipe(method, seed, epochs[method]))},
        )
        for seed in range(study.seeds)
        for method in METHODS
    ]
    others = [
        Unit(NAME, f"{kind}-{seed}", f"faces:judge_{kind}", {"recipe": plain})
        for seed in range(study.seeds)
        for plain in [to_plain(recipe("FSFM", seed, EPOCHS))]
        for kind in ("random", "pixels")
    ]
    return [*trained, *others]


def pretrain_and_judge(work: Path, method: str, recipe: Mapping[str, Any]) -> Numbers:
    """Pre-train on genuine faces, then judge the frozen encoder."""
    import time

    started = time.process_time()
    encoder = pretrained(work, method, recipe, REAL)
    minutes = (time.process_time() - started) / 60
    source = image_source(method, encoder, Pooling())
    return {"cpu_minutes": minutes, **judge(work, source, from_plain(Recipe, recipe))}


def judge_random(work: Path, recipe: Mapping[str, Any]) -> Numbers:
    """Judge the same encoder with random weights, read in the same way."""
    chosen: Recipe = from_plain(Recipe, recipe)
    grid = recipe_grid(chosen, open_group(work / JUDGED).meta.num_channels)
    encoder = random_method(chosen.method, grid, 1000 + chosen.seed).encoder
    return judge(work, image_source("random initialisation", encoder, Pooling()), chosen)


def judge_pixels(work: Path, recipe: Mapping[str, Any]) -> Numbers:
    """Judge what small grey images give: the yardstick."""
    chosen: Recipe = from_plain(Recipe, recipe)
    source = next(source for source in pixel_sources() if source.name == PIXELS)
    return judge(work, source, chosen)


def judge(work: Path, source: Source, chosen: Recipe) -> Numbers:
    """Return detection on the unseen and the seen generator, and identity with few images.

    Args:
        work: folder of the study.
        source: features.
        chosen: says the size of the images, and the seed of held-out people and draws.
    """
    # All kinds of features read pixels with the statistics that pre-training had.
    normaliser = normaliser_of(open_group(work / REAL))
    group = open_group(work / JUDGED)
    faces = store_faces(group)
    size = (chosen.image_size[0], chosen.image_size[1])
    reading = Reading(groups=(group,), faces=faces, normaliser=normaliser, size=size)
    features = reading.features([source], np.arange(len(faces)))[0]
    fold = make_fold(faces)
    fold.check(faces)

    def members(rows: Int[np.ndarray, " n"]) -> list[Face]:
        return [faces[row] for row in rows.tolist()]

    detector, probabilities = fit_detector(
        features[fold.train],
        members(fold.train),
        features[fold.dev],
        members(fold.dev),
        chosen.seed,
    )
    scores = detector(features)
    threshold = development_threshold(Scored(members(fold.dev), scores[fold.dev], probabilities))
    assert threshold is not None  # the development part has genuine faces and fakes
    found = {}
    for name, rows in fold.tests.items():
        positive = classes(members(rows))
        found[f"{name}: AUC"] = auc(scores[rows], positive)
        if name == UNSEEN:
            rates = error_rates(scores[rows], positive, threshold)
            found[COLUMNS[2]] = rates.balanced_accuracy
    return {**found, **identify(faces, features, chosen.seed)}


def make_fold(faces: Sequence[Face]) -> Fold:
    """Return who teaches the detector, who chooses its threshold, and who judges it."""

    def rows(split: str, *collections: str) -> Int[np.ndarray, " n"]:
        chosen = [face.split == split and face.collection in collections for face in faces]
        return np.flatnonzero(chosen)

    tests = {UNSEEN: rows("test", CALTECH, SFHQ), SEEN: rows("test", CALTECH, STYLEGAN)}
    train, dev = (rows(split, CALTECH, STYLEGAN) for split in ("train", "val"))
    return Fold("unseen generator", train, dev, tests)


KINDS = {
    "FSFM": "FSFM, pre-trained",
    "MAE": "MAE, pre-trained, equal time",
    "random": "random initialisation",
    "pixels": "ridge on 16x16 pixels",
}


def goals(results: Mapping[str, Numbers], seeds: int) -> list[str]:
    """Return the verdicts."""
    return [
        verdict(
            f"FSFM over {KINDS[rival]}, {column}",
            mean_of(results, "FSFM", column, seeds),
            mean_of(results, rival, column, seeds),
        )
        for column in _JUDGED
        for rival in ("random", "pixels", "MAE")
    ]


def section(study: Study) -> Section:
    """Run the part and return its section."""
    make_stores(study.samples, study.work)
    timing = run_units([timing_unit()], study, "faces: timing")["timing"]
    epochs = equal_time(EPOCHS, timing, "FSFM")
    results = run_units(units(study, epochs), study, NAME)
    rows = [
        (name, [mean_of(results, kind, column, study.seeds) for column in COLUMNS])
        for kind, name in KINDS.items()
    ]
    minutes = {
        m: statistics.fmean(mean_of(results, m, "cpu_minutes", study.seeds)) for m in METHODS
    }
    budget = "; ".join(
        f"{m} {epochs[m]} epochs of {timing[m]:.1f} s, {minutes[m]:.1f} CPU minutes"
        for m in METHODS
    )
    shown = [(name, [cells[0], cells[-1]]) for name, cells in rows]
    own = {
        (kind, seed): to_plain(recipe_of(kind, seed, epochs))
        for kind in KINDS
        for seed in range(study.seeds)
    }
    picture = bars("AUC, accuracy", (UNSEEN, f"ORL identity, {SHOTS} images"), shown)
    text = f"""{setting(study, budget)}

{table(COLUMNS, rows)}

{chr(10).join(goals(results, study.seeds))}

{subsection(study, own, KINDS)}

![AUC and accuracy](faces.png)

{SHORTCUTS}
"""
    return Section(text, {"faces.png": picture})


def setting(study: Study, budget: str) -> str:
    """Return what was measured, in words."""
    seen, judged = (store_faces(open_group(study.work / name)) for name in (REAL, JUDGED))
    fold = make_fold(judged)
    parts = [f"{len(rows)} faces ({name})" for name, rows in fold.tests.items()]
    people = len({min(f.people) for f in judged if f.collection == ORL})
    return f"""## Fakes of an unseen generator, and people

Every face of every collection is found by the same detector (MTCNN), cropped with the same margin
(1.3, not aligned) to 64 x 64 pixels, made grey and coded as JPEG of quality 90. Pre-training:
{len(seen)} genuine faces without labels (volunteers of Caltech Faces_easy and half of the people of
ORL). Both methods have one encoder and the same wall-clock time, by steps timed in turns
({budget}). Features: mean and deviation of the last tokens, frozen.

Detector: ridge, penalty chosen on held-out rows, on {len(fold.train)} faces (Caltech volunteers
against StyleGAN3); threshold from {len(fold.dev)} others. Judged: {"; ".join(parts)}, genuine faces
always of volunteers that neither pre-training nor detector has seen. Identity: {people} people of
ORL that pre-training has not seen, {SHOTS} images each, {DRAWS} draws a seed, the other images
judged. The collections have {sum(f.label == "real" for f in judged)} genuine and
{sum(f.label == "fake" for f in judged)} synthetic faces in the judged store; that is little, and
the spread over seeds does not include the choice of people."""


SHORTCUTS = """### Shortcuts

What tells these collections apart is not only whether a face is genuine. *Framing* and size are
made equal by one detector and one crop, *format* by one coding and *colour* by grey values; what
is left are camera, light and background (genuine faces are of one camera, many with its flash,
generated ones look like portraits of many cameras), the resolution of the source (256 pixels of
StyleGAN3, about 265 of SFHQ in a JPEG mosaic, about 150 of a face in Caltech), and the age of the
pictures. The 16x16 ridge shows how far such hints alone lead: a detector that is not clearly above
it has not shown that it sees traces of a generator. Figures on so few people do not carry over to
other cameras."""
