"""The table of methods: a configuration and the function that composes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..errors import UsageError
from ..grid import Grid
from ..method import Method
from .config import DecoderConfig, EncoderConfig
from .mae import PUBLISHED_DECODER as MAE_DECODER
from .mae import MAEConfig, mae
from .selectivemae import PUBLISHED_DECODER as SELECTIVE_DECODER
from .selectivemae import PUBLISHED_IGNORED as SELECTIVE_IGNORED
from .selectivemae import SelectiveMAEConfig, selectivemae

__all__ = [
    "METHODS",
    "DecoderConfig",
    "EncoderConfig",
    "MAEConfig",
    "MethodConfig",
    "MethodSpec",
    "SelectiveMAEConfig",
    "build",
    "spec",
]

MethodConfig = MAEConfig | SelectiveMAEConfig


@dataclass(frozen=True)
class MethodSpec:
    """What the suite knows about a method.

    Args:
        config: class of its configuration.
        compose: function of (configuration, grid) that returns the method.
        decoder_names: prefix of a published parameter name -> prefix of ours, for all that is not
            part of the encoder; encoder names are timm's on both sides.
        ignored_names: prefixes of published tensors that the published forward never reads.
        source: where it was published.
    """

    config: type
    compose: Callable[..., Method]
    decoder_names: Mapping[str, str]
    ignored_names: tuple[str, ...] = field(default=())
    source: str = ""


METHODS: dict[str, MethodSpec] = {
    "mae": MethodSpec(MAEConfig, mae, MAE_DECODER, (), "He et al., CVPR 2022"),
    "selectivemae": MethodSpec(
        SelectiveMAEConfig,
        selectivemae,
        SELECTIVE_DECODER,
        SELECTIVE_IGNORED,
        "Wang et al., ICCV 2025",
    ),
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
    """Compose the method that a configuration describes."""
    return spec(config.name).compose(config, grid)
