"""The settings that decide the result of pre-training, and named sets of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..core.config_tree import from_plain, to_plain
from ..core.errors import UsageError
from ..core.grid import Grid
from ..core.methods import MethodConfig, SelectiveMAEConfig
from ..core.training.engine import Precision
from ..core.training.optim import OptimConfig, check_optim, resolved_lr
from ..domains.ct.augment import VolumeAugmentConfig
from ..domains.imaging.augment import AugmentConfig

DEFAULT = "satellite/selectivemae-tiny"

Views = AugmentConfig | VolumeAugmentConfig
"""How samples are changed from epoch to epoch: pictures, or volumes."""


@dataclass(frozen=True, kw_only=True)
class PruningConfig:
    """InfoBatch (Qin et al., ICLR 2024): leave out easy samples for most of the run."""

    prob: float = 0.0
    """Probability with which a sample whose loss is below the mean is left out; 0 visits all
    samples in every epoch (the released SelectiveMAE uses 0.5)."""
    full_share: float = 0.125
    """Share of the epochs, at the end, in which nothing is left out."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to pre-train."""

    method: MethodConfig = field(default_factory=SelectiveMAEConfig)
    """What is hidden and predicted, and the network."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and learning rate."""
    augment: Views = field(default_factory=AugmentConfig)
    """Random views."""
    pruning: PruningConfig = field(default_factory=PruningConfig)
    """Samples that are left out."""
    image_size: tuple[int, ...] = (224, 224)
    """Pixels per axis of a view; views are resized to it."""
    epochs: int = 800
    """Times that the samples are visited."""
    batch_size: int = 256
    """Samples per update."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass; bf16 is much faster on GPUs, and losses stay float32."""
    seed: int = 0
    """Of the weights, the order, the views and the masks."""


def check_recipe(recipe: Recipe) -> None:
    """Raise UsageError for a setting that cannot train, naming field, value and fix."""
    if recipe.epochs < 1:
        raise UsageError(f"epochs {recipe.epochs}", "is below 1", "use 1 or more")
    if recipe.batch_size < 1:
        raise UsageError(f"batch_size {recipe.batch_size}", "is below 1", "use 1 or more")
    if not 0 <= recipe.pruning.prob < 1 or not 0 <= recipe.pruning.full_share <= 1:
        raise UsageError(
            f"pruning {recipe.pruning.prob}, {recipe.pruning.full_share}",
            "must be shares",
            "use 0 <= prob < 1 and 0 <= full_share <= 1",
        )
    check_optim(recipe.optim, recipe.epochs)


def recipe_grid(recipe: Recipe, channels: int) -> Grid:
    """Return the geometry of the images that a recipe trains on.

    Raises:
        UsageError: when the image size is not a multiple of the patch.
    """
    return Grid.for_image(recipe.image_size, recipe.method.encoder.patch_size, channels)


def peak_lr(recipe: Recipe) -> float:
    """Return the peak learning rate: base rate times batch / 256 times the method's factor."""
    return resolved_lr(recipe.optim, recipe.batch_size, recipe.method.lr_factor)


def recipe_names() -> list[str]:
    """Return the names of all recipes, sorted."""
    from .recipes import RECIPES

    return sorted(RECIPES)


def recipe_function(name: str) -> Callable[[], Recipe]:
    """Return the function that makes a recipe; its docstring says what to expect.

    Raises:
        UsageError: for an unknown name, with the nearest known one.
    """
    from .recipes import RECIPES

    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(RECIPES))}"
        raise UsageError(f"recipe {name!r}", "is not known", f"{hint} (or give a .yaml file)")
    return RECIPES[name]


def load_recipe(name: str | Path) -> Recipe:
    """Return a recipe by name, or from a YAML file that holds one.

    Raises:
        UsageError: for an unknown name, or a file with unknown or wrong entries.
    """
    text = str(name)
    if not text.endswith((".yaml", ".yml")):
        return recipe_function(text)()
    import yaml

    try:
        plain = yaml.safe_load(Path(text).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(text, f"cannot be read ({reason})", "give a recipe's YAML file") from error
    return from_plain(Recipe, plain, text)


def recipe_of(config: Any) -> Recipe:
    """Return the part of a larger configuration that is a recipe."""
    return Recipe(**{f.name: getattr(config, f.name) for f in fields(Recipe)})


def recipe_yaml(recipe: Recipe) -> str:
    """Return a recipe as YAML; `load_recipe` reads it."""
    import yaml

    return yaml.safe_dump(to_plain(recipe), sort_keys=False)


def flat(plain: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return the leaves of a plain tree by dotted path."""
    leaves: dict[str, Any] = {}
    for key, value in plain.items():
        path = f"{where}.{key}" if where else key
        leaves |= flat(value, path) if isinstance(value, Mapping) else {path: value}
    return leaves
