"""Recipes of methods whose decoders read several layers of the encoder.

Views: the papers crop at random (area 0.2 to 1) and mirror; quarter turns are left out where they
are left out there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...core.methods import DecoderConfig, EncoderConfig, HiEndMAEConfig
from ...core.methods.config import BASE
from ...core.training.optim import OptimConfig
from ...domains.satellite.augment import AugmentConfig
from ..recipe import Recipe

_ENCODER = EncoderConfig(embed_dim=128, depth=8, num_heads=4, patch_size=4)
_DECODER = DecoderConfig(dim=64, depth=1, num_heads=4)


def hi_end_mae_large() -> Recipe:
    """Hi-End-MAE ViT of 12 blocks, width 1536, patches of 12 voxels (Tang et al., 2025, released).

    Data: ten thousand CT scans, crops of 96 voxels at 1.5 mm. Hardware: 4 GPUs with 192 crops each
    in the released example. The published rate is 1e-4 whatever the batch is; the crops by
    foreground, quarter turns in three planes and changes of intensity are not part of the recipe.
    """
    encoder = EncoderConfig(embed_dim=1536, depth=12, num_heads=16, patch_size=12)
    decoder = DecoderConfig(dim=528, depth=2, num_heads=16)
    return Recipe(
        method=HiEndMAEConfig(encoder=encoder, decoder=decoder),
        optim=OptimConfig(base_lr=1e-4 * 256 / 768, warmup_epochs=10),
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


def hi_end_mae_tiny() -> Recipe:
    """Hi-End-MAE in 2-D with an encoder of 1.6 million parameters, for two CPU cores.

    Data: a few hundred tiles of 64 pixels or more, any bands. Twelve passes over 500 tiles show
    whether the loss falls, no more; `mimkit doctor` predicts the time.
    """
    return Recipe(
        method=HiEndMAEConfig(encoder=_ENCODER, decoder=_DECODER),
        optim=OptimConfig(base_lr=8e-3, warmup_epochs=2),
        augment=AugmentConfig(min_area=0.8, max_ratio=1.0),
        image_size=(64, 64),
        epochs=12,
        batch_size=32,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "hi-end-mae-large": hi_end_mae_large,
    "hi-end-mae-large-16": hi_end_mae_large_16,
    "hi-end-mae-base": hi_end_mae_base,
    "hi-end-mae/tiny": hi_end_mae_tiny,
}
