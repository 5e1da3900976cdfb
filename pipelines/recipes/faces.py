"""FSFM as published, and a small one for two CPU cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...core.methods import DecoderConfig, EncoderConfig, FSFMConfig
from ...core.methods.config import BASE, LARGE, SMALL
from ...core.methods.fsfm import PooledDecoderConfig
from ...core.training.optim import OptimConfig
from ...domains.imaging.augment import AugmentConfig
from ..recipe import Recipe

_MOMENTUM = 0.996**4
_WHOLE = AugmentConfig(flip=False, rotate=False, min_area=1.0, max_ratio=1.0)


def fsfm_base() -> Recipe:
    """FSFM ViT-B/16 (Wang et al., CVPR 2025, released code).

    Data: crops of real faces with maps of regions, 3 million of VGGFace2 or 0.1 to 0.4 million of
    FaceForensics++; 400 epochs (FS-VFM, arXiv 2510.10663: 600). Hardware: 4 GPUs with 256 images
    each, four parts per update, after each of which the teacher follows: 0.996^4 of it stay in an
    update. Images are resized and not changed otherwise.
    Expect: 0.914 video AUC on Celeb-DF v2 after fine-tuning on FaceForensics++ (paper); not
    reproduced here.
    """
    return Recipe(
        method=FSFMConfig(encoder=BASE, momentum=_MOMENTUM),
        optim=OptimConfig(base_lr=1.5e-4, warmup_epochs=40, clip_grad=1.0),
        augment=_WHOLE,
        epochs=400,
        batch_size=4096,
        precision="bf16",
    )


def fsfm_small() -> Recipe:
    """FSFM ViT-S/16 with 12 heads, a size of the released code (FS-VFM); 600 epochs there."""
    encoder = replace(SMALL, num_heads=12)
    return replace(fsfm_base(), method=FSFMConfig(encoder=encoder, momentum=_MOMENTUM), epochs=600)


def fsfm_large() -> Recipe:
    """FSFM ViT-L/16, a size of the released code (FS-VFM); 600 epochs there."""
    return replace(fsfm_base(), method=FSFMConfig(encoder=LARGE, momentum=_MOMENTUM), epochs=600)


def fsfm_tiny() -> Recipe:
    """FSFM with an encoder of half a million parameters, for two CPU cores.

    Data: a few hundred crops of faces of 64 pixels or more, with maps of regions; without maps any
    token is hidden. Faces are mirrored and cropped a little, maps with them: a few hundred of them
    are learnt by heart otherwise.
    """
    encoder = EncoderConfig(embed_dim=96, depth=4, num_heads=3, patch_size=8)
    method = FSFMConfig(
        encoder=encoder,
        decoder=DecoderConfig(dim=48, depth=2, num_heads=3),
        pooled_decoder=PooledDecoderConfig(depth=1, num_heads=3),
        projection_dim=64,
        projection_hidden=256,
    )
    return Recipe(
        method=method,
        optim=OptimConfig(base_lr=8e-3, warmup_epochs=2, clip_grad=1.0),
        augment=replace(_WHOLE, flip=True, min_area=0.7, max_ratio=1.1),
        image_size=(64, 64),
        epochs=40,
        batch_size=32,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "fsfm-small": fsfm_small,
    "fsfm-base": fsfm_base,
    "fsfm-large": fsfm_large,
    "fsfm/tiny": fsfm_tiny,
}
