"""Small curated stores, for tests of everything that comes after curation."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from tiny_scenes import scene_pixels, write_scene

from mimkit.pipelines.cli import main
from mimkit.pipelines.curate.run import CurateConfig, run

BANDS = ("B2", "B3", "B4")
GROUP = "landsat8-oli-3x32x32-uint16"


def curate_tiny(
    folder: Path, *, masks: bool = False, classes: bool = False, num_scenes: int = 6
) -> Path:
    """Curate scenes of 64 pixels into tiles of 32, four a scene, and return the folder.

    Args:
        folder: where scenes and store go.
        masks: give dense labels: class "bright" where a scene is brighter than its median, else
            "dark"; a strip is unlabelled.
        classes: give each scene a class, "even" or "odd", that its brightness tells.
        num_scenes: scenes, 3 km apart; parts are drawn by scene.
    """
    scenes = folder / "scenes"
    for number in range(num_scenes):
        pixels = scene_pixels(number)
        if classes:
            pixels = (pixels * (1.0 if number % 2 else 0.6)).astype(np.uint16)
        origin = (700_000.0 + 3000 * number, 7_200_000.0)
        write_scene(scenes / f"scene{number}.tif", pixels, origin=origin)
        if masks:
            mean = pixels.astype(float).mean(axis=0)
            bright = (mean > np.median(mean)).astype(np.uint8) + 1
            bright[:, :4] = 0
            write_scene(
                folder / "masks" / f"scene{number}.tif", bright[None], bands=None, origin=origin
            )
    options: dict[str, object] = {}
    if masks:
        options = {"masks": str(folder / "masks"), "mask_classes": ("1=dark", "2=bright")}
    if classes:
        options["labels"] = str(_table(folder / "classes.csv", num_scenes))
    run(
        CurateConfig(
            sources=(scenes,),
            out=folder / "store",
            sensor="landsat8-oli",
            bands=BANDS,
            size=32,
            split="table" if classes else "scene",
            fractions=(0.5, 0.25, 0.25),
            workers=0,
            **options,  # type: ignore[arg-type]
        )
    )
    return folder / "store"


def _table(path: Path, num_scenes: int) -> Path:
    parts = ["train", "train", "val", "val", "test", "test"]
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "class", "split"])
        for number in range(num_scenes):
            kind = "odd" if number % 2 else "even"
            table.writerow([f"scene{number}.tif", kind, parts[number % len(parts)]])
    return path


TINY = [
    *("--image-size", "32", "32", "--epochs", "3", "--batch-size", "4", "--seed", "3"),
    *("--optim.warmup-epochs", "1", "--efficiency.num-threads", "1", "--efficiency.log-every", "1"),
    *("--optim.base-lr", "0.0272", "--method.encoder.patch-size", "4"),
    *("--method.encoder.embed-dim", "16", "--method.encoder.depth", "2"),
    *("--method.encoder.num-heads", "2", "--method.decoder.dim", "16"),
    *("--method.decoder.depth", "1", "--method.decoder.num-heads", "2"),
]
"""Options that make any of the small recipes train in a second."""


def pretrain_tiny(store: Path, out: Path, *options: str) -> Path:
    """Pre-train a tiny encoder through the command line and return the folder of the run."""
    words = ["pretrain", "--data", str(store), "--out", str(out), *TINY, *options]
    assert main(words) == 0
    return out


def finetune_tiny(model: Path, store: Path, out: Path, *options: str) -> Path:
    """Fine-tune a tiny model through the command line and return the folder of the run."""
    words = ["finetune", "--model", str(model), "--data", str(store), "--out", str(out)]
    words += ["--epochs", "3", "--batch-size", "4", "--optim.warmup-epochs", "1"]
    words += ["--dim", "16", "--stem-dim", "8", "--efficiency.num-threads", "1"]
    assert main([*words, *options]) == 0
    return out
