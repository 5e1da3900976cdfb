"""Methods on BEiT-style ViTs, as published and small ones for two CPU cores.

Views: the papers crop at random (area 0.67 to 1) and mirror; quarter turns are left out here, as
they are in the papers. Their rates are per 512 images, ours are per 256.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...core.methods import A2MIMConfig, RoPIMConfig, SimMIMViTConfig
from ...core.methods.a2mim import ResNetConfig, resnet_config
from ...core.methods.config_beit import (
    BEIT_BASE,
    BEIT_LARGE,
    BEIT_SMALL,
    BEIT_TINY,
    BEiTConfig,
)
from ...core.training.optim import OptimConfig
from ...domains.imaging.augment import AugmentConfig
from ..recipe import Recipe

_VIEWS = AugmentConfig(rotate=False, min_area=0.67)
_TINY = BEiTConfig(embed_dim=96, depth=4, num_heads=3, patch_size=8)
_TINY_OPTIM = OptimConfig(base_lr=8e-3, warmup_epochs=2, clip_grad=5.0)


def simmim_vit_base() -> Recipe:
    """SimMIM ViT-B/16, 800 epochs (Xie et al., CVPR 2022, released code).

    Data: ImageNet-1k, 1.28 million photographs; batch 2048 on 16 GPUs. Expect: 83.8 % top-1 after
    fine-tuning (paper); not reproduced here.
    """
    return Recipe(
        method=SimMIMViTConfig(encoder=BEIT_BASE),
        optim=OptimConfig(
            base_lr=5e-5,
            betas=(0.9, 0.999),
            warmup_epochs=10,
            warmup_lr=2e-6,
            clip_grad=5.0,
            step_epochs=(700.0,),
            no_decay=("mask_token",),
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


def ropim_base() -> Recipe:
    """RoPIM ViT-B/16, 300 epochs (Haghighat et al., ICLR 2024, released code).

    Data: ImageNet-1k. The release states rates per 512 images, and so does this recipe: its batch
    is 512, and with another one the rate follows. Everything is float32, as released.
    """
    return Recipe(
        method=RoPIMConfig(encoder=BEIT_BASE),
        optim=OptimConfig(base_lr=7.5e-5, warmup_epochs=5, min_lr=5e-6, clip_grad=5.0),
        augment=_VIEWS,
        epochs=300,
        batch_size=512,
    )


def ropim_small() -> Recipe:
    """RoPIM ViT-S/16, 300 epochs (released code); the rest as for the base size."""
    return replace(ropim_base(), method=RoPIMConfig(encoder=BEIT_SMALL))


def ropim_vit_tiny() -> Recipe:
    """RoPIM ViT-T/16, 800 epochs (released code), with a rate 6.7 times that of the base size."""
    recipe = ropim_base()
    return replace(
        recipe,
        method=RoPIMConfig(encoder=BEIT_TINY),
        optim=replace(recipe.optim, base_lr=5e-4),
        epochs=800,
    )


def ropim_tiny() -> Recipe:
    """RoPIM with a ViT of half a million parameters, for two CPU cores.

    Data: a few hundred tiles of 64 pixels or more, any bands.
    """
    return replace(simmim_vit_tiny(), method=RoPIMConfig(encoder=_TINY))


def _a2mim_vit(encoder: BEiTConfig) -> A2MIMConfig:
    own = replace(encoder, relative_positions="block", absolute_positions=True)
    return A2MIMConfig(encoder=own)


def a2mim_base() -> Recipe:
    """A2MIM ViT-B/16, 800 epochs (Li et al., ICML 2023, released configuration).

    Data: ImageNet-1k; batch 2048. Expect: 84.2 % top-1 after fine-tuning (paper); not reproduced
    here.
    """
    base = simmim_vit_base()
    spared = ("mask_token", "pos_embed", "cls_token")
    return replace(base, method=_a2mim_vit(BEIT_BASE), optim=replace(base.optim, no_decay=spared))


def a2mim_small() -> Recipe:
    """A2MIM ViT-S/16; otherwise as the base size.

    Expect: 82.1 % top-1 after fine-tuning (paper); not reproduced here.
    """
    return replace(a2mim_base(), method=_a2mim_vit(BEIT_SMALL))


def a2mim_large() -> Recipe:
    """A2MIM ViT-L/16; otherwise as the base size.

    Expect: 86.1 % top-1 after fine-tuning (paper); not reproduced here.
    """
    return replace(a2mim_base(), method=_a2mim_vit(BEIT_LARGE))


def a2mim_resnet50() -> Recipe:
    """A2MIM ResNet-50, 300 epochs (Li et al., ICML 2023, released configuration).

    Data: ImageNet-1k; batch 2048. The release trains the mask token at a tenth of the rate, which
    is left out here. Expect: 80.4 % top-1 after fine-tuning (paper); not reproduced here.
    """
    return Recipe(
        method=resnet_config(ResNetConfig()),
        optim=OptimConfig(base_lr=1.5e-4, betas=(0.9, 0.999), warmup_epochs=10, min_lr=1e-5),
        augment=replace(_VIEWS, min_area=0.8),
        epochs=300,
        batch_size=2048,
    )


def a2mim_tiny() -> Recipe:
    """A2MIM with a ViT of half a million parameters, for two CPU cores.

    Data: a few hundred tiles of 64 pixels or more, any bands.
    """
    return replace(simmim_vit_tiny(), method=_a2mim_vit(_TINY))


RECIPES: dict[str, Callable[[], Recipe]] = {
    "simmim-vit-base": simmim_vit_base,
    "simmim-vit/tiny": simmim_vit_tiny,
    "ropim-vit-tiny": ropim_vit_tiny,
    "ropim-small": ropim_small,
    "ropim-base": ropim_base,
    "ropim/tiny": ropim_tiny,
    "a2mim-small": a2mim_small,
    "a2mim-base": a2mim_base,
    "a2mim-large": a2mim_large,
    "a2mim-resnet50": a2mim_resnet50,
    "a2mim/tiny": a2mim_tiny,
}
