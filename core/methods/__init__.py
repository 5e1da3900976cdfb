"""The table of methods: a configuration and the function that composes it."""

from __future__ import annotations

from ..errors import UsageError
from ..grid import Grid
from ..method import Method
from . import mae as _mae
from . import selectivemae as _selectivemae
from .config import DecoderConfig, EncoderConfig
from .mae import MAEConfig
from .selectivemae import SelectiveMAEConfig
from .spec import MethodSpec

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

METHODS: dict[str, MethodSpec] = {
    row.name: row
    for row in (
        _mae.SPEC,
        _selectivemae.SPEC,
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
