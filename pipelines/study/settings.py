"""Part `settings`: what was tried before the settings of the scenes were fixed.

Short runs of equal time, one seed. Probes are fitted on three quarters of the official training
part and judged on the last one; the official test part plays no role.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.config_tree import from_plain, to_plain
from ...core.heads.pool import Pooling
from ...core.methods import SelectiveMAEConfig
from ...domains.imaging.augment import AugmentConfig
from ..features import image_source, random_method
from ..recipe import Recipe, recipe_grid
from ..stores import open_group
from . import scenes
from .page import Section, table
from .stores import scenes_store
from .units import Numbers, Study, Unit, run_units

NAME = "settings"
CHOSEN = "as chosen"
EPOCHS = 8  # of the chosen settings; the others get the same time


def changed(**settings: Any) -> Callable[[Recipe], Recipe]:
    """Return a change of the method's configuration."""

    def change(base: Recipe) -> Recipe:
        assert isinstance(base.method, SelectiveMAEConfig)
        return replace(base, method=replace(base.method, **settings))

    return change


def encoder(**settings: Any) -> Callable[[Recipe], Recipe]:
    """Return a change of the encoder."""
    return lambda base: changed(encoder=replace(base.method.encoder, **settings))(base)


def rate(factor: float) -> Callable[[Recipe], Recipe]:
    """Return a change of the learning rate."""
    return lambda base: replace(
        base, optim=replace(base.optim, base_lr=factor * base.optim.base_lr)
    )


VARIANTS: dict[str, Callable[[Recipe], Recipe]] = {
    CHOSEN: lambda base: base,
    "patches of 8 pixels, encoder 192 wide, 6 blocks": encoder(
        patch_size=8, embed_dim=192, depth=6, num_heads=3
    ),
    "crops of 20 to 100 % of an image": lambda base: replace(base, augment=AugmentConfig()),
    "seeds and targets drawn uniformly, as released": changed(score="uniform"),
    "a quarter predicted, as published": changed(predict_ratio=0.25),
    "raw pixels as targets": changed(norm_pix=False),
    "three times the learning rate": rate(3),
}


def recipes(epochs: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return the recipe of every variant as plain data, each with its number of epochs."""
    return {
        name: to_plain(change(scenes.recipe("SelectiveMAE", 0, epochs[name])))
        for name, change in VARIANTS.items()
    }


def try_recipe(work: Path, recipe: Mapping[str, Any]) -> Numbers:
    """Pre-train shortly and probe on the validation quarter."""
    found = scenes.pretrained(work, NAME, recipe)
    return judged(work, recipe, found)


def try_random(work: Path, recipe: Mapping[str, Any]) -> Numbers:
    """Probe random weights on the validation quarter."""
    chosen = from_plain(Recipe, recipe)
    grid = recipe_grid(chosen, open_group(work / scenes.NAME).meta.num_channels)
    return judged(work, recipe, random_method(chosen.method, grid, 1000).encoder)


def judged(work: Path, recipe: Mapping[str, Any], encoder: Any) -> Numbers:
    """Return accuracies on the validation quarter."""
    source = image_source(NAME, encoder, Pooling())
    return scenes.probe(work, source, from_plain(Recipe, recipe), ("train",), "val")


def section(study: Study) -> Section:
    """Run the part and return its section."""
    scenes_store(study.samples, study.work)
    same = recipes(dict.fromkeys(VARIANTS, EPOCHS))
    timing = Unit(NAME, "timing", "scenes:time_steps", {"recipes": same})
    seconds = run_units([timing], study, "settings: timing")["timing"]
    epochs = scenes.equal_time(EPOCHS, seconds, CHOSEN)
    plain = recipes(epochs)
    units = [Unit(NAME, name, "settings:try_recipe", {"recipe": plain[name]}) for name in VARIANTS]
    random = Unit(NAME, "random", "settings:try_random", {"recipe": plain[CHOSEN]})
    results = run_units([*units, random], study, NAME)
    rows = [
        (f"{name}, {epochs[name]} epochs", [[results[name][c]] for c in scenes.COLUMNS])
        for name in VARIANTS
    ]
    rows.append(("random initialisation", [[results["random"][c]] for c in scenes.COLUMNS]))
    minutes = EPOCHS * seconds[CHOSEN] / 60
    return Section(f"""## What was tried

Settings were compared by short runs of equal time ({minutes:.1f} minutes each by steps timed in
turns, one seed), judged on the validation quarter of the training part of RSSCN7. Each line
changes one setting of the recipe `{scenes.RECIPES["SelectiveMAE"]}`.

{table(scenes.COLUMNS, rows)}
""")
