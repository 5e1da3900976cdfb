"""Part `ct`: does pre-training on CT without labels help with few drawn tumours, and with organs?

Hi-End-MAE and MAE with one encoder, each for the same wall-clock time, then one segmentation
network from both and from random weights, with the same drawn cases, updates and settings. Tested
patients are in neither (`ct_data`); `ct_tumours` scores them, `ct_organs` asks the frozen encoders.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.config_tree import from_plain, to_plain
from ..features import random_method
from ..recipe import Recipe, load_recipe, recipe_grid
from . import ct_organs
from .ct_data import (
    CROP,
    OTHERS,
    SARCOMA,
    SPACING,
    divide,
    drawn,
    make_stores,
    patients,
    unlabelled,
)
from .ct_organs import PROBES, SIZES, column
from .ct_tumours import BATCH, RATES, Tuning
from .page import Section, Values, spread, table, verdict
from .pictures import bars
from .scenes import equal_time, mean_of, model_path, pretrained
from .tuning import best_rate
from .units import Numbers, Study, Unit, run_units

NAME = "ct"
RECIPES = {"Hi-End-MAE": "ct/hi-end-mae-tiny", "MAE": "ct/mae-tiny"}
SCRATCH = "scratch"
STARTS = (*RECIPES, SCRATCH)
EPOCHS = 10  # of Hi-End-MAE; MAE gets the same time
TUNE_EPOCHS = 8
_RATE = 0.064  # per 256 samples: a peak of 2e-3, for both methods
ROWS = {
    "Hi-End-MAE": "Hi-End-MAE, pre-trained",
    "MAE": "MAE, pre-trained, equal time",
    SCRATCH: "random initialisation",
}
COLUMNS = tuple(column(size, kind) for size in SIZES for kind in PROBES)
METRICS = {"dice": "Dice", "hd95": "HD95, mm", "nsd": "NSD at 2 mm"}


def recipe(method: str, seed: int, epochs: int) -> Recipe:
    """Return the recipe of one run: encoder, views and optimiser are the same for both methods."""
    base = load_recipe(RECIPES[method])
    optim = replace(base.optim, base_lr=_RATE, warmup_epochs=epochs / 10)
    return replace(base, optim=optim, image_size=CROP, epochs=epochs, seed=seed)


def timing_unit() -> Unit:
    """Return the unit that measures both methods' steps side by side."""
    recipes = {method: to_plain(recipe(method, 0, EPOCHS)) for method in RECIPES}
    return Unit(NAME, "timing", "scenes:time_steps", {"recipes": recipes, "store": unlabelled(0)})


def pretraining_units(study: Study, epochs: Mapping[str, int]) -> list[Unit]:
    """Return pre-training of both methods with every seed."""
    return [
        Unit(NAME, f"{method}-{seed}", "ct:pretrain_encoder", {"method": method, "recipe": plain})
        for seed in range(study.seeds)
        for method in RECIPES
        for plain in [to_plain(recipe(method, seed, epochs[method]))]
    ]


def judging_units(study: Study, epochs: Mapping[str, int]) -> list[Unit]:
    """Return the organ probe of both methods, and everything that they are compared with."""
    units = []
    samples = {"samples": str(study.samples)}
    for seed in range(study.seeds):
        for method in RECIPES:
            plain = to_plain(recipe(method, seed, epochs[method]))
            given = {**samples, "method": method, "recipe": plain}
            units.append(Unit(NAME, f"organ-{method}-{seed}", "ct:probe_trained", given))
        given = {**samples, "recipe": to_plain(recipe("Hi-End-MAE", seed, EPOCHS))}
        units.append(Unit(NAME, f"organ-{SCRATCH}-{seed}", "ct:probe_random", given))
        given = {**samples, "seed": seed}
        units.append(Unit(NAME, f"organ-pixels-{seed}", "ct:probe_pixels", given))
        tested = divide(patients(study.samples), seed).tested
        given = {"samples": str(study.samples / "ct" / SARCOMA), "judged": tested}
        units.append(Unit(NAME, f"place-{seed}", "ct_tumours:by_place", given))
    return units


