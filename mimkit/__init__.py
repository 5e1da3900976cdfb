"""mimkit: masked image modeling, written once and specialised by domain.

The public names below are loaded when they are first used, so that `import mimkit` costs next to
nothing and pulls in no library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimkit.core.errors import UsageError, WeightsError
    from mimkit.core.grid import Grid
    from mimkit.core.masking.plan import MaskPlan
    from mimkit.core.method import Method, Output
    from mimkit.core.methods import MAEConfig, SelectiveMAEConfig, build
    from mimkit.datasets.errors import DataError

__version__ = "0.1.0"

# Public name -> module that defines it. A test holds this table and the imports above together.
_HOMES = {
    "DataError": "mimkit.datasets.errors",
    "Grid": "mimkit.core.grid",
    "MAEConfig": "mimkit.core.methods",
    "MaskPlan": "mimkit.core.masking.plan",
    "Method": "mimkit.core.method",
    "Output": "mimkit.core.method",
    "SelectiveMAEConfig": "mimkit.core.methods",
    "UsageError": "mimkit.core.errors",
    "WeightsError": "mimkit.core.errors",
    "build": "mimkit.core.methods",
}

__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *_HOMES})
