"""SimMIM's family on Swin and SwinV2, as published, and small ones for two CPU cores.

Published rates are per 512 samples, here they are per 256. Views: the papers crop at random (area
0.67 to 1) and mirror.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...core.encoders.swin import SwinConfig
from ...core.methods import DataScalingConfig, SatVisionTOAConfig, SimMIMConfig
from ...core.methods.satvision_toa import GIANT, HUGE
from ...core.training.optim import OptimConfig
from ...domains.imaging.augment import AugmentConfig
from ..recipe import Recipe

_VIEWS = AugmentConfig(rotate=False, min_area=0.67)
_BASE = SwinConfig(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), window_size=6)
_LARGE = replace(_BASE, embed_dim=192, num_heads=(6, 12, 24, 48), window_size=12)
_V2_BASE = replace(_BASE, version=2, window_size=12, drop_path=0.1)
_TINY = SwinConfig(
    patch_size=16, embed_dim=32, depths=(2, 2, 2), num_heads=(2, 4, 8), window_size=4
)
_TINY_OPTIM = OptimConfig(base_lr=8e-3, betas=(0.9, 0.999), warmup_epochs=2, clip_grad=5.0)


def simmim_swin_base() -> Recipe:
    """SimMIM Swin-B at 192 pixels for 100 epochs (Xie et al., CVPR 2022, released configuration).

    Data: ImageNet-1k, 1.28 million photographs. Batch 2048 on 16 GPUs in the paper.
    Expect: 82.8 % top-1 after fine-tuning at 192 pixels (paper); not reproduced here.
    """
    return Recipe(
        method=SimMIMConfig(encoder=_BASE),
        optim=OptimConfig(
            base_lr=1e-4,
            betas=(0.9, 0.999),
            warmup_epochs=10,
            warmup_lr=4e-6,
            min_lr=4e-5,
            clip_grad=5.0,
            no_decay=("mask_token",),
        ),
        augment=_VIEWS,
        image_size=(192, 192),
        epochs=100,
        batch_size=2048,
        precision="bf16",
    )


def simmim_swin_large() -> Recipe:
    """SimMIM Swin-L at 192 pixels, windows of 12 (Xie et al., CVPR 2022), for 100 epochs.

    The paper trains it for 800 epochs at half of this rate and expects 85.4 % top-1 after
    fine-tuning; not reproduced here.
    """
    return replace(simmim_swin_base(), method=SimMIMConfig(encoder=_LARGE))


def data_scaling_base() -> Recipe:
    """SimMIM with SwinV2-B and a locally normalised target (Xie et al., CVPR 2023).

    Data: ImageNet-1k, 500 000 updates of 2048 images. The rate is held until epoch 700 of 800.
    Expect: 85.04 % top-1 after fine-tuning, validation loss 0.4588 (published table); not
    reproduced here.
    """
    return Recipe(
        method=DataScalingConfig(encoder=_V2_BASE),
        optim=OptimConfig(
            base_lr=5e-5,
            betas=(0.9, 0.999),
            warmup_epochs=10,
            clip_grad=5.0,
            step_epochs=(700.0,),
            no_decay=("mask_token",),
        ),
        augment=_VIEWS,
        image_size=(192, 192),
        epochs=800,
        batch_size=2048,
        precision="bf16",
    )


def data_scaling_small() -> Recipe:
    """SimMIM with SwinV2-S (Xie et al., CVPR 2023); the width follows from the published count.

    Expect: 84.08 % top-1 after fine-tuning (published table); not reproduced here.
    """
    encoder = replace(_V2_BASE, embed_dim=96, num_heads=(3, 6, 12, 24))
    return replace(data_scaling_base(), method=DataScalingConfig(encoder=encoder))


def data_scaling_large() -> Recipe:
    """SimMIM with SwinV2-L (Xie et al., CVPR 2023); the width follows from the published count.

    Expect: 85.91 % top-1 after fine-tuning (published table); not reproduced here.
    """
    encoder = replace(_V2_BASE, embed_dim=192, num_heads=(6, 12, 24, 48))
    return replace(data_scaling_base(), method=DataScalingConfig(encoder=encoder))


def satvision_toa_giant() -> Recipe:
    """SatVision-TOA giant, three billion parameters (Spradlin et al., 2024, released settings).

    Data: 100 million chips of 128 pixels, 14 MODIS bands. The released code trains at a constant
    rate of 3e-4 and without clipping; the run behind the paper followed a cycle that is not
    published. Here the rate follows a cosine to two thirds of its peak, and gradients are clipped.
    Blocks are recomputed in the backward.
    """
    return Recipe(
        method=SatVisionTOAConfig(encoder=GIANT),
        # The rate is not scaled by the batch there: 3e-4 at any size.
        optim=OptimConfig(
            base_lr=3e-4 * 256 / 1536,
            betas=(0.9, 0.999),
            warmup_epochs=1,
            min_lr=2e-4,
            clip_grad=5.0,
            no_decay=("mask_token", "cpb_mlp", "logit_scale", "relative_position_bias_table"),
        ),
        augment=replace(_VIEWS, flip=False),
        image_size=(128, 128),
        epochs=50,
        batch_size=1536,
        precision="bf16",
    )


def satvision_toa_huge() -> Recipe:
    """SatVision-TOA huge, about 0.7 billion parameters (Spradlin et al., 2024).

    Data: as for the giant size. Batch 1536 on MI250X in the released configuration.
    """
    return replace(satvision_toa_giant(), method=SatVisionTOAConfig(encoder=HUGE))


def simmim_tiny() -> Recipe:
    """SimMIM with a Swin of three stages and half a million parameters, for two CPU cores.

    Data: a few hundred tiles of 64 pixels or more, any bands.
    """
    return Recipe(
        method=SimMIMConfig(encoder=_TINY),
        optim=_TINY_OPTIM,
        augment=_VIEWS,
        image_size=(64, 64),
        epochs=20,
        batch_size=32,
    )


def data_scaling_tiny() -> Recipe:
    """SimMIM with a SwinV2 and a locally normalised target, for two CPU cores.

    Data: a few hundred tiles of 64 pixels or more, any bands. The window of the target is as small
    against the image as in the paper.
    """
    method = DataScalingConfig(encoder=replace(_TINY, version=2), target_window=15)
    return replace(simmim_tiny(), method=method)


def satvision_toa_tiny() -> Recipe:
    """SatVision-TOA with a SwinV2 of three stages, for two CPU cores.

    Data: a few hundred tiles of 64 pixels or more, any bands. Masks of 8 pixels lie inside the 16
    pixels of a cell of the last stage, as they lie inside 32 in the released models.
    """
    encoder = replace(_TINY, patch_size=8, version=2, extra_norm_period=2)
    return replace(simmim_tiny(), method=SatVisionTOAConfig(encoder=encoder))


RECIPES: dict[str, Callable[[], Recipe]] = {
    "simmim-swin-base": simmim_swin_base,
    "simmim-swin-large": simmim_swin_large,
    "simmim/tiny": simmim_tiny,
    "data-scaling-small": data_scaling_small,
    "data-scaling-base": data_scaling_base,
    "data-scaling-large": data_scaling_large,
    "data-scaling/tiny": data_scaling_tiny,
    "satvision-toa-huge": satvision_toa_huge,
    "satvision-toa-giant": satvision_toa_giant,
    "satvision-toa/tiny": satvision_toa_tiny,
}