def pretrain_encoder(work: Path, method: str, recipe: Mapping[str, Any]) -> Numbers:
    """Pre-train without the tested patients and return the CPU minutes."""
    started = time.process_time()
    pretrained(work, method, recipe, unlabelled(recipe["seed"]))
    return {"cpu_minutes": (time.process_time() - started) / 60}


def probe_trained(work: Path, samples: str, method: str, recipe: Mapping[str, Any]) -> Numbers:
    """Ask a frozen pre-trained encoder for organs."""
    encoder = pretrained(work, method, recipe, unlabelled(recipe["seed"]))
    return ct_organs.judge(Path(samples), recipe["seed"], *ct_organs.kinds(encoder))


def probe_random(work: Path, samples: str, recipe: Mapping[str, Any]) -> Numbers:
    """Ask the same encoder with random weights, read in the same way."""
    chosen: Recipe = from_plain(Recipe, recipe)
    encoder = random_method(chosen.method, recipe_grid(chosen, 1), 1000 + chosen.seed).encoder
    return ct_organs.judge(Path(samples), chosen.seed, *ct_organs.kinds(encoder))


def probe_pixels(work: Path, samples: str, seed: int) -> Numbers:
    """Ask what a patch's voxels give without any encoder."""
    return ct_organs.judge(Path(samples), seed, *ct_organs.kinds(None))


def tuning(study: Study, epochs: Mapping[str, int], start: str, seed: int) -> Tuning:
    """Return the run whose test scores count, of a start and a seed, with the first of the rates.

    A start from random weights takes the network of the first method, and no weight of it.
    """
    method = start if start in RECIPES else next(iter(RECIPES))
    plain = to_plain(recipe(method, seed, epochs[method]))
    return Tuning(
        data=drawn(seed),
        model=str(model_path(Path(), method, plain, unlabelled(seed))),
        scratch=start == SCRATCH,
        split="all",
        epochs=TUNE_EPOCHS,
        rate=RATES[0],
        seed=seed,
        judged=divide(patients(study.samples), seed).tested,
    )


def tuning_unit(study: Study, name: str, wanted: Tuning) -> Unit:
    """Return a fine-tuning run as a piece of the study."""
    given = {"samples": str(study.samples / "ct" / SARCOMA), "tuning": to_plain(wanted)}
    return Unit(NAME, name, "ct_tumours:tune", given)


def choose_rates(study: Study, epochs: Mapping[str, int]) -> dict[str, dict[float, float]]:
    """Return the Dice of every start and rate on two patients who are not tested, with one seed."""
    units = {}
    judged = divide(patients(study.samples), 0).chosen_on
    for start in STARTS:
        base = replace(tuning(study, epochs, start, 0), split="train", judged=judged)
        for rate in RATES:
            name = f"choose-{start}-{rate:g}"
            units[start, rate] = tuning_unit(study, name, replace(base, rate=rate))
    results = run_units(list(units.values()), study, "ct: learning rates")
    dice = {key: results[unit.name]["dice"] for key, unit in units.items()}
    return {start: {rate: dice[start, rate] for rate in RATES} for start in STARTS}


def tune_all(
    study: Study, epochs: Mapping[str, int], rates: Mapping[str, float]
) -> dict[str, Numbers]:
    """Fine-tune every start with every seed, at its own rate, and score the tested patients."""
    units = []
    for seed in range(study.seeds):
        for start in STARTS:
            wanted = replace(tuning(study, epochs, start, seed), rate=rates[start])
            units.append(tuning_unit(study, f"tumour-{start}-{seed}", wanted))
    return run_units(units, study, "ct: tumours")


def goals(results: Mapping[str, Numbers], seeds: int) -> list[str]:
    """Return the verdicts on tumours and organs."""

    def dice(start: str) -> list[float]:
        return mean_of(results, f"tumour-{start}", "dice", seeds)

    first, second = RECIPES
    pairs = ((first, SCRATCH), (second, SCRATCH), (first, second))
    lines = [
        verdict(f"{one} over {ROWS[other]}, tumour Dice", dice(one), dice(other))
        for one, other in pairs
    ]
    for kind in COLUMNS[: len(PROBES)]:
        lines += [
            verdict(
                f"{one} over {ROWS[other]}, organ, {kind}",
                organ(results, one, kind, seeds),
                organ(results, other, kind, seeds),
            )
            for one, other in pairs
        ]
    return lines


