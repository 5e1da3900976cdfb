"""What a report was made with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from .blocks import Facts

_LIBRARIES = ("torch", "numpy", "timm", "zarr", "rasterio", "scikit-learn")


def environment() -> Facts:
    """Return versions of this package, of Python and of the libraries that shape results."""
    import torch

    from mimkit import __version__

    pairs = [
        ("mimkit", __version__),
        ("Python", platform.python_version()),
        *((name, _version(name)) for name in _LIBRARIES),
        ("machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
    ]
    if torch.cuda.is_available():
        pairs.append(("GPU", torch.cuda.get_device_name()))
    return Facts(tuple(pairs))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
