"""Recipes for overhead images that fit a small machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...core.methods import DecoderConfig, EncoderConfig, MAEConfig, SelectiveMAEConfig
from ...core.training.optim import OptimConfig
from ...domains.imaging.augment import AugmentConfig
from ..recipe import Recipe

_ENCODER = EncoderConfig(embed_dim=128, depth=4, num_heads=4, patch_size=4)
_DECODER = DecoderConfig(dim=64, depth=2, num_heads=4)
# Short runs learn more from views at the scale at which features are read later.
_VIEWS = AugmentConfig(min_area=0.8, max_ratio=1.0)


def selectivemae_tiny() -> Recipe:
    """SelectiveMAE with an encoder of 0.8 million parameters, for two CPU cores.

    Data: a few thousand tiles of 64 pixels or more, any bands. Time: `mimkit doctor --recipe
    satellite/selectivemae-tiny` predicts it. Patches are small because a run of minutes learns from
    pixels that are near each other: with patches of 8 pixels the loss hardly falls. Half of the
    tokens are predicted instead of a quarter, which teaches more per image at little cost.
    """
    return Recipe(
        method=SelectiveMAEConfig(encoder=_ENCODER, decoder=_DECODER, predict_ratio=0.5),
        # The rule multiplies by batch / 256 and by r / m: the peak is 1e-3.
        optim=OptimConfig(base_lr=0.0136, warmup_epochs=6),
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
    method = SelectiveMAEConfig(
        encoder=_ENCODER, decoder=_DECODER, mask_ratio=0.75, predict_ratio=0.5, norm_pix=False
    )
    return replace(recipe, method=method)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "satellite/selectivemae-tiny": selectivemae_tiny,
    "satellite/mae-tiny": mae_tiny,
    "satellite/selectivemae-pixels-tiny": selectivemae_pixels_tiny,
}