def organ(
    results: Mapping[str, Numbers], start: str, kind: str, seeds: int, features: str = "encoder"
) -> list[float]:
    """Return the balanced accuracy of a probe with every seed."""
    return [results[f"organ-{start}-{seed}"][features][kind] for seed in range(seeds)]


def tumour_table(results: Mapping[str, Numbers], seeds: int) -> str:
    """Return Dice, HD95 and NSD of the tested patients."""
    names = {f"tumour-{start}": name for start, name in ROWS.items()}
    names["place"] = "ellipsoid 51 mm inside of the borders, no voxel read"
    rows = [
        (name, [mean_of(results, kind, metric, seeds) for metric in METRICS])
        for kind, name in names.items()
    ]
    return table(list(METRICS.values()), rows, digits=(3, 1, 3))


def patient_table(results: Mapping[str, Numbers], seeds: int) -> str:
    """Return the Dice of every tested patient; each is tested with one seed of five."""
    kinds = {**{f"tumour-{start}": name for start, name in ROWS.items()}, "place": "ellipsoid"}
    cells: dict[str, list[Values]] = {}
    for seed in range(seeds):
        for kind in kinds:
            for name, scores in results[f"{kind}-{seed}"]["patients"].items():
                cells.setdefault(name, []).append([scores["dice"]])
    return table(list(kinds.values()), sorted(cells.items()))


def organ_table(results: Mapping[str, Numbers], seeds: int) -> str:
    """Return the balanced accuracy of the probes on every kind of features."""
    rows = [(name, [organ(results, s, k, seeds) for k in COLUMNS]) for s, name in ROWS.items()]
    for features, name in {
        "three numbers": "mean, deviation, centre value",
        "raw patch": "patch as at most 8 x 8 x 8 means",
    }.items():
        rows.append((name, [organ(results, "pixels", k, seeds, features) for k in COLUMNS]))
    chance = mean_of(results, "organ-pixels", "chance", seeds)
    return table(COLUMNS, [*rows, ("chance", [chance] * len(COLUMNS))])


def section(study: Study) -> Section:
    """Run the part and return its section."""
    for seed in range(study.seeds):
        make_stores(study.samples, study.work, seed)
    timing = run_units([timing_unit()], study, "ct: timing")["timing"]
    epochs = equal_time(EPOCHS, timing, next(iter(RECIPES)))
    results = run_units(pretraining_units(study, epochs), study, "ct: pre-training")
    results |= run_units(judging_units(study, epochs), study, "ct: organs")
    chosen = choose_rates(study, epochs)
    rates = {start: best_rate(scores) for start, scores in chosen.items()}
    results |= tune_all(study, epochs, rates)
    shown = [
        (
            name,
            [
                mean_of(results, f"tumour-{start}", "dice", study.seeds),
                *(organ(results, start, kind, study.seeds) for kind in COLUMNS[: len(PROBES)]),
            ],
        )
        for start, name in ROWS.items()
    ]
    columns = ("tumour Dice", *(f"organ, {kind}" for kind in COLUMNS[: len(PROBES)]))
    text = f"""{data_text(study)}

{budget_text(results, timing, epochs, study.seeds)}

{rates_text(study, chosen, rates)}

### Tumours of the tested patients

{tumour_table(results, study.seeds)}

{PLACE}

{patient_table(results, study.seeds)}

### Organ at the centre of a patch

{organ_text(results, study.seeds)}

{organ_table(results, study.seeds)}

### Goals

{chr(10).join(goals(results, study.seeds))}

![Dice and balanced accuracy](ct.png)
"""
    return Section(text, {"ct.png": bars("Dice, accuracy", columns, shown)})


