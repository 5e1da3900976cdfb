"""Products of several files: what they are called together and what their metadata file says."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from .names import band_file

_ENTRY = re.compile(r'^\s*([A-Z][A-Z0-9_]*)\s*=\s*"?([^"\n]*?)"?\s*$', re.MULTILINE)
_MAX_BYTES = 1 << 20


def product_name(paths: Sequence[Path]) -> str:
    """Return what a product is called: the beginning of all its files, or their folder."""
    parts = [band_file(path) for path in paths]
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    names = {part.product if part else "" for part in parts}
    name = names.pop() if len(names) == 1 else ""
    return str(folder / name) if name else str(folder)


def product_tags(path: Path) -> dict[str, str]:
    """Return what the metadata file (MTL.txt) beside a band of a Landsat product says.

    Args:
        path: file of any of its bands.

    Returns:
        Entries such as SUN_ELEVATION and RADIANCE_MULT_BAND_1; none when there is no such file.
    """
    parts = band_file(path)
    beside = path.with_name(f"{parts.product}_MTL.txt") if parts and parts.product else None
    if beside is None or not beside.is_file():
        return {}
    with beside.open(encoding="utf-8", errors="replace") as stream:
        text = stream.read(_MAX_BYTES)
    return {k: v for k, v in _ENTRY.findall(text) if k not in ("GROUP", "END_GROUP")}
