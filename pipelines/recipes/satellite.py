"""Recipes for overhead images that fit a small machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...core.methods import DecoderConfig, EncoderConfig, MAEConfig, SelectiveMAEConfig
from ...core.training.optim import OptimConfig
from ...domains.satellite.augment import AugmentConfig
from ..recipe import Recipe

_ENCODER = EncoderConfig(embed_dim=128, depth=4, num_heads=4, patch_size=4)
_DECODER = DecoderConfig(dim=64, depth=2, num_heads=4)
_SCENE_ENCODER = EncoderConfig(embed_dim=192, depth=6, num_heads=3, patch_size=8)
_SCENE_DECODER = DecoderConfig(dim=96, depth=2, num_heads=4)
# Short runs learn more from views at the scale at which features are read later.
_VIEWS = AugmentConfig(min_area=0.8, max_ratio=1.0)


def selectivemae_tiny() -> Recipe:
    """SelectiveMAE with an encoder of 0.8 million parameters, for two CPU cores.

    Data: a few thousand tiles of 64 pixels or more, any bands. Time: `mimkit doctor --recipe
    satellite/selectivemae-tiny` predicts it. Patches are small because a run of minutes learns from
    pixels that are near each other: with patches of 8 pixels the loss hardly falls.
    """
    return Recipe(
        method=SelectiveMAEConfig(encoder=_ENCODER, decoder=_DECODER),
        # The rule multiplies by batch / 256 and by r / m: the peak is 1e-3.
        optim=OptimConfig(base_lr=0.0272, warmup_epochs=6),
        augment=_VIEWS,
        image_size=(64, 64),
        epochs=60,
        batch_size=32,
    )


def mae_tiny() -> Recipe:
    """MAE with the encoder of `satellite/selectivemae-tiny`, to compare with."""
    recipe = selectivemae_tiny()
    return replace(
        recipe,
        method=MAEConfig(encoder=_ENCODER, decoder=_DECODER),
        optim=replace(recipe.optim, base_lr=8e-3),
    )


def selectivemae_pixels_tiny() -> Recipe:
    """SelectiveMAE on raw pixels, whose reconstructions can be shown and scored as they are.

    Without standardised targets a patch's mean and contrast have to be guessed as well, so pictures
    and errors need nothing from the truth.
    """
    recipe = selectivemae_tiny()
    method = SelectiveMAEConfig(encoder=_ENCODER, decoder=_DECODER, mask_ratio=0.75, norm_pix=False)
    return replace(recipe, method=method)


def selectivemae_scenes() -> Recipe:
    """SelectiveMAE for classes of whole scenes, with an encoder of 2.7 million parameters.

    Data: a few thousand photographs or tiles, read at 64 pixels. Time: about ten seconds an epoch
    of 2100 images on one CPU core. Larger patches than in `satellite/selectivemae-tiny` leave only
    64 tokens, so a quarter of them is seen instead of 15 %: nine tokens lie too far apart to learn
    from in a run of minutes.
    """
    method = SelectiveMAEConfig(
        encoder=_SCENE_ENCODER, decoder=_SCENE_DECODER, mask_ratio=0.75, predict_ratio=0.5
    )
    return Recipe(
        method=method,
        # The rule multiplies by batch / 256 and by r / m: the peak is 2e-3.
        optim=OptimConfig(base_lr=0.024, warmup_epochs=4),
        augment=AugmentConfig(min_area=0.6, max_ratio=1.0),
        image_size=(64, 64),
        epochs=40,
        batch_size=32,
    )


def mae_scenes() -> Recipe:
    """MAE with the encoder of `satellite/selectivemae-scenes`, to compare with."""
    recipe = selectivemae_scenes()
    return replace(
        recipe,
        method=MAEConfig(encoder=_SCENE_ENCODER, decoder=_SCENE_DECODER),
        optim=replace(recipe.optim, base_lr=0.016),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "satellite/selectivemae-tiny": selectivemae_tiny,
    "satellite/mae-tiny": mae_tiny,
    "satellite/selectivemae-pixels-tiny": selectivemae_pixels_tiny,
    "satellite/selectivemae-scenes": selectivemae_scenes,
    "satellite/mae-scenes": mae_scenes,
}
