"""A large synthetic scene and a small fine-tuned model, for measuring prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.checkpoints.model_dir import save_model
from ...core.grid import Grid
from ...core.heads.task import HEAD_PART, TaskConfig, TaskModel
from ...core.methods import DecoderConfig, EncoderConfig, MAEConfig, build
from ..progress import track

BANDS = ("B2", "B3", "B4", "B5")
_CLASSES = ("water", "forest", "field", "urban")
_WINDOW, _PATCH = 128, 16
_BLOCK = 512
_PIXEL = 30.0  # metres


def write_scene(path: Path, size: int) -> Path:
    """Write a square GeoTIFF of uint16 with four bands, block by block.

    A corner is without data, as in scenes of satellites. Blocks repeat after a while, and some
    noise lies on smooth ground, so that the file is of a usual size.

    Args:
        path: file to write.
        size: pixels per side.
    """
    import rasterio
    from rasterio.windows import Window

    random = np.random.default_rng(0)
    blocks = [_block(random) for _ in range(4)]
    starts = range(0, size, _BLOCK)
    places = [(row, col) for row in starts for col in starts]
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=size,
        height=size,
        count=len(BANDS),
        dtype="uint16",
        crs="EPSG:32633",
        transform=rasterio.Affine(_PIXEL, 0.0, 300_000.0, 0.0, -_PIXEL, 6_000_000.0),
        nodata=0,
        tiled=True,
        blockxsize=_BLOCK,
        blockysize=_BLOCK,
        interleave="pixel",
        compress="deflate",
        zlevel=1,
        BIGTIFF="IF_SAFER",
    ) as dataset:
        dataset.descriptions = BANDS
        for row, col in track(places, f"write a scene of {size} x {size} pixels"):
            high, wide = min(_BLOCK, size - row), min(_BLOCK, size - col)
            pixels = blocks[(row // _BLOCK * 3 + col // _BLOCK) % len(blocks)][:, :high, :wide]
            if row + col < size // 4:
                pixels = np.zeros_like(pixels)
            dataset.write(pixels, window=Window(col, row, wide, high))  # type: ignore[call-arg]
    return path


def _block(random: np.random.Generator) -> np.ndarray:
    coarse = random.normal(size=(len(BANDS), _BLOCK // 32, _BLOCK // 32))
    smooth = np.kron(coarse, np.ones((32, 32)))
    noise = random.normal(size=smooth.shape)
    return np.clip(10_000 + 1500 * smooth + 8 * noise, 1000, 20_000).astype(np.uint16)


def write_small_model(folder: Path) -> Path:
    """Write a model directory with random weights that gives every pixel a class."""
    torch.manual_seed(0)
    encoder = EncoderConfig(embed_dim=64, depth=2, num_heads=2, patch_size=_PATCH)
    config = MAEConfig(encoder=encoder, decoder=DecoderConfig(dim=32, depth=1, num_heads=2))
    method = build(config, Grid.for_image((_WINDOW, _WINDOW), _PATCH, len(BANDS)))
    task = TaskConfig(
        task="segment", classes=_CLASSES, image_size=(_WINDOW, _WINDOW), dim=32, stem_dim=8
    )
    model = TaskModel(method.encoder, task)
    save_model(
        folder,
        method,
        config,
        normaliser=_normaliser(),
        recipe="seed: 0\n",
        data={},
        extra={"task": task},
        parts={HEAD_PART: model.head},
    )
    return folder


def _normaliser() -> dict[str, Any]:
    each = {"scale": 2e-5, "offset": -0.1, "mean": 0.1, "std": 0.03, "low": 0.0, "high": 0.3}
    numbers = {name: [value] * len(BANDS) for name, value in each.items()}
    known = {"domain": "satellite", "sensor": "landsat8-oli", "units": "reflectance"}
    return {**known, **numbers, "bands": list(BANDS), "nodata": 0.0}
