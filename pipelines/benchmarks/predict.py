"""Peak memory and speed of `mimkit predict` on a scene that does not fit into it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from ...core.errors import UserError
from ..progress import say
from .config import FULL_SCENE, BenchmarkConfig
from .memory import in_child, peak_resident, resident
from .scene import BANDS, write_scene, write_small_model
from .table import Goal, Table

MOST = 2e9  # bytes


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Predict a synthetic scene in a process of its own and watch its memory.

    Raises:
        UserError: when the process fails; it says why on its own.
    """
    size = config.scene_size
    with tempfile.TemporaryDirectory(prefix="mimkit-benchmark-") as folder:
        scene = write_scene(Path(folder) / "scene.tif", size)
        model = write_small_model(Path(folder) / "model")
        stored = scene.stat().st_size
        words = ["predict", str(scene), "--model", str(model), "--out", f"{folder}/map.tif"]
        words += ["--device", str(device), "--num-threads", str(torch.get_num_threads())]
        say(f"predict: {size} x {size} pixels in a process of its own")
        seconds, peak, before = in_child(run_verb, words)
    full = size == FULL_SCENE
    goal = Goal("peak memory below 2 GB", f"{peak / 1e9:.2f} GB", peak < MOST)
    smaller = f"QUICK LOOK with {size} pixels per side; the goal is stated for {FULL_SCENE}."
    return Table(
        "Predict: memory on a large scene" + ("" if full else f", only {size} x {size} pixels"),
        (
            {
                "pixels": size * size,
                "scene as numbers, MB": size * size * len(BANDS) * 2 / 1e6,
                "scene as file, MB": stored / 1e6,
                "peak memory, MB": peak / 1e6,
                "of it before it starts, MB": before / 1e6,
                "s": seconds,
                "million pixels/s": size * size / seconds / 1e6,
            },
        ),
        (goal,) if full else (),
        (
            *(() if full else (smaller,)),
            f"{len(BANDS)} bands of uint16; a small model (ViT 64 wide, 2 deep, patch 16, windows "
            "of 128 px, overlap 25%) that gives every pixel a class; the map is a compressed, "
            "cloud-optimised GeoTIFF with overviews.",
            "The peak is that of the whole process, Python and its libraries included.",
        ),
    )


def run_verb(words: list[str]) -> tuple[float, int, int]:
    """Run a command line in this process.

    Returns:
        seconds, peak bytes of the process, bytes that it held before.

    Raises:
        UserError: when the exit code is not 0.
    """
    from ..cli import main

    before, start = resident(), time.perf_counter()
    code = main(words)
    seconds = time.perf_counter() - start
    if code:
        raise UserError(
            f"mimkit {words[0]}", f"ended with exit code {code}", "see what it printed above"
        )
    return seconds, peak_resident(), before
