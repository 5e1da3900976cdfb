"""Scenes for a model: found in files and folders, opened with its bands, read as it wants them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Shaped

from ..core.errors import UsageError, UserError, WeightsError
from ..datasets.errors import DataError
from ..datasets.readers.raster import Scene, SceneSource, discover_scenes, open_scene
from ..domains.domain import Domain, Normaliser, get_domain
from .progress import say, track
from .tiling import Line, Score, Tiling, blend_strip

MAP_SUFFIXES = (".tif", ".tiff")
_LOOKS = 8  # places along each axis at which a scene is looked at before it is read
_LOOK_SIZE = 32  # pixels a side of such a place

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How a scene is walked; changes speed and memory, and results by little."""

    window: int | None = None
    """Pixels per window side; the size that the model was trained on when not given."""
    overlap: float = 0.25
    """Share of a window that it has in common with the next one, 0 to 0.75."""
    batch_size: int = 8
    """Windows per forward pass; changes results by rounding only."""
    memory_mb: int = 256
    """Memory for a line of windows; wide scenes are walked in strips that fit in it."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` or `auto` (cuda when there is one)."""
    num_threads: int | None = None
    """CPU threads; torch's own choice when not given."""


def check_windows(
    config: WindowConfig, patch: Sequence[int], trained_on: Sequence[int]
) -> tuple[int, int]:
    """Return (window, overlap) in pixels; the window is a multiple of the patch.

    Args:
        config: what was asked for.
        patch: pixels per token along each axis.
        trained_on: pixels per axis of the images that the model was made for.

    Raises:
        UsageError: for numbers that cannot be used, naming one that can.
    """
    window = config.window or max(trained_on)
    step = math.lcm(*patch)
    if window < step or window % step:
        near = max(step, round(window / step) * step)
        raise UsageError(f"--window {window}", f"is not a multiple of patch {step}", f"use {near}")
    if not 0.0 <= config.overlap <= 0.75:
        raise UsageError(f"--overlap {config.overlap}", "is outside of 0 to 0.75", "use 0.25")
    for name in ("batch_size", "memory_mb", "num_threads"):
        value = getattr(config, name)
        if value is not None and value < 1:
            flag = f"--{name.replace('_', '-')} {value}"
            raise UsageError(flag, "is below 1", "use 1 or more")
    return window, round(window * config.overlap)


def model_normaliser(directory: Path, stored: Mapping[str, Any]) -> tuple[Domain, Normaliser]:
    """Return the domain of a model and its normaliser.

    Raises:
        WeightsError: when the model has none.
        UsageError: when the domain is not known.
    """
    if not stored.get("domain"):
        raise WeightsError(
            directory,
            "holds no normaliser, so pixels cannot be turned into its input",
            "write the model again from a run or with `mimkit import`",
        )
    domain = get_domain(str(stored["domain"]))
    return domain, domain.normaliser(stored)


def find_scenes(paths: Sequence[Path]) -> list[SceneSource]:
    """Return every scene in files and folders, under distinct names.

    Raises:
        UsageError: without paths, or when two scenes would have one name.
        DataError: when a path does not exist or a folder holds no scene.
    """
    if not paths:
        raise UsageError("scenes", "are missing", "give at least one raster file or folder")
    found: dict[str, SceneSource] = {}
    for path in paths:
        inside = discover_scenes(path)
        if not inside:
            hint = "give files or another folder"
            raise DataError(path, "holds no raster that can be read", hint)
        for scene in inside:
            if scene.id in found:
                both = f"{found[scene.id].uris[0]} and {scene.uris[0]}"
                hint = "do them one after the other, into different folders"
                raise UsageError(both, f"would both be written as {scene.id}.tif", hint)
            found[scene.id] = scene
    return list(found.values())


def output_paths(scenes: Sequence[SceneSource], out: Path) -> list[Path]:
    """Return the file to write for each scene: `out` itself, or one in it when it is a folder.

    Raises:
        UsageError: for one file for several scenes, a folder that looks like a file or the other
            way round, or a file that is a scene itself.
    """
    if out.suffix.lower() in MAP_SUFFIXES:
        if len(scenes) > 1:
            raise UsageError(
                f"--out {out}", f"is one file for {len(scenes)} scenes", "give a folder"
            )
        targets = [out]
    else:
        if out.is_file():
            raise UsageError(f"--out {out}", "is a file and no map", "give a folder or NAME.tif")
        targets = [out / f"{scene.id}.tif" for scene in scenes]
    inputs = {path.resolve() for scene in scenes for path in scene.paths}
    for target in targets:
        if target.is_dir():
            raise UsageError(f"--out {target}", "is a folder", "give the name of a .tif file in it")
        if target.resolve() in inputs:
            raise UsageError(f"--out {target}", "would replace a scene", "give another folder")
    return targets


