"""Small GeoTIFFs that look like scenes of a sensor, for tests of curation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin


def scene_pixels(seed: int, num_bands: int = 3, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """Return (c, h, w) uint16 that Landsat 8 could have seen: 0.06 to 0.2 reflectance."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(num_bands, size[0] // 8 + 1, size[1] // 8 + 1))
    smooth = np.kron(coarse, np.ones((8, 8)))[:, : size[0], : size[1]]
    noise = rng.normal(size=(num_bands, *size))
    return np.clip(10_000 + 1200 * smooth + 60 * noise, 1000, 20_000).astype(np.uint16)


def write_scene(
    path: Path,
    pixels: np.ndarray,
    *,
    bands: tuple[str, ...] | None = ("B2", "B3", "B4"),
    crs: str | None = "EPSG:32621",
    origin: tuple[float, float] = (700_000.0, 7_200_000.0),
    nodata: float | None = None,
) -> Path:
    """Write a tiled GeoTIFF of 30 m pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    num_bands, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=num_bands,
        height=height,
        width=width,
        dtype=pixels.dtype,
        crs=crs,
        transform=from_origin(*origin, 30, 30),
        nodata=nodata,
        compress="deflate",
    ) as dataset:
        dataset.write(pixels)
        if bands is not None:
            dataset.descriptions = bands
    return path


def write_archive(folder: Path, num_scenes: int = 4, size: tuple[int, int] = (64, 64)) -> Path:
    """Write scenes that lie 3 km apart, each another picture."""
    for number in range(num_scenes):
        origin = (700_000.0 + 3000 * number, 7_200_000.0)
        write_scene(folder / f"scene{number}.tif", scene_pixels(number, size=size), origin=origin)
    return folder
