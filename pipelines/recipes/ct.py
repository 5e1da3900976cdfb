"""Recipes for CT volumes that fit a small machine; the published ones are `hi-end-mae-*`.

Patches are flat, (4, 8, 8) voxels, because slices of the clinic are thicker than pixels are wide:
at 3 x 1 x 1 mm such a patch is 12 x 8 x 8 mm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...core.methods import (
    DecoderConfig,
    EncoderConfig,
    HiEndMAEConfig,
    LocalMIMConfig,
    MAEConfig,
)
from ...core.training.optim import OptimConfig
from ...domains.ct.augment import VolumeAugmentConfig
from ..recipe import Recipe

_ENCODER = EncoderConfig(embed_dim=96, depth=6, num_heads=4, patch_size=(4, 8, 8))
_DECODER = DecoderConfig(dim=48, depth=2, num_heads=4)


def hi_end_mae_tiny() -> Recipe:
    """Hi-End-MAE with an encoder of 0.7 million parameters, for two CPU cores.

    Data: some dozens of crops of 32 x 96 x 96 voxels or more, from which views of 32 x 64 x 64 are
    cut. Time: `mimkit doctor --recipe ct/hi-end-mae-tiny` predicts it. The decoder reads blocks 4,
    3 and 1 of 6, as the published one reads 9, 6 and 3 of 12.
    """
    return Recipe(
        method=HiEndMAEConfig(encoder=_ENCODER, decoder=_DECODER),
        # The rule multiplies by batch / 256: the peak is 1e-3.
        optim=OptimConfig(base_lr=0.032, warmup_epochs=4),
        augment=VolumeAugmentConfig(),
        image_size=(32, 64, 64),
        epochs=40,
        batch_size=8,
    )


def mae_tiny() -> Recipe:
    """MAE with the encoder, the decoder's width and the views of `ct/hi-end-mae-tiny`.

    Its decoder has four blocks, about as many parameters as the five of Hi-End-MAE's, of which
    three also read the encoder.
    """
    method = MAEConfig(encoder=_ENCODER, decoder=replace(_DECODER, depth=4))
    return replace(hi_end_mae_tiny(), method=method)


def localmim_tiny() -> Recipe:
    """LocalMIM with the encoder of `ct/hi-end-mae-tiny`: three layers reconstruct at three scales.

    Histograms of gradients are defined for pictures only, so the targets are voxels: cells of half
    a patch, a patch, and regions of two patches a side.
    """
    method = LocalMIMConfig(
        encoder=_ENCODER,
        decoder=replace(_DECODER, depth=1),
        target="pixels",
        scales=(2.0, 1.0, 0.5),
    )
    return replace(hi_end_mae_tiny(), method=method)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "ct/hi-end-mae-tiny": hi_end_mae_tiny,
    "ct/localmim-tiny": localmim_tiny,
    "ct/mae-tiny": mae_tiny,
}
