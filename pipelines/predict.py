"""Classes back on the map: a fine-tuned model over scenes of any size, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from ..core.batch import Batch
from ..core.errors import UsageError, UserError
from ..core.heads.task import LoadedTask, load_task
from ..datasets.errors import DataError
from ..datasets.readers.raster import Scene, discover_scenes, open_scene
from ..domains.domain import Normaliser, get_domain
from .geotiff import NODATA, MapSpec, MapWriter, class_colours, writing_map
from .progress import say, track
from .tiling import Line, Score, Tiling, blend_strip

_PROBABILITY_STEPS = 250


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Predict classes for scenes and write them as cloud-optimised GeoTIFF.

    The map has the scene's own grid: same position, same pixels, 255 where the scene has no data.
    """

    model: Path
    """Fine-tuned model directory (`RUN/model` of `mimkit finetune`)."""
    scenes: tuple[Path, ...]
    """Raster files, or folders of them (also products with one file per band)."""
    out: Path
    """Map to write for one scene; folder of maps for several."""
    probabilities: bool = False
    """Also write NAME.probabilities.tif with one band per class."""
    window: int | None = None
    """Pixels per window side; the size that the model was trained on when not given."""
    overlap: float = 0.25
    """Share of a window that it has in common with the next one, 0 to 0.75."""
    batch_size: int = 8
    """Windows per forward pass; changes speed and memory, and scores by rounding only."""
    memory_mb: int = 256
    """Memory for a line of windows; wide scenes are walked in strips that fit in it."""
    device: str = "auto"
    """`cpu`, `cuda` or `auto` (cuda when there is one)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number type of the forward pass; bf16 is faster on GPUs and changes scores slightly."""
    num_threads: int | None = None
    """CPU threads; torch's own choice when not given."""


@dataclass(frozen=True)
class MapSummary:
    """What was written.

    Args:
        path: the map.
        probabilities: the file of probabilities, if asked for.
        shares: share of the valid pixels by class name.
        valid: share of the pixels that hold data.
        pixels: pixels of the scene.
        seconds: time it took.
    """

    path: Path
    probabilities: Path | None
    shares: dict[str, float]
    valid: float
    pixels: int
    seconds: float


def run(config: PredictConfig) -> list[MapSummary]:
    """Predict all scenes; a broken one is reported and the others are still done.

    Raises:
        UsageError: for a model without a task head, other bands, or impossible sizes.
        DataError: when scenes could not be predicted.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    task = load_task(config.model, device=resolve_device(config.device))
    check_sizes(config, task)
    sources = find_scenes(config.scenes)
    if len(sources) == 1:
        return [_announced(predict_scene(task, sources[0][1], config.out, config))]
    if config.out.suffix.lower() in (".tif", ".tiff"):
        raise UsageError(
            f"--out {config.out}", f"is one file for {len(sources)} scenes", "give a folder"
        )
    done, problems = [], []
    for name, paths in sources:
        try:
            done.append(_announced(predict_scene(task, paths, config.out / f"{name}.tif", config)))
        except UserError as error:
            say(f"not predicted: {error}")
            problems.append(error)
    if problems:
        raise DataError(
            f"{len(problems)} of {len(sources)} scenes",
            f"could not be predicted, the first because {problems[0]}",
            "repair or leave them out; the maps of the others are complete",
        )
    return done


def resolve_device(name: str) -> torch.device:
    """Return the device for `cpu`, `cuda[:n]` or `auto`.

    Raises:
        UsageError: when it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}", "no CUDA device is available", "use cpu or auto")
    return torch.device(name)


def check_sizes(config: PredictConfig, task: LoadedTask) -> tuple[int, int]:
    """Return (window, overlap) in pixels.

    Raises:
        UsageError: when the patch does not divide the window, or the overlap is out of range.
    """
    window = config.window or max(task.config.image_size)
    patch = max(task.model.encoder.grid.patch)
    if window < patch or window % patch:
        near = max(patch, round(window / patch) * patch)
        raise UsageError(f"--window {window}", f"is not a multiple of patch {patch}", f"use {near}")
    if not 0.0 <= config.overlap <= 0.75:
        raise UsageError(f"--overlap {config.overlap}", "is outside of 0 to 0.75", "use 0.25")
    if config.batch_size < 1:
        raise UsageError(f"--batch-size {config.batch_size}", "is below 1", "use 1 or more")
    return window, round(window * config.overlap)


def find_scenes(paths: Sequence[Path]) -> list[tuple[str, Any]]:
    """Return (name, source for `open_scene`) of every scene in files and folders.

    Raises:
        DataError: when a path does not exist or a folder holds no scene.
    """
    found: list[tuple[str, Any]] = []
    for path in paths:
        if not path.exists():
            raise DataError(path, "does not exist", "check the path")
        if not path.is_dir():
            found.append((path.stem, path))
            continue
        inside = [(scene.id, scene.paths) for scene in discover_scenes(path)]
        if not inside:
            raise DataError(
                path, "holds no raster that can be read", "give files or another folder"
            )
        found.extend(inside)
    if not found:
        raise UsageError("SCENE", "is missing", "give at least one raster file or folder")
    return found


