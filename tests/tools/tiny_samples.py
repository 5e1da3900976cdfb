"""A folder like that of the satellite sample data, with a few small synthetic scenes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import simplejpeg
from tiny_scenes import scene_pixels, write_scene

CLASSES = ("Field", "Forest")
SCALES = ("1", "2")
NUM_TRAIN, NUM_TEST = 8, 4  # images of each class and scale


def write_samples(folder: Path) -> Path:
    """Write the sample folder and return it."""
    write_photographs(folder / "satellite" / "rsscn7_128")
    write_cloud_scenes(folder / "satellite" / "cloudmask")
    scene = folder / "satellite" / "landsat8_oli_crop" / "scene.tif"
    write_scene(scene, scene_pixels(5, size=(1152, 192)))
    return folder


def write_photographs(folder: Path) -> None:
    """Write photographs whose brightness tells the class, and their table."""
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    rows = []
    for number, (kind, scale) in enumerate((k, s) for k in CLASSES for s in SCALES):
        for place in range(NUM_TRAIN + NUM_TEST):
            name = f"images/{'ab'[CLASSES.index(kind)]}{number * 100 + place:03d}.jpg"
            coarse = random.normal(size=(16, 16, 3)) * 30 + 90 + 60 * CLASSES.index(kind)
            pixels = np.kron(coarse, np.ones((8, 8, 1))) + random.normal(size=(128, 128, 3)) * 5
            image = np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8))
            (folder / name).write_bytes(simplejpeg.encode_jpeg(image, quality=90))
            rows.append((name, kind, scale, "train" if place < NUM_TRAIN else "test"))
    with (folder / "index.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "class", "scale", "split"), *rows])


def write_cloud_scenes(folder: Path) -> None:
    """Write two scenes of six bands with a mask: dark squares are shadow, bright ones cloud."""
    folder.mkdir(parents=True)
    for number, sensor in enumerate(("landsat5", "sentinel2")):
        random = np.random.default_rng(number)
        kinds = np.kron(random.choice([0, 1, 3, 4], size=(4, 16)), np.ones((32, 32)))
        level = np.array([0.05, 0.1, 0.0, 0.2, 0.5])[kinds.astype(int)]
        image = level[..., None] + random.normal(size=(*kinds.shape, 6)) * 0.02
        np.savez(
            folder / f"{sensor}.npz",
            img=image.astype(np.float32),
            msk=kinds[..., None].astype(np.uint8),
        )
