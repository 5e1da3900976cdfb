"""The published configurations, with the published optimiser, schedule and views.

Views: the papers crop at random (area 0.2 to 1) and mirror; quarter turns are left out here, as
they are in the papers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...core.methods import DecoderConfig, MAEConfig, SelectiveMAEConfig
from ...core.methods.config import BASE, HUGE, LARGE, SMALL
from ...core.training.optim import OptimConfig
from ...domains.imaging.augment import AugmentConfig
from ..recipe import PruningConfig, Recipe

_VIEWS = AugmentConfig(rotate=False)


def mae_base() -> Recipe:
    """MAE ViT-B/16 (He et al., CVPR 2022, appendix A.1).

    Data: ImageNet-1k, 1.28 million photographs. Hardware: 64 V100 in the paper, batch 4096.
    Expect: 83.6 % top-1 after fine-tuning (paper); not reproduced here.
    """
    return Recipe(
        method=MAEConfig(encoder=BASE),
        optim=OptimConfig(base_lr=1.5e-4, warmup_epochs=40),
        augment=_VIEWS,
        epochs=800,
        batch_size=4096,
        precision="bf16",
    )


def mae_large() -> Recipe:
    """MAE ViT-L/16 (He et al., CVPR 2022): 42 h on 64 V100 for 800 epochs (paper).

    Expect: 85.9 % top-1 after fine-tuning at 1600 epochs (paper); not reproduced here.
    """
    return replace(mae_base(), method=MAEConfig(encoder=LARGE))


def mae_huge() -> Recipe:
    """MAE ViT-H/14 (He et al., CVPR 2022).

    Expect: 86.9 % top-1 after fine-tuning at 1600 epochs (paper); not reproduced here.
    """
    return replace(mae_base(), method=MAEConfig(encoder=HUGE))


def selectivemae_small() -> Recipe:
    """SelectiveMAE ViT-S/16 with a decoder 256 wide (Wang et al., ICCV 2025, released code)."""
    method = SelectiveMAEConfig(
        encoder=SMALL, decoder=DecoderConfig(dim=256, depth=12, num_heads=8)
    )
    return replace(selectivemae_base(), method=method)


def selectivemae_base() -> Recipe:
    """SelectiveMAE ViT-B/16 (Wang et al., ICCV 2025).

    Data: OpticalRS, 4 or 13 million overhead images. Hardware: 8 GPUs with 256 images each (README
    of the release). The learning rate carries the factor r / m, and half of the easy samples are
    left out until the last eighth of the run, as released.
    """
    return Recipe(
        method=SelectiveMAEConfig(encoder=BASE),
        optim=OptimConfig(base_lr=1.5e-4, warmup_epochs=30),
        augment=_VIEWS,
        pruning=PruningConfig(prob=0.5),
        epochs=800,
        batch_size=2048,
        precision="bf16",
    )


def selectivemae_large() -> Recipe:
    """SelectiveMAE ViT-L/16 (Wang et al., ICCV 2025); data and hardware as for the base size."""
    return replace(selectivemae_base(), method=SelectiveMAEConfig(encoder=LARGE))


def selectivemae_huge() -> Recipe:
    """SelectiveMAE ViT-H/14 (released code); data and hardware as for the base size."""
    return replace(selectivemae_base(), method=SelectiveMAEConfig(encoder=HUGE))


RECIPES: dict[str, Callable[[], Recipe]] = {
    "mae-base": mae_base,
    "mae-large": mae_large,
    "mae-huge": mae_huge,
    "selectivemae-small": selectivemae_small,
    "selectivemae-base": selectivemae_base,
    "selectivemae-large": selectivemae_large,
    "selectivemae-huge": selectivemae_huge,
}
