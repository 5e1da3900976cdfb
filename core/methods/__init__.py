"""The table of methods: a configuration and the function that composes it."""

from __future__ import annotations

from ..errors import UsageError
from ..grid import Grid
from ..method import Method
from . import a2mim as _a2mim
from . import data_scaling as _data_scaling
from . import dmjd as _dmjd
from . import fsfm as _fsfm
from . import hi_end_mae as _hi_end_mae
from . import hpm as _hpm
from . import itpn as _itpn
from . import itpn_clip as _itpn_clip
from . import localmim as _localmim
from . import localmim_swin as _localmim_swin
from . import lut as _lut
from . import mae as _mae
from . import mff as _mff
from . import mixedae as _mixedae
from . import mto as _mto
from . import ropim as _ropim
from . import satvision_toa as _satvision_toa
from . import selectivemae as _selectivemae
from . import simmim as _simmim
from . import simmim_vit as _simmim_vit
from .a2mim import A2MIMConfig
from .config import DecoderConfig, EncoderConfig
from .data_scaling import DataScalingConfig
from .dmjd import DMJDConfig
from .fsfm import FSFMConfig
from .hi_end_mae import HiEndMAEConfig
from .hpm import HPMConfig
from .itpn import ITPNConfig
from .itpn_clip import ITPNClipConfig
from .localmim import LocalMIMConfig
from .localmim_swin import LocalMIMSwinConfig
from .lut import LUTConfig
from .mae import MAEConfig
from .mff import MFFConfig
from .mixedae import MixedAEConfig
from .mto import MTOConfig
from .ropim import RoPIMConfig
from .satvision_toa import SatVisionTOAConfig
from .selectivemae import SelectiveMAEConfig
from .simmim import SimMIMConfig
from .simmim_vit import SimMIMViTConfig
from .spec import MethodSpec

__all__ = [
    "METHODS",
    "A2MIMConfig",
    "DMJDConfig",
    "DataScalingConfig",
    "DecoderConfig",
    "EncoderConfig",
    "FSFMConfig",
    "HPMConfig",
    "HiEndMAEConfig",
    "ITPNClipConfig",
    "ITPNConfig",
    "LUTConfig",
    "LocalMIMConfig",
    "LocalMIMSwinConfig",
    "MAEConfig",
    "MFFConfig",
    "MTOConfig",
    "MethodConfig",
    "MethodSpec",
    "MixedAEConfig",
    "RoPIMConfig",
    "SatVisionTOAConfig",
    "SelectiveMAEConfig",
    "SimMIMConfig",
    "SimMIMViTConfig",
    "build",
    "spec",
]

MethodConfig = (
    A2MIMConfig
    | DMJDConfig
    | DataScalingConfig
    | FSFMConfig
    | HPMConfig
    | HiEndMAEConfig
    | ITPNClipConfig
    | ITPNConfig
    | LUTConfig
    | LocalMIMConfig
    | LocalMIMSwinConfig
    | MAEConfig
    | MFFConfig
    | MTOConfig
    | MixedAEConfig
    | RoPIMConfig
    | SatVisionTOAConfig
    | SelectiveMAEConfig
    | SimMIMConfig
    | SimMIMViTConfig
)

METHODS: dict[str, MethodSpec] = {
    row.name: row
    for row in (
        _a2mim.SPEC,
        _data_scaling.SPEC,
        _hi_end_mae.SPEC,
        _dmjd.SPEC,
        _fsfm.SPEC,
        _hpm.SPEC,
        _itpn.SPEC,
        _itpn_clip.SPEC,
        _localmim.SPEC,
        _localmim_swin.SPEC,
        _lut.SPEC,
        _mae.SPEC,
        _mff.SPEC,
        _mixedae.SPEC,
        _mto.SPEC,
        _ropim.SPEC,
        _satvision_toa.SPEC,
        _selectivemae.SPEC,
        _simmim.SPEC,
        _simmim_vit.SPEC,
    )
}


def spec(name: str) -> MethodSpec:
    """Return the table's row of a method.

    Raises:
        UsageError: for an unknown name.
    """
    if name not in METHODS:
        raise UsageError(f"method {name!r}", "is not known", f"use one of {', '.join(METHODS)}")
    return METHODS[name]


def build(config: MethodConfig, grid: Grid) -> Method:
    """Compose the method that a configuration describes.

    Raises:
        UsageError: for images of a rank that the method does not work on.
    """
    row = spec(config.name)
    if grid.ndim not in row.ranks:
        known = " or ".join(f"{rank}-D" for rank in row.ranks)
        raise UsageError(
            f"images with {grid.ndim} axes",
            f"are not what {config.name} works on ({known})",
            "choose another method, such as mae",
        )
    return row.compose(config, grid)