def predict_scene(
    task: LoadedTask, source: Any, out: str | Path, config: PredictConfig
) -> MapSummary:
    """Predict one scene and write its map; nothing is at `out` unless it is complete.

    Args:
        task: the fine-tuned model.
        source: what `open_scene` takes.
        out: GeoTIFF to write.
        config: sizes and precision; its model, scenes and out are not read.

    Raises:
        UsageError: when the scene's bands are not the model's.
        DataError: when it cannot be read or holds no valid pixel.
    """
    began = time.monotonic()
    out = Path(out)
    if out.is_dir():
        raise UsageError(f"--out {out}", "is a folder", "give the name of a .tif file in it")
    normaliser = get_domain(task.normaliser["domain"]).normaliser(task.normaliser)
    window, overlap = check_sizes(config, task)
    with open_scene(source, bands=normaliser.bands) as scene:
        normaliser.check_bands(scene.bands, scene.uri)
        if scene.geometry.crs is None:
            say(f"{scene.uri}: has no coordinate system, so the map will have none either")
        geometry = scene.geometry
        tiling = Tiling(geometry.height, geometry.width, window, overlap)
        score = make_score(task, normaliser, config.precision)
        counts = _write(task, scene, tiling, score, out, config)
    known = int(counts.sum())
    pixels = geometry.height * geometry.width
    shares = {n: int(c) / known for n, c in zip(task.config.classes, counts, strict=True)}
    probabilities = probabilities_path(out) if config.probabilities else None
    return MapSummary(out, probabilities, shares, known / pixels, pixels, time.monotonic() - began)


def probabilities_path(out: Path) -> Path:
    """Return where the probabilities of a map go."""
    return out.with_name(f"{out.stem}.probabilities.tif")


def make_score(task: LoadedTask, normaliser: Normaliser, precision: str = "fp32") -> Score:
    """Return the function from stored numbers of windows to class scores of their pixels.

    A model that classifies whole images gives its scores to all pixels of the window; blending
    turns them into a map that changes smoothly.
    """
    device = next(task.model.parameters()).device

    @torch.inference_mode()
    def score(pixels: np.ndarray, valid: np.ndarray) -> Float[np.ndarray, "b k p q"]:
        # The mask is passed even when everything is valid: with and without it attention runs other
        # kernels, and the result would depend on what shares a batch.
        mask = torch.from_numpy(valid)
        ids = torch.arange(len(pixels))
        batch = Batch(normaliser(pixels, valid), mask, ids).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            scores = task.model(batch)
        if scores.ndim == 2:
            scores = scores[:, :, None, None].expand(-1, -1, *valid.shape[1:])
        return scores.float().cpu().numpy()

    return score


def _write(
    task: LoadedTask,
    scene: Scene,
    tiling: Tiling,
    score: Score,
    out: Path,
    config: PredictConfig,
) -> np.ndarray:
    """Predict a scene into its files; returns the pixels of each class."""
    names = task.config.classes
    counts = np.zeros(len(names), np.int64)
    tags = {"CLASSES": ",".join(names), "MODEL": config.model.name, "SOURCE": scene.uri}
    tags |= {f"CLASS_{number}": name for number, name in enumerate(names)}
    spec = MapSpec(scene.geometry, colours=class_colours(names), tags=tags)
    soft = MapSpec(scene.geometry, len(names), names, None, 1 / _PROBABILITY_STEPS, tags)
    with _both(out, spec, soft if config.probabilities else None) as (classes, probabilities):
        for line in _lines(scene, tiling, score, len(names), config):
            winners = np.where(line.valid, line.scores.argmax(0), NODATA).astype(np.uint8)
            counts += np.bincount(winners.ravel(), minlength=256)[: len(names)]
            classes.write(line.row, line.col, winners[None])
            if probabilities is not None:
                probabilities.write(line.row, line.col, quantised(line))
        if not counts.any():
            raise DataError(
                scene.uri,
                "holds no valid pixel, so there is nothing to predict",
                "check its nodata value, or leave it out",
            )
    return counts


@contextmanager
def _both(
    out: Path, spec: MapSpec, soft: MapSpec | None
) -> Iterator[tuple[MapWriter, MapWriter | None]]:
    with ExitStack() as stack:
        # Left in reverse order: the map of classes appears last, when all is there.
        classes = stack.enter_context(writing_map(out, spec))
        yield (
            classes,
            stack.enter_context(writing_map(probabilities_path(out), soft)) if soft else None,
        )


def _lines(
    scene: Scene, tiling: Tiling, score: Score, num_classes: int, config: PredictConfig
) -> Iterator[Line]:
    """Yield the finished lines of a scene strip by strip, with progress."""

    def read(row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        tile = scene.read(row, col, height, width)
        return tile.pixels, tile.valid

    # Stored numbers twice (one line is read ahead), scores three times (sum, mean, working copy).
    item = np.dtype(scene.dtype).itemsize
    bytes_per_pixel = 2 * (len(scene.bands) * item + 1) + 3 * 4 * num_classes
    strips = tiling.strips(bytes_per_pixel, config.memory_mb * 2**20)

    def lines() -> Iterator[Line]:
        for strip in strips:
            yield from blend_strip(tiling, strip, read, score, num_classes, config.batch_size)

    return iter(track(lines(), f"predict {Path(scene.uri).name}", len(tiling.rows) * len(strips)))


def quantised(line: Line) -> UInt8[np.ndarray, "k h w"]:
    """Return class probabilities in steps of 1/250, nodata where the input is."""
    exponent = np.exp(line.scores - line.scores.max(0))
    steps = np.rint(exponent / exponent.sum(0) * _PROBABILITY_STEPS)
    return np.where(line.valid, steps, NODATA).astype(np.uint8)


def _announced(summary: MapSummary) -> MapSummary:
    largest = sorted(summary.shares.items(), key=lambda item: -item[1])[:5]
    shares = ", ".join(f"{name} {share:.1%}" for name, share in largest)
    say(
        f"{summary.path}: {shares}; {summary.valid:.1%} of {summary.pixels / 1e6:.1f} million "
        f"pixels hold data; {summary.seconds:.0f} s"
    )
    return summary
