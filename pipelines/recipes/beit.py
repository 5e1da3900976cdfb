"""Methods on BEiT-style ViTs, as published and small ones for two CPU cores.

Views: the papers crop at random (area 0.67 to 1) and mirror; quarter turns are left out here, as
they are in the papers. Their rates are per 512 images, ours are per 256.
"""

from __future__ import annotations

from collections.abc import Callable

from ...core.methods import SimMIMViTConfig
from ...core.methods.config_beit import BEIT_BASE, BEiTConfig
from ...core.training.optim import OptimConfig
from ...domains.satellite.augment import AugmentConfig
from ..recipe import Recipe

_VIEWS = AugmentConfig(rotate=False, min_area=0.67)
_TINY = BEiTConfig(embed_dim=96, depth=4, num_heads=3, patch_size=8)
_TINY_OPTIM = OptimConfig(base_lr=8e-3, warmup_epochs=2, clip_grad=5.0)


def simmim_vit_base() -> Recipe:
    """SimMIM ViT-B/16, 800 epochs (Xie et al., CVPR 2022, released code).

    Data: ImageNet-1k, 1.28 million photographs; batch 2048 on 16 GPUs. The release divides the
    rate by ten at epoch 700; here it follows a cosine to the same end. Expect: 83.8 % top-1 after
    fine-tuning (paper); not reproduced here.
    """
    return Recipe(
        method=SimMIMViTConfig(encoder=BEIT_BASE),
        optim=OptimConfig(
            base_lr=5e-5, betas=(0.9, 0.999), warmup_epochs=10, min_lr=4e-5, clip_grad=5.0
        ),
        augment=_VIEWS,
        epochs=800,
        batch_size=2048,
        precision="bf16",
    )


def simmim_vit_tiny() -> Recipe:
    """SimMIM with a ViT of half a million parameters, for two CPU cores.

    Data: a few hundred tiles of 64 pixels or more, any bands.
    """
    return Recipe(
        method=SimMIMViTConfig(encoder=_TINY),
        optim=_TINY_OPTIM,
        image_size=(64, 64),
        epochs=20,
        batch_size=32,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "simmim-vit-base": simmim_vit_base,
    "simmim-vit/tiny": simmim_vit_tiny,
}