def for_each_scene(
    scenes: Sequence[SceneSource],
    targets: Sequence[Path],
    work: Callable[[SceneSource, Path], T],
) -> list[T]:
    """Do something for each scene; a broken one is reported and the others are still done.

    Raises:
        UserError: what went wrong, for a single scene.
        DataError: when some of several scenes could not be done.
    """
    if len(scenes) == 1:
        return [work(scenes[0], targets[0])]
    done: list[T] = []
    problems: list[str] = []
    for scene, target in zip(scenes, targets, strict=True):
        try:
            done.append(work(scene, target))
        except (UserError, DataError) as error:
            say(f"left out: {error}")
            problems.append(str(error).rstrip("."))
    if problems:
        raise DataError(
            f"{len(problems)} of {len(scenes)} scenes",
            f"could not be done, the first because {problems[0]}",
            "repair or leave them out; what was written for the others is complete",
        )
    return done


@contextmanager
def open_for_model(
    source: SceneSource | Path, domain: Domain, normaliser: Normaliser, *, quiet: bool = False
) -> Iterator[ModelScene]:
    """Open a scene with a model's bands, in its order, whatever the file calls them.

    Args:
        source: what `open_scene` takes.
        domain: of the model.
        normaliser: of the model.
        quiet: say nothing of what is unusual, for a scene that is opened once more.

    Raises:
        UsageError: when a band is missing or ambiguous.
        DataError: when the scene cannot be read, or holds numbers of another kind.
    """
    with open_scene(source) as scene:
        names = domain.scene_bands(normaliser, scene.bands, scene.uri)
    with open_scene(source, bands=names) as scene:
        if names != normaliser.bands and not quiet:
            pairs = zip(normaliser.bands, names, strict=True)
            say(f"{scene.uri}: bands are read as {', '.join(f'{a} = {b}' for a, b in pairs)}")
        if scene.geometry.crs is None and not quiet:
            say(f"{scene.uri}: has no coordinate system, so what is written will have none either")
        normaliser.check_scale(scene.scale, scene.offset, scene.uri)
        yield ModelScene(scene, normaliser)


class ModelScene:
    """An open scene as a model sees it; made by `open_for_model`.

    Where it has data is what the file says and what the normaliser knows. Before anything is
    read, pixels from all over the scene are compared with what the normaliser was made for.

    Args:
        scene: an open scene with the normaliser's bands.
        normaliser: of the model.

    Attributes:
        scene: the open scene.
    """

    def __init__(self, scene: Scene, normaliser: Normaliser) -> None:
        self.scene, self._normaliser = scene, normaliser
        self._checked = False
        self._look()

    def read(
        self, row: int, col: int, height: int, width: int
    ) -> tuple[Shaped[np.ndarray, "c h w"], Bool[np.ndarray, "h w"]]:
        """Read a window, which may reach over the edges; returns stored numbers and validity."""
        pixels, valid = self._window(row, col, height, width)
        if not self._checked and valid.any():
            self._check(pixels[:, valid])
        return pixels, valid

    def lines(
        self, tiling: Tiling, score: Score, num_channels: int, config: WindowConfig, label: str
    ) -> Iterator[Line]:
        """Yield the finished lines of the scene strip by strip, with progress.

        Args:
            tiling: windows over the scene.
            score: vectors of the cells of a batch of windows.
            num_channels: length of a vector.
            config: memory and batch size.
            label: what is shown with the progress.
        """
        # Stored numbers and masks twice (one line is read ahead) and as float32 while they are
        # compared with "no data"; scores three times (sum, mean, working copy) and what is made of
        # them.
        channels, item = len(self.scene.bands), np.dtype(self.scene.dtype).itemsize
        pixel = 2 * (channels * (item + 1) + 1) + 4 * channels
        cell = pixel * math.prod(tiling.cell) + 12 * num_channels + 24
        strips = tiling.strips(cell, config.memory_mb * 2**20)

        def walk() -> Iterator[Line]:
            for strip in strips:
                yield from blend_strip(
                    tiling, strip, self.read, score, num_channels, config.batch_size
                )

        text = f"{label} {Path(self.scene.uri).name}"
        return iter(track(walk(), text, len(tiling.rows) * len(strips)))

    def _window(self, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        tile = self.scene.read(row, col, height, width)
        valid = self._normaliser.find_data(tile.pixels[None], tile.valid[None])[0].numpy()
        return tile.pixels, valid

    def _look(self) -> None:
        """Check the numbers at places all over the scene."""
        height, width = self.scene.geometry.height, self.scene.geometry.width
        size = min(_LOOK_SIZE, height), min(_LOOK_SIZE, width)
        places = [
            sorted({round(i * (length - side) / (_LOOKS - 1)) for i in range(_LOOKS)})
            for length, side in zip((height, width), size, strict=True)
        ]
        windows = (self._window(row, col, *size) for row in places[0] for col in places[1])
        found = np.concatenate([pixels[:, valid] for pixels, valid in windows], axis=1)
        if found.size:
            self._check(found)

    def _check(self, pixels: Shaped[np.ndarray, "c n"]) -> None:
        self._normaliser.check_values(pixels[None], None, self.scene.uri)
        self._checked = True
