"""Classes back on the map: a fine-tuned model over scenes of any size, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Float, UInt8

from ..core.batch import Batch
from ..core.heads.task import LoadedTask, load_task
from ..core.training.engine_parts import Precision, arithmetic
from ..datasets.errors import DataError
from ..datasets.readers.raster import SceneSource
from ..domains.domain import Normaliser
from .efficiency import resolve_device
from .geotiff import NODATA, MapSpec, MapWriter, class_colours, writing_map
from .progress import say
from .scenes import (
    ModelScene,
    WindowConfig,
    check_windows,
    find_scenes,
    for_each_scene,
    model_normaliser,
    open_for_model,
    output_paths,
)
from .tiling import Line, Score, Tiling

_PROBABILITY_STEPS = 250


@dataclass(frozen=True, kw_only=True)
class PredictConfig(WindowConfig):
    """Predict classes for scenes and write them as cloud-optimised GeoTIFF.

    The map has the scene's own grid: same position, same pixels, 255 where the scene has no data.
    """

    scenes: tyro.conf.Positional[tuple[Path, ...]]
    """Raster files, or folders of them (also products with one file per band)."""
    model: Path
    """Fine-tuned model directory (`RUN/model` of `mimkit finetune`)."""
    out: Path
    """NAME.tif for one scene; a folder of maps for one or several."""
    probabilities: bool = False
    """Also write NAME.probabilities.tif with one band per class."""
    precision: Precision = "fp32"
    """Number type of the forward pass; bf16 is faster on GPUs and changes scores slightly."""


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
        UsageError: for a model without a task head, other bands, or impossible settings.
        DataError: when scenes could not be predicted.
    """
    scenes = find_scenes(config.scenes)
    targets = output_paths(scenes, config.out)
    if config.num_threads is not None:
        torch.set_num_threads(max(config.num_threads, 1))
    task = load_task(config.model, device=resolve_device(config.device))
    check_sizes(config, task)

    def work(scene: SceneSource, target: Path) -> MapSummary:
        return _announced(predict_scene(task, scene, target, config))

    return for_each_scene(scenes, targets, work)


def check_sizes(config: PredictConfig, task: LoadedTask) -> tuple[int, int]:
    """Return (window, overlap) in pixels.

    Raises:
        UsageError: for sizes that cannot be used.
    """
    return check_windows(config, task.model.encoder.grid.patch, task.config.image_size)


def predict_scene(
    task: LoadedTask, source: SceneSource | Path, out: str | Path, config: PredictConfig
) -> MapSummary:
    """Predict one scene and write its map; nothing is at `out` unless it is complete.

    Args:
        task: the fine-tuned model.
        source: what `open_scene` takes.
        out: GeoTIFF to write.
        config: sizes and precision; its scenes and out are not read.

    Raises:
        UsageError: when the scene lacks bands of the model.
        DataError: when it cannot be read, holds numbers of another kind, or no valid pixel.
    """
    began, out = time.monotonic(), Path(out)
    domain, normaliser = model_normaliser(config.model, task.normaliser)
    with open_for_model(source, domain, normaliser) as scene:
        score = make_score(task, normaliser, config.precision)
        counts = _write(task, scene, score, out, config)
        pixels = scene.scene.geometry.height * scene.scene.geometry.width
    known = int(counts.sum())
    shares = {n: int(c) / known for n, c in zip(task.config.classes, counts, strict=True)}
    probabilities = probabilities_path(out) if config.probabilities else None
    return MapSummary(out, probabilities, shares, known / pixels, pixels, time.monotonic() - began)


def probabilities_path(out: Path) -> Path:
    """Return where the probabilities of a map go."""
    return out.with_name(f"{out.stem}.probabilities.tif")


def make_score(task: LoadedTask, normaliser: Normaliser, precision: Precision = "fp32") -> Score:
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
        with arithmetic(device, precision):
            scores = task.model(batch)
        if scores.ndim == 2:
            scores = scores[:, :, None, None].expand(-1, -1, *valid.shape[1:])
        return scores.float().cpu().numpy()

    return score


def _write(
    task: LoadedTask, scene: ModelScene, score: Score, out: Path, config: PredictConfig
) -> np.ndarray:
    """Predict a scene into its files; returns the pixels of each class."""
    names, found = task.config.classes, scene.scene
    counts = np.zeros(len(names), np.int64)
    tags = {"CLASSES": ",".join(names), "MODEL": str(config.model), "SOURCE": found.uri}
    tags |= {f"CLASS_{number}": name for number, name in enumerate(names)}
    geometry = found.geometry
    tiling = Tiling(geometry.height, geometry.width, *check_sizes(config, task))
    spec = MapSpec(geometry, colours=class_colours(names), tags=tags)
    soft = MapSpec(geometry, names, scale=(1 / _PROBABILITY_STEPS,), tags=tags)
    with _both(out, spec, soft if config.probabilities else None) as (classes, probabilities):
        for line in scene.lines(tiling, score, len(names), config, "predict"):
            winners = line.scores.argmax(0).astype(np.uint8)
            winners[~line.valid] = NODATA
            counts += np.bincount(winners.ravel(), minlength=256)[: len(names)]
            classes.write(line.row, line.col, winners[None])
            if probabilities is not None:
                probabilities.write(line.row, line.col, quantised(line))
        if not counts.any():
            raise DataError(
                found.uri,
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
