"""Part `reconstruct`: does a model guess hidden pixels better than interpolation does?

Raw pixels are the targets, so that nothing of the truth is lent to the model. Training tiles are
seen without labels; test tiles are other ground.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.batch import Batch, Progress
from ...core.checkpoints.model_dir import load_model
from ...core.config_tree import from_plain, to_plain
from ...core.masking.plan import count
from ...core.masking.strategies import RandomMask
from ...core.method import Method
from ...core.methods import SelectiveMAEConfig
from ...core.noise import Noise
from ...core.reconstruction import Reconstruction, reconstruct
from ...datasets.order import num_steps
from ...domains.domain import get_domain
from ..efficiency import Efficiency
from ..features import stored_batches
from ..inpaint import biharmonic, score_reconstruction
from ..pretrain import PretrainConfig, with_recipe
from ..pretrain import run as pretrain
from ..recipe import Recipe, load_recipe
from ..stores import OpenGroup, open_group
from .page import Section, Values, table, verdict
from .pictures import panels
from .stores import make_store
from .units import Numbers, Study, Unit, run_path, run_units

NAME = "reconstruct"
RECIPE = "satellite/selectivemae-pixels-tiny"
NUM_IMAGES, SHOWN = 16, 4
RATIOS = (0.5, 0.75, 0.85)
KINDS = ("model", "biharmonic", "visible mean")


@dataclass(frozen=True)
class Data:
    """Scenes to pre-train on.

    Args:
        store: name of the store.
        epochs: length of a run.
        title: what the page says about it.
    """

    store: str
    epochs: int
    title: str


CLOUDS = Data("clouds-within", 640, "Landsat-5 and Sentinel-2, six bands, test strips")
LANDSAT8 = Data("landsat8", 480, "Landsat-8, three bands, test cells of 10 km")
DATA = (CLOUDS, LANDSAT8)


def recipe(data: Data, seed: int) -> Recipe:
    """Return the recipe of one run; warm-up takes a tenth of it."""
    base = load_recipe(RECIPE)
    optim = replace(base.optim, warmup_epochs=data.epochs / 10)
    return replace(base, optim=optim, epochs=data.epochs, seed=seed)


def model_path(work: Path, data: Data, seed: int) -> Path:
    """Return the model directory of a pre-training run."""
    plain = to_plain(recipe(data, seed))
    return run_path(work, f"{NAME}-{data.store}-{seed}", {**plain, "data": data.store}) / "model"


def pretrain_unit(data: Data, seed: int) -> Unit:
    """Return the unit that pre-trains on the training split, without labels."""
    arguments = {
        "store": data.store,
        "recipe": to_plain(recipe(data, seed)),
        "model": str(model_path(Path(), data, seed)),
    }
    return Unit("pretrain", f"{data.store}-{seed}", "reconstruct:pretrain_tiles", arguments)


def pretrain_tiles(work: Path, store: str, recipe: Mapping[str, Any], model: str) -> Numbers:
    """Pre-train on the training split and return the length of the run."""
    config = PretrainConfig(
        recipe=RECIPE,
        data=work / store,
        out=(work / model).parent,
        efficiency=Efficiency(num_threads=1, log_every=50, device="cpu", validate_every=20, keep=1),
    )
    pretrain(with_recipe(config, from_plain(Recipe, recipe)))
    return {"epochs": recipe["epochs"]}


def held_out_batches(group: OpenGroup, method: Method, amount: int):
    """Return some test tiles, spread over the split, as batches."""
    rows = group.rows("test")
    rows = rows[np.linspace(0, len(rows) - 1, min(amount, len(rows))).astype(int)]
    normaliser = get_domain(group.meta.domain).normaliser(group.normaliser_dict)
    return stored_batches(group, rows, normaliser, size=method.grid.image_size, batch_size=8)


def score(work: Path, store: str, model: str, seed: int, ratio: float) -> Numbers:
    """Return errors of the model and of interpolation on the same hidden pixels of test tiles."""
    method = load_model(work / model).method.eval()
    batches = held_out_batches(open_group(work / store), method, NUM_IMAGES)
    found = score_reconstruction(method, batches, seed=seed, mask_ratio=ratio)
    return dict(zip(KINDS, (found.model, found.biharmonic, found.visible_mean), strict=True))


def units(study: Study) -> list[Unit]:
    """Return the units that score every model at every share of hidden tokens."""
    return [
        Unit(
            NAME,
            f"{data.store}-{ratio}-{seed}",
            "reconstruct:score",
            {
                "store": data.store,
                "model": str(model_path(Path(), data, seed)),
                "seed": seed,
                "ratio": ratio,
            },
        )
        for data in DATA
        for ratio in RATIOS
        for seed in range(study.seeds)
    ]


def examples(work: Path, data: Data, ratio: float = 0.75) -> bytes:
    """Return a picture of test tiles: given, seen, guessed by the model and by interpolation."""
    method = load_model(work / model_path(Path(), data, 0)).method.eval()
    group = open_group(work / data.store)
    (batch,) = held_out_batches(group, method, SHOWN)
    found = masked(method, batch, ratio)
    images = [
        guess_by_interpolation(*pair) for pair in zip(found.original, found.visible, strict=True)
    ]
    shown = [
        found.original,
        torch.where(found.visible.bool(), found.original, 0.0),
        found.pasted,
        torch.stack(images),
    ]
    return panels(
        ("given", "seen", "model", "inpainting"), as_pictures(group, shown, found.visible)
    )


def masked(method: Method, batch: Batch, ratio: float) -> Reconstruction:
    """Hide a share of the tokens at random and let a method guess them."""
    num_visible = count(method.grid.num_tokens, 1 - ratio)
    strategy = RandomMask(num_visible, method.grid.num_tokens - num_visible)
    noise, end = Noise(0), Progress(1.0, 1)
    with torch.inference_mode():
        plan = strategy(method.context(batch, end, noise))
        return reconstruct(method, method(batch, end, noise, plan))


def guess_by_interpolation(image: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return an image whose hidden pixels are inpainted."""
    known = visible[0].bool().numpy()
    return torch.from_numpy(biharmonic(np.where(known, image.numpy(), 0.0), known)).float()


