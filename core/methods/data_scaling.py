"""Data scaling: SimMIM with a SwinV2 whose target is every pixel standardised by its surroundings.

Xie et al., "On Data Scaling in Masked Image Modeling", CVPR 2023, arXiv 2206.04664; SwinV2: Liu et
al., CVPR 2022. Composition: SimMIM's with SwinV2 and `LocalNormTarget`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..encoders.swin import SwinConfig
from ..grid import Grid
from ..method import Method
from ..targets.local_norm import LocalNormTarget
from .simmim import full_grid, unit_mask
from .spec import MethodSpec
from .swin_weights import SWIN_IGNORED, SWIN_NAMES, infer_swin, prepare_swin

_WINDOW = 12  # cells per side in all published runs


@dataclass(frozen=True, kw_only=True)
class DataScalingConfig:
    """SimMIM with SwinV2 and a locally normalised target (Xie et al., CVPR 2023)."""

    name: Literal["data-scaling"] = "data-scaling"
    """Name of the method."""
    encoder: SwinConfig = field(
        default_factory=lambda: SwinConfig(
            version=2, window_size=_WINDOW, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)
        )
    )
    """The encoder, kept after pre-training."""
    mask_ratio: float = 0.6
    """Share of the units that are hidden and predicted, rounded up."""
    mask_unit: int = 1
    """Tokens per side of a unit that is hidden as a whole."""
    target_window: int = 47
    """Pixels per side of the surroundings that standardise a pixel; odd."""
    noise_floor: float = 1e-2
    """Pixels whose surroundings deviate less (in units of the normalised image) carry no weight."""
    as_published: bool = False
    """Reproduce the released code: every pixel trained on, the count a float's ceiling."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0


def data_scaling(config: DataScalingConfig, grid: Grid) -> Method:
    """Compose the method for a grid of any rank."""
    floor = 0.0 if config.as_published else config.noise_floor
    target = LocalNormTarget(noise_floor=floor, window=config.target_window)
    mask = unit_mask(grid, config.mask_ratio, config.mask_unit, as_published=config.as_published)
    return full_grid("data-scaling", config.encoder, grid, mask, target)


def _infer(state: Mapping[str, Tensor], **heads: int | None) -> DataScalingConfig:
    del heads  # the scale of logits is per head, so shapes tell their number
    return DataScalingConfig(encoder=infer_swin(state, patch_size=None, window_size=_WINDOW))


SPEC = MethodSpec(
    DataScalingConfig,
    data_scaling,
    "Xie et al., CVPR 2023",
    SWIN_NAMES,
    ignored=SWIN_IGNORED,
    prepare=prepare_swin,
    infer=_infer,
)
