"""SatVision-TOA: SimMIM with a large SwinV2 on 14 bands of calibrated all-sky satellite images.

Spradlin et al., "SatVision-TOA: A Geospatial Foundation Model for Coarse-Resolution All-Sky Remote
Sensing Imagery", arXiv 2411.17000. Composition: SimMIM's with SwinV2, extra norms every sixth
block, masks of 8 pixels under an encoder with stride 32, raw values of all bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..encoders.swin import SwinConfig
from ..grid import Grid
from ..method import Method
from ..targets.pixels import PixelTarget
from .simmim import full_grid, unit_mask
from .spec import MethodSpec
from .swin_weights import SWIN_IGNORED, SWIN_NAMES, infer_swin, prepare_swin

_WINDOW, _MASK_SIZE = 8, 8  # cells and pixels per side in the released models
HUGE = SwinConfig(
    patch_size=_MASK_SIZE,
    embed_dim=352,
    depths=(2, 2, 18, 2),
    num_heads=(4, 8, 16, 32),
    window_size=_WINDOW,
    version=2,
    extra_norm_period=6,
    drop_path=0.1,
)
GIANT = SwinConfig(
    patch_size=_MASK_SIZE,
    embed_dim=512,
    depths=(2, 2, 42, 2),
    num_heads=(16, 32, 64, 128),
    window_size=_WINDOW,
    version=2,
    extra_norm_period=6,
    drop_path=0.1,
    checkpoint=True,
)


@dataclass(frozen=True, kw_only=True)
class SatVisionTOAConfig:
    """SatVision-TOA (Spradlin et al., 2024)."""

    name: Literal["satvision-toa"] = "satvision-toa"
    """Name of the method."""
    encoder: SwinConfig = HUGE
    """The encoder, kept after pre-training."""
    mask_ratio: float = 0.6
    """Share of the units that are hidden and predicted, rounded up."""
    mask_unit: int = 1
    """Tokens per side of a unit that is hidden as a whole."""
    as_published: bool = False
    """Reproduce the released code: the hidden count is the ceiling of a float with its error."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0


def satvision_toa(config: SatVisionTOAConfig, grid: Grid) -> Method:
    """Compose SatVision-TOA for a grid of any rank."""
    mask = unit_mask(grid, config.mask_ratio, config.mask_unit, as_published=config.as_published)
    return full_grid("satvision-toa", config.encoder, grid, mask, PixelTarget(norm_pix=False))


def _infer(state: Mapping[str, Tensor], **heads: int | None) -> SatVisionTOAConfig:
    del heads  # the scale of logits is per head, so shapes tell their number
    encoder = infer_swin(state, patch_size=_MASK_SIZE, window_size=_WINDOW)
    return SatVisionTOAConfig(encoder=encoder)


SPEC = MethodSpec(
    SatVisionTOAConfig,
    satvision_toa,
    "Spradlin et al., 2024",
    SWIN_NAMES,
    ignored=SWIN_IGNORED,
    prepare=prepare_swin,
    infer=_infer,
    flat_patches=True,
)