def as_pictures(
    group: OpenGroup, kinds: list[torch.Tensor], visible: torch.Tensor
) -> list[list[np.ndarray]]:
    """Return a row of pictures for each image; all of a row have the stretch of the first."""
    domain = get_domain(group.meta.domain)
    normaliser = domain.normaliser(group.normaliser_dict)
    bands = domain.display_bands(normaliser)
    rows = []
    for place in range(len(visible)):
        physical = normaliser.denormalise(torch.stack([kind[place] for kind in kinds]))
        wide = torch.cat(list(physical), dim=2)[None]  # side by side, so that one stretch fits all
        picture = domain.to_rgb(wide, bands)[0]
        parts = [part.copy() for part in np.split(picture, len(kinds), axis=1)]
        parts[1][~visible[place, 0].bool().numpy()] = 255
        rows.append(parts)
    return rows


def section(study: Study) -> Section:
    """Run the part and return its section."""
    seeds = range(study.seeds)
    for data in DATA:
        make_store(data.store, study.samples, study.work)
    run_units(
        [pretrain_unit(d, s) for s in seeds for d in DATA], study, "reconstruct: pre-training"
    )
    results = run_units(units(study), study, NAME)
    parts = [described(data, num_updates(study.work, data), results, study.seeds) for data in DATA]
    method = load_recipe(RECIPE).method
    assert isinstance(method, SelectiveMAEConfig)
    text = f"""## Masked reconstruction

SelectiveMAE on raw pixels (`{RECIPE}`, trained with {method.mask_ratio:.0%} hidden), judged on
{NUM_IMAGES} tiles of ground that was not trained on. Tokens of {method.encoder.patch_size}
pixels are hidden at random, the same for all. Mean squared error over hidden pixels in units of
each band's variance in training; lower is better.

{chr(10).join(parts)}
![given, seen, guessed by the model, inpainted](satellite-reconstruct.png)
"""
    return Section(text, {"satellite-reconstruct.png": examples(study.work, CLOUDS)})


def num_updates(work: Path, data: Data) -> int:
    """Return the updates of a pre-training run."""
    rows = open_group(work / data.store).rows("train")
    return data.epochs * num_steps(len(rows), recipe(data, 0).batch_size)


def described(data: Data, updates: int, results: Mapping[str, Numbers], seeds: int) -> str:
    """Return table and verdicts of one set of scenes."""
    values: dict[tuple[float, str], Values] = {
        (ratio, kind): [results[f"{data.store}-{ratio}-{seed}"][kind] for seed in range(seeds)]
        for ratio in RATIOS
        for kind in KINDS
    }
    names = {"model": "SelectiveMAE, raw pixels", "biharmonic": "biharmonic inpainting"}
    rows = [(names.get(kind, kind), [values[r, kind] for r in RATIOS]) for kind in KINDS]
    goals = [
        verdict(
            f"error of inpainting minus error of the model, {ratio:.0%} hidden",
            values[ratio, "biharmonic"],
            values[ratio, "model"],
        )
        for ratio in RATIOS
    ]
    return f"""{data.title} ({data.epochs} epochs, {updates} updates):

{table([f"{ratio:.0%} hidden" for ratio in RATIOS], rows)}

{chr(10).join(goals)}
"""
