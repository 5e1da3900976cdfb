"""Recipes of methods whose decoders read several layers of the encoder.

Views: the papers crop at random (area 0.2 to 1) and mirror; quarter turns are left out where they
are left out there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...core.encoders.swin import SwinConfig
from ...core.methods import (
    DecoderConfig,
    EncoderConfig,
    HiEndMAEConfig,
    LocalMIMConfig,
    LocalMIMSwinConfig,
    MFFConfig,
)
from ...core.methods.config import BASE, LARGE, SMALL
from ...core.training.optim import OptimConfig
from ...domains.ct.augment import VolumeAugmentConfig
from ...domains.imaging.augment import AugmentConfig
from ..recipe import Recipe

_VIEWS = AugmentConfig(rotate=False)
_ENCODER = EncoderConfig(embed_dim=128, depth=6, num_heads=4, patch_size=4)
_DECODER = DecoderConfig(dim=64, depth=1, num_heads=4)
_SWIN = SwinConfig(
    embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), window_size=7, eps=1e-6
)
_SWIN_TINY = SwinConfig(
    patch_size=8, stem_size=2, embed_dim=32, depths=(2, 2, 2), num_heads=(2, 4, 8), window_size=4
)


def hi_end_mae_large() -> Recipe:
    """Hi-End-MAE ViT of 12 blocks, width 1536, patches of 12 voxels (Tang et al., 2025, released).

    Data: ten thousand CT scans, crops of 96 voxels at 1.5 mm. Hardware: 4 GPUs with 192 crops each
    in the released example. The published rate is 1e-4 whatever the batch is. `mimkit curate ct
    --spacing 1.5 1.5 1.5 --size 128 128 128` makes a store for it; quarter turns are in the axial
    plane only, and crops are chosen by their share of body instead of voxel by voxel.
    """
    encoder = EncoderConfig(embed_dim=1536, depth=12, num_heads=16, patch_size=12)
    decoder = DecoderConfig(dim=528, depth=2, num_heads=16)
    return Recipe(
        method=HiEndMAEConfig(encoder=encoder, decoder=decoder),
        optim=OptimConfig(base_lr=1e-4 * 256 / 768, warmup_epochs=10),
        augment=VolumeAugmentConfig(),
        image_size=(96, 96, 96),
        epochs=1000,
        batch_size=768,
        precision="bf16",
    )


def hi_end_mae_large_16() -> Recipe:
    """Hi-End-MAE of the same width with patches of 16 voxels (`vit_large_16p` of the release).

    Data and settings as for `hi-end-mae-large`; no weights of this size were released.
    """
    recipe = hi_end_mae_large()
    method = recipe.method
    assert isinstance(method, HiEndMAEConfig)
    encoder = replace(method.encoder, patch_size=16)
    return replace(recipe, method=replace(method, encoder=encoder))


def hi_end_mae_base() -> Recipe:
    """Hi-End-MAE with a ViT-B and patches of 16 voxels (`vit_base_16p` of the release).

    Data and settings as for `hi-end-mae-large`; no weights of this size were released.
    """
    return replace(hi_end_mae_large(), method=HiEndMAEConfig(encoder=BASE))


def localmim_base() -> Recipe:
    """LocalMIM ViT-B/16 on HOG (Wang et al., CVPR 2023).

    Data: ImageNet-1k. Expect: 84.0 % top-1 after fine-tuning, 0.7 GPU-hours an epoch (paper); not
    reproduced here. Runs of 100 epochs warm up for 10.
    """
    return Recipe(
        method=LocalMIMConfig(encoder=BASE),
        optim=OptimConfig(base_lr=2e-4, warmup_epochs=40, min_lr=1e-6),
        augment=_VIEWS,
        epochs=1600,
        batch_size=2048,
        precision="bf16",
    )


def localmim_small() -> Recipe:
    """LocalMIM ViT-S/16, a size that the release lists without settings: those of ViT-B.

    Data as for `localmim-base`; no result was published.
    """
    return replace(localmim_base(), method=LocalMIMConfig(encoder=SMALL))


def localmim_large() -> Recipe:
    """LocalMIM ViT-L/16 on HOG of 18 bins, without the released random bias of its gradients.

    Data as for `localmim-base`. Expect: 85.8 % top-1 after fine-tuning, 1.0 GPU-hours an epoch
    (paper, with the bias; `hog_bias` turns it on); not reproduced here.
    """
    return replace(
        localmim_base(),
        method=LocalMIMConfig(encoder=LARGE, num_bins=18),
        optim=OptimConfig(base_lr=1.5e-4, warmup_epochs=40, min_lr=1e-6),
        epochs=800,
        batch_size=4096,
    )


def localmim_swin_base() -> Recipe:
    """LocalMIM Swin-B on HOG of 18 bins, without the released random bias of its gradients.

    Data as for `localmim-base`. Expect: 84.1 % top-1 after fine-tuning, 1.1 GPU-hours an epoch
    (paper, with the bias; `hog_bias` turns it on); not reproduced here. A batch shares its mask in
    the release and not here.
    """
    return Recipe(
        method=LocalMIMSwinConfig(encoder=_SWIN, num_bins=18),
        optim=OptimConfig(
            base_lr=1e-4, warmup_epochs=40, no_decay=("mask_token", "relative_position_bias_table")
        ),
        augment=_VIEWS,
        epochs=400,
        batch_size=2048,
        precision="bf16",
    )


def localmim_swin_base_pixels() -> Recipe:
    """LocalMIM Swin-B on standardised pixels; data and settings as for `localmim-swin-base`.

    Expect: 84.0 % top-1 after fine-tuning, 1.0 GPU-hours an epoch (paper); not reproduced here.
    """
    method = LocalMIMSwinConfig(encoder=_SWIN, target="pixels")
    return replace(localmim_swin_base(), method=method)


def localmim_swin_large() -> Recipe:
    """LocalMIM Swin-L with windows of 14 on HOG of 18 bins, bias and mask as for the base size.

    Data as for `localmim-base`. Expect: 85.6 % top-1 after fine-tuning, 1.6 GPU-hours an epoch
    (paper); not reproduced here.
    """
    encoder = replace(_SWIN, embed_dim=192, num_heads=(6, 12, 24, 48), window_size=14)
    method = LocalMIMSwinConfig(encoder=encoder, num_bins=18)
    return replace(localmim_swin_base(), method=method, epochs=800, batch_size=4096)


def mff_base() -> Recipe:
    """MFF ViT-B/16 (Liu et al., ICCV 2023), 800 epochs.

    Data: ImageNet-1k. The paper's views are crops without change of scale (resize, pad by 4, crop)
    and a mirror; here they are random crops. Tokens are decayed here and not in the release.
    Expect: 83.7 % top-1 after fine-tuning (model zoo); not reproduced here.
    """
    return Recipe(
        method=MFFConfig(encoder=BASE),
        optim=OptimConfig(base_lr=1.5e-4, warmup_epochs=40),
        augment=AugmentConfig(rotate=False, min_area=0.8, max_ratio=1.0),
        epochs=800,
        batch_size=4096,
        precision="bf16",
    )


def mff_base_300() -> Recipe:
    """MFF ViT-B/16 for 300 epochs; data and views as for `mff-base`.

    Expect: 83.0 % top-1 after fine-tuning (model zoo); not reproduced here.
    """
    return replace(mff_base(), epochs=300)


def mff_small() -> Recipe:
    """MFF ViT-S/16, whose results the paper reports; sizes inferred, settings those of ViT-B.

    Data and views as for `mff-base`. Expect: 1.2 points more than MAE after fine-tuning (abstract);
    not reproduced here.
    """
    return replace(mff_base(), method=MFFConfig(encoder=SMALL))


def hi_end_mae_tiny() -> Recipe:
    """Hi-End-MAE in 2-D with an encoder of 1.2 million parameters, for two CPU cores.

    Data: a few hundred tiles of 64 pixels or more, any bands. One pass over 400 tiles takes about
    10 seconds of one core, those of `localmim/tiny` and `mff/tiny` 8 and 5.
    """
    return Recipe(
        method=HiEndMAEConfig(encoder=_ENCODER, decoder=_DECODER),
        optim=OptimConfig(base_lr=8e-3, warmup_epochs=1),
        augment=AugmentConfig(min_area=0.8, max_ratio=1.0),
        image_size=(64, 64),
        epochs=8,
        batch_size=32,
    )


def localmim_tiny() -> Recipe:
    """LocalMIM on HOG with the encoder of `hi-end-mae/tiny`, for two CPU cores.

    Data and time as there. Patches of 4 pixels leave single pixels at the finest published scale,
    so it is left out.
    """
    method = LocalMIMConfig(encoder=_ENCODER, decoder=_DECODER, scales=(2.0, 1.0, 0.5))
    return replace(hi_end_mae_tiny(), method=method)


def localmim_swin_tiny() -> Recipe:
    """LocalMIM on HOG with a Swin of three stages and half a million parameters, for two CPU cores.

    Data as for `hi-end-mae/tiny`.
    """
    method = LocalMIMSwinConfig(encoder=_SWIN_TINY, decoder=_DECODER)
    return replace(hi_end_mae_tiny(), method=method)


def mff_tiny() -> Recipe:
    """MFF with the encoder of `hi-end-mae/tiny`, for two CPU cores; data and time as there."""
    return replace(hi_end_mae_tiny(), method=MFFConfig(encoder=_ENCODER, decoder=_DECODER))


RECIPES: dict[str, Callable[[], Recipe]] = {
    "hi-end-mae-large": hi_end_mae_large,
    "hi-end-mae-large-16": hi_end_mae_large_16,
    "hi-end-mae-base": hi_end_mae_base,
    "hi-end-mae/tiny": hi_end_mae_tiny,
    "localmim-small": localmim_small,
    "localmim-base": localmim_base,
    "localmim-large": localmim_large,
    "localmim/tiny": localmim_tiny,
    "localmim-swin-base": localmim_swin_base,
    "localmim-swin-base-pixels": localmim_swin_base_pixels,
    "localmim-swin-large": localmim_swin_large,
    "localmim-swin/tiny": localmim_swin_tiny,
    "mff-small": mff_small,
    "mff-base": mff_base,
    "mff-base-300": mff_base_300,
    "mff/tiny": mff_tiny,
}