def data_text(study: Study) -> str:
    """Return who is seen by what, in words."""
    names = patients(study.samples)
    tested = "; ".join(
        f"{seed}: {', '.join(divide(names, seed).tested)}" for seed in range(study.seeds)
    )
    spacing, crop = (" x ".join(f"{n:g}" for n in part) for part in (SPACING, CROP))
    return f"""## Tumours with few drawn cases, and organs

{len(names)} patients with soft-tissue sarcoma, CT of PET/CT. Two are tested with each seed
({tested}); `mimkit curate ct` gets the others only, so that no voxel of a tested patient is seen
in pre-training or fine-tuning, and the study checks that. Voxels of {spacing} mm, crops of {crop}.

Pre-training: the other patients, {", ".join(OTHERS)}, without labels. The organ probe is about
`totalseg_example`: its voxels were seen in pre-training, its labels never. `totalseg_dicom` is
left out: 40 mm along the body are less than half of a crop."""


def budget_text(
    results: Mapping[str, Numbers],
    timing: Mapping[str, float],
    epochs: Mapping[str, int],
    seeds: int,
) -> str:
    """Return what everything cost."""

    def minutes(kind: str) -> str:
        return f"{statistics.fmean(mean_of(results, kind, 'cpu_minutes', seeds)):.1f} CPU minutes"

    pretraining = "; ".join(
        f"{m} {epochs[m]} epochs of {timing[m]:.1f} s, {minutes(m)}" for m in RECIPES
    )
    tuned = ", ".join(f"{ROWS[start]}: {minutes(f'tumour-{start}')}" for start in STARTS)
    return f"""Both methods have one encoder and the same wall-clock time, by steps timed in turns
({pretraining}). Fine-tuning: {TUNE_EPOCHS} epochs in batches of {BATCH} for every start, all
weights at one rate ({tuned})."""


def rates_text(
    study: Study, chosen: Mapping[str, Mapping[float, float]], rates: Mapping[str, float]
) -> str:
    """Return how the learning rate of every start was chosen."""
    judges: Sequence[str] = divide(patients(study.samples), 0).chosen_on
    tried = "; ".join(
        f"{ROWS[start]}: {', '.join(f'{rate:g} {spread([d])}' for rate, d in scores.items())}, "
        f"so {rates[start]:g}"
        for start, scores in chosen.items()
    )
    return f"""Learning rates (per 256 samples) were chosen for each start with seed 0 by the Dice
of {" and ".join(judges)}, who are not tested with that seed but with another: a choice between
{len(RATES)} numbers. Dice there: {tried}."""


PLACE = """**These volumes give the tumour's place away.** They were cut about 5 cm around the drawn
tumour, so that an ellipsoid in the middle needs no voxel to be good. A network below that line has
not learned where its volume was cut, and one above it need not know what a tumour looks like.
What is compared here is one network with three starts; no figure says how well it finds tumours.

Dice of each patient, with the seed that tests them:"""


def organ_text(results: Mapping[str, Numbers], seeds: int) -> str:
    """Return what the probe asks, in words."""
    facts = [results[f"organ-pixels-{seed}"] for seed in range(seeds)]
    judged = statistics.fmean(fact["judged"] for fact in facts)
    classes = sorted({name for fact in facts for name in fact["classes"]})
    blocks = " x ".join(map(str, ct_organs.BLOCKS))
    return f"""Patches of `totalseg_example` of 96 mm along each axis (32^3 voxels of the file) and
of 32 x 48 x 48 mm (eight tokens), drawn anew with each seed: {facts[0]["positions"]} positions, at
most {ct_organs.MOST} of an organ. Each block of the volume ({blocks} of them) is judged by probes
that were taught with positions elsewhere, 48 mm or more from every judged one along some axis:
small patches share no voxel with those that are judged, large ones overlap, but none holds the
centre of a judged one. {judged:.0f} positions are of organs that can be taught so:
{", ".join(classes)} (left and right, all ribs and all vertebrae are one class each). Labels were
made by a model. Balanced accuracy. Features: mean and deviation of the tokens of the blocks that
the segmentation head reads, and the mean of the eight tokens at the centre."""
