"""Image files of any format, size and grid, for tests of readers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin

CRS = "EPSG:32629"


def noise(*shape: int, dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    """Return numbers from 1 to 249."""
    return np.random.default_rng(seed).integers(1, 250, shape).astype(dtype)


def write(path: Path, pixels: np.ndarray, metres: float = 10.0, **options: Any) -> Path:
    """Write a file; `bands` describes, `mask` is an internal mask, the rest is rasterio's."""
    count, height, width = pixels.shape
    names, mask = options.pop("bands", None), options.pop("mask", None)
    given = {"driver": "GTiff", "crs": CRS, "transform": from_origin(5e5, 6e6, metres, metres)}
    options = given | {"dtype": pixels.dtype} | options
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", count=count, height=height, width=width, **options) as dataset,
    ):
        warnings.simplefilter("ignore")
        dataset.write(pixels)
        if mask is not None:
            dataset.write_mask(mask)
        if names is not None:
            dataset.descriptions = names
    return path
