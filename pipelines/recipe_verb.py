"""`mimkit recipe`: list recipes, show one, compare two."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Literal

import torch
import tyro

from ..core.config_tree import to_plain
from ..core.errors import UsageError
from ..core.methods import build, spec
from ..core.training.deepspeed_config import Sharding, Stage, check_sharding, deepspeed_config
from ..core.training.distributed import Ranks
from ..core.training.flops import training_flops
from .distributed import check_share
from .progress import say
from .recipe import (
    Recipe,
    flat,
    load_recipe,
    peak_lr,
    recipe_function,
    recipe_grid,
    recipe_names,
    recipe_yaml,
)


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """List recipes, show one with what it resolves to, or compare two.

    `mimkit recipe list`, `mimkit recipe show NAME`, `mimkit recipe diff NAME NAME`; a NAME may also
    be a YAML file, such as the recipe.yaml of a run.
    """

    action: tyro.conf.Positional[Literal["list", "show", "diff"]] = "list"
    """What to do."""
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Recipes or YAML files: one for show, two for diff."""
    channels: int = 3
    """Channels of the images, for parameters and FLOP."""
    zero_stage: Stage | None = None
    """With `show`: also print the configuration that DeepSpeed gets for this stage."""
    processes: int = 1
    """Processes of that configuration."""


@dataclass(frozen=True)
class RecipeFacts:
    """What a recipe amounts to.

    Args:
        name: the recipe.
        method: its method.
        millions: parameters of the encoder, in millions.
        gflop: GFLOP of one image in a training step.
        num_tokens: tokens of an image.
        image_size: pixels per axis.
        source: where the method was published.
    """

    name: str
    method: str
    millions: float
    gflop: float
    num_tokens: int
    image_size: tuple[int, ...]
    source: str


def run(config: RecipeConfig) -> None:
    """List, show or compare recipes.

    Raises:
        UsageError: for an unknown recipe, or another number of names than the action takes.
    """
    wanted = {"list": 0, "show": 1, "diff": 2}[config.action]
    if len(config.names) != wanted:
        raise UsageError(
            f"recipe {config.action}",
            f"takes {wanted} names, not {len(config.names)}",
            "see `mimkit recipe --help`",
        )
    if config.action == "list":
        show_list([facts(name, config.channels) for name in recipe_names()])
    elif config.action == "show":
        say(describe(config.names[0], config.channels))
        if config.zero_stage is not None:
            say(deepspeed_json(load_recipe(config.names[0]), config.zero_stage, config.processes))
    else:
        for line in compare(*config.names):
            say(line)


def deepspeed_json(recipe: Recipe, stage: Stage, processes: int) -> str:
    """Return what DeepSpeed is given, as JSON.

    Raises:
        UsageError: when the batch cannot be shared evenly, or the stage cannot train the recipe.
    """
    check_share(recipe.batch_size, Ranks(world=processes))
    sharding = Sharding(stage=stage)
    check_sharding(sharding, recipe.precision, compile=False)
    made = deepspeed_config(recipe.optim, sharding, batch_size=recipe.batch_size, world=processes)
    return json.dumps(made, indent=1)


def facts(name: str, channels: int = 3) -> RecipeFacts:
    """Build a recipe's method without memory for its weights and count."""
    recipe = load_recipe(name)
    grid = recipe_grid(recipe, channels)
    with torch.device("meta"):
        method = build(recipe.method, grid)
    return RecipeFacts(
        name,
        recipe.method.name,
        sum(p.numel() for p in method.encoder.parameters()) / 1e6,
        training_flops(method).training / 1e9,
        grid.num_tokens,
        grid.image_size,
        spec(recipe.method.name).source,
    )


def show_list(rows: list[RecipeFacts]) -> None:
    """Print recipes in groups, a method's smallest encoder first."""
    say("\n".join(list_lines(rows)))


def list_lines(rows: list[RecipeFacts]) -> list[str]:
    """Return recipes in groups by method, in lines of at most 80 characters but for long names."""
    width = max(len(row.name) for row in rows)
    heading = f"{'encoder':>{width + 11}}{'GFLOP':>10}{'tokens':>9}  image"
    lines = [heading]
    for method in sorted({row.method for row in rows}):
        group = sorted((r for r in rows if r.method == method), key=lambda r: (r.millions, r.name))
        lines += ["", f"{method}: {group[0].source}"]
        lines += [
            f"  {row.name:<{width}}{row.millions:>7.1f} M{row.gflop:>10,.2f}{row.num_tokens:>9}  "
            + " x ".join(map(str, row.image_size))
            for row in group
        ]
    notes = "encoder: parameters; GFLOP: of one image in a training step; tokens: of an image"
    return [*lines, "", notes, "`mimkit recipe show NAME` says data, hardware and what to expect"]


def describe(name: str, channels: int = 3) -> str:
    """Return a recipe in words, then as YAML that `mimkit pretrain --recipe FILE` reads."""
    recipe, row = load_recipe(name), facts(name, channels)
    lines = [
        f"# {name}: {row.method} ({row.source})",
        *(f"# {line}".rstrip() for line in _docstring(name).splitlines()),
        f"# encoder {row.millions:.1f} M parameters, {row.num_tokens} tokens, "
        f"{row.gflop:.2f} GFLOP per image and step with {channels} channels",
        f"# peak learning rate {peak_lr(recipe):.4g} = base {recipe.optim.base_lr:g} x batch "
        f"{recipe.batch_size} / 256 x factor {recipe.method.lr_factor:.3g}",
    ]
    return "\n".join(lines) + "\n" + recipe_yaml(recipe)


def _docstring(name: str) -> str:
    if name.endswith((".yaml", ".yml")):
        return ""
    return inspect.getdoc(recipe_function(name)) or ""


def compare(first: str, second: str) -> list[str]:
    """Return one line per setting in which two recipes differ."""
    before, after = _leaves(load_recipe(first)), _leaves(load_recipe(second))
    width = max(map(len, {**before, **after}))
    lines = [
        f"{key:<{width}}  {before.get(key, '-')} -> {after.get(key, '-')}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key, "-") != after.get(key, "-")
    ]
    return lines or ["the two are the same"]


def _leaves(recipe: Recipe) -> dict[str, object]:
    return flat(to_plain(recipe))
