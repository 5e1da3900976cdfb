"""The settings that decide the result of fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ..core.errors import UsageError
from ..core.heads.classify import Pool
from ..core.heads.task import DenseHead
from ..core.objectives.segmentation import DenseLoss
from ..core.training.engine import Precision
from ..core.training.optim import OptimConfig, check_optim
from ..domains.ct.augment import VolumeAugmentConfig
from ..domains.imaging.augment import AugmentConfig
from .labelled import Choice

Views = AugmentConfig | VolumeAugmentConfig
VIEWS: dict[str, Callable[[], Views]] = {
    # A mirrored body has its left organs on the right, so labelled volumes are turned only
    # (shares: hi-end-mae.md, "Fine-tune").
    "ct": lambda: VolumeAugmentConfig(flip=(0.0, 0.0, 0.0), rotate=0.2),
}
"""Usual random views of labelled samples, of domains that differ from images seen from above."""
_DIM = {"simple": 64, "hierarchical": 256, "unetr": 64}


def usual_views(domain: str) -> Views:
    """Return the random views that suit labelled samples of a domain."""
    return VIEWS[domain]() if domain in VIEWS else AugmentConfig(min_area=0.5)


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """How to fine-tune."""

    task: Literal["auto", "segment", "classify"] = "auto"
    """`segment`: a class per pixel; `classify`: one per sample; auto: what the store has labels
    for, samples first."""
    labels_per_class: int | None = None
    """Train on so many labelled samples of every class, drawn by the seed; all when not given. With
    labels per pixel a sample counts for its most frequent class."""
    labelled_groups: int | None = None
    """Train on so many groups (patients, scenes), drawn by the seed; 1 is one-shot."""
    folds: int | None = None
    """Cross-validation: divide the groups of the training split (`--train all` takes every
    sample) into so many parts and score the model on the one it did not see."""
    fold: int = 0
    """Part that is held out, from 0; with `folds`."""
    foreground: float | None = None
    """Share of the visited samples that hold another class than the first, which is background;
    every sample is visited once an epoch when not given."""
    image_size: tuple[int, ...] | None = None
    """Pixels per axis; when not given those of the stored samples for a class per pixel, and those
    of pre-training for a class per sample."""
    epochs: int = 50
    """Times that the samples are visited."""
    batch_size: int = 32
    """Samples per update; smaller sets are taken whole."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            base_lr=4e-3, betas=(0.9, 0.999), warmup_epochs=5, layer_decay=0.75, clip_grad=1.0
        )
    )
    """Optimiser; layer_decay lowers the rate of early blocks (MAE, appendix A.1)."""
    augment: Views = field(default_factory=lambda: AugmentConfig(min_area=0.5))
    """Random views; their kind follows from the data."""
    freeze: bool = False
    """Train the head only."""
    drop_path: float = 0.0
    """Stochastic depth of the last block; 0.1 to 0.2 for large encoders."""
    head: DenseHead = "simple"
    """Segmentation head: `simple` fuses all taps at the token grid; `hierarchical` lets them enter
    level by level, a few million parameters; `unetr` is UNETR's decoder."""
    taps: tuple[int, ...] | None = None
    """Encoder blocks that a segmentation head reads, zero-based, -1 for the final output; when not
    given four evenly spaced ones, or those that pre-training's decoder read."""
    dim: int | None = None
    """Width of a simple (64) or hierarchical (256) head at the token grid."""
    stem_dim: int = 16
    """Width of a segmentation head at full resolution, UNETR's feature size."""
    deep_supervision: bool = False
    """Train coarser levels of the head as well (unetr, hierarchical)."""
    pool: Pool = "mean"
    """What a classification head pools."""
    loss: DenseLoss = "cross-entropy"
    """`dice-ce` and `dice-focal` add the Dice overlap of each sample (labels per pixel)."""
    class_weight: float = 0.5
    """Weights of rare classes: 0 for equal weights, 1 for inverse frequency; not in Dice."""
    dice_weight: float = 1.0
    """Factor of Dice in losses that have it."""
    smoothing: float = 0.0
    """Label smoothing, in cross-entropy."""
    scratch: bool = False
    """Start from random weights of the same network, to see what pre-training brings."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass."""
    seed: int = 0
    """Of new weights, the order, the views, the drawn labels and the folds."""

    @property
    def choice(self) -> Choice:
        """Which samples train and which are held out."""
        return Choice(
            labels_per_class=self.labels_per_class,
            num_groups=self.labelled_groups,
            num_folds=self.folds,
            fold=self.fold,
            seed=self.seed,
        )

    @property
    def head_dim(self) -> int:
        """Width of the head at the token grid."""
        return _DIM[self.head] if self.dim is None else self.dim


def check_finetune(recipe: FinetuneRecipe, micro_batch: int | None = None) -> None:
    """Raise UsageError for a number that cannot train, naming field, value and fix.

    Args:
        recipe: the settings.
        micro_batch: samples per micro-batch, where the batch is cut.
    """
    check_optim(recipe.optim, recipe.epochs)
    least = {"batch_size": 1, "labels_per_class": 1, "labelled_groups": 1, "folds": 2, "fold": 0}
    least |= {"dim": 1, "stem_dim": 1}
    for name, smallest in least.items():
        value = getattr(recipe, name)
        if value is not None and value < smallest:
            raise UsageError(f"{name} {value}", f"is below {smallest}", f"use {smallest} or more")
    ranges = {"drop_path": 0.99, "class_weight": 2.0, "dice_weight": 100.0, "smoothing": 0.9}
    for name, most in (ranges | {"foreground": 1.0}).items():
        value = getattr(recipe, name)
        if value is not None and not 0 <= value <= most:
            reason = f"is outside of 0 to {most:g}"
            raise UsageError(f"{name} {value}", reason, "use a number inside")
    if recipe.fold and (recipe.folds is None or recipe.fold >= recipe.folds):
        known = "without folds" if recipe.folds is None else f"of {recipe.folds} folds from 0"
        raise UsageError(f"fold {recipe.fold}", f"does not exist {known}", "set folds as well")
    if micro_batch is not None and recipe.drop_path:
        raise UsageError(
            "efficiency.micro_batch",
            "changes the draws of drop_path",
            "leave it out, or set drop_path to 0",
        )
