"""A fine-tuned model over one CT volume of any size: from its file to labels on the file's grid.

A volume is read as curation reads it (turned, resampled, body found), so that the network sees what
it was trained on. Labels come back to the voxels of the file: by turning where the model kept the
volume's spacing, by interpolated masks where it was resampled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16, Shaped, UInt8
from torch import Tensor

from ...core.batch import Batch
from ...core.errors import UsageError
from ...core.heads.sliding import Place, Score, Windows, slide
from ...core.heads.task import LoadedTask, load_task
from ...core.training.engine_parts import Precision, arithmetic
from ...datasets.errors import DataError
from ...datasets.label_map import LabelMap, same_grid, segments_of
from ...datasets.volume_geometry import VolumeGeometry, corner_indices
from ...datasets.volumes import Volume, resample
from ...domains.ct.body import bounding_box, regions_of
from ...domains.ct.curate.records import VolumeRef
from ...domains.ct.curate.volumes import Loaded, ReadParams, VolumeRejectedError, load
from ...domains.ct.normalise import Normaliser
from ..efficiency import resolve_device
from ..progress import track
from ..scenes import model_normaliser

Keep = Literal["body", "all", "largest"]
DOMAIN = "ct"
_MOST_SPACING = 20.0  # mm; what lies further apart is refused as no CT at all


@dataclass(frozen=True, kw_only=True)
class SlidingConfig:
    """How a volume is walked; changes speed and memory, and results by little."""

    window: tuple[int, ...] | None = None
    """Voxels per axis of a window; the size that the model was trained on when not given."""
    overlap: float = 0.5
    """Share of a window that it has in common with the next one, 0 to 0.9."""
    batch_size: int = 1
    """Windows per forward pass; changes results by rounding only."""
    memory_mb: int = 4096
    """Memory for the scores of a line of windows; what does not fit is walked in strips, which
    compute the windows between them twice."""
    skip_air: bool = True
    """Leave out windows without any body; they are background."""
    keep: Keep = "body"
    """Which labels stay. body: those inside of the body, whose voxels alone the network sees. all:
    also those in the air around it. largest: of each structure, only its largest connected part
    inside of the body, for structures that are there once."""
    precision: Precision = "fp32"
    """Number type of the forward pass; bf16 is faster on GPUs and changes scores slightly."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` or `auto` (cuda when there is one)."""
    num_threads: int | None = None
    """CPU threads; torch's own choice when not given."""


@dataclass(frozen=True)
class VolumeModel:
    """A fine-tuned model of CT volumes.

    Args:
        path: its directory.
        task: encoder, head and what they answer.
        normaliser: how it reads voxels: window, spacing, orientation.
    """

    path: Path
    task: LoadedTask
    normaliser: Normaliser

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, background first."""
        return self.task.config.classes

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.task.model.parameters()).device

    @property
    def read_params(self) -> ReadParams:
        """How volumes are read; small ones are padded, and headers with names are nobody else's."""
        return ReadParams(
            spacing=self.normaliser.spacing,
            window=self.normaliser.window,
            size=(1, 1, 1),
            max_spacing=_MOST_SPACING,
            allow_identified=True,
            segments=(),
            names=(),
        )


@lru_cache(maxsize=1)
def open_model(directory: Path, device: str) -> VolumeModel:
    """Open a fine-tuned model for volumes; the last one stays in memory.

    Raises:
        UsageError: for a model without a head, of another domain, or one that gives no class to
            each voxel.
        WeightsError: when it cannot be read.
    """
    task = load_task(directory, device=resolve_device(device))
    _, normaliser = model_normaliser(directory, task.normaliser)
    if not isinstance(normaliser, Normaliser):
        reason = f"is a model of {normaliser.domain} images"
        raise UsageError(directory, reason, "give one that was fine-tuned on CT volumes")
    if task.config.task != "segment" or len(task.config.image_size) != 3:
        reason = "gives no class to each voxel of a volume"
        raise UsageError(directory, reason, "fine-tune on a 3-D store with labels of voxels")
    return VolumeModel(directory, task, normaliser)


def check_sliding(config: SlidingConfig, model: VolumeModel) -> tuple[int, ...]:
    """Return the voxels per axis of a window.

    Raises:
        UsageError: for numbers that cannot be used, naming one that can.
    """
    window = config.window or model.task.config.image_size
    patch = model.task.model.encoder.grid.patch
    if len(window) != 3 or any(n < p or n % p for n, p in zip(window, patch, strict=False)):
        pairs = zip(window, patch, strict=False)
        near = tuple(max(p, round(n / p) * p) for n, p in pairs) if len(window) == 3 else patch
        reason = f"is not a multiple of the patch {patch} on every axis"
        raise UsageError(f"window {window}", reason, f"use {' '.join(map(str, near))}")
    if not 0 <= config.overlap <= 0.9:
        raise UsageError(f"overlap {config.overlap}", "is outside of 0 to 0.9", "use 0.5")
    for name in ("batch_size", "memory_mb", "num_threads"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UsageError(f"{name} {value}", "is below 1", "use 1 or more")
    return tuple(window)


def read_volume(model: VolumeModel, ref: VolumeRef) -> Loaded:
    """Read a volume as curation did, without labels.

    Raises:
        DataError: when it cannot be read, or is no CT.
    """
    try:
        return load(replace(ref, labels=None), model.read_params)
    except VolumeRejectedError as rejected:
        remedy = "give a CT volume in Hounsfield units"
        raise DataError(ref.uri, rejected.reason, remedy) from rejected


def segment(model: VolumeModel, loaded: Loaded, config: SlidingConfig, label: str) -> LabelMap:
    """Return the class of every voxel, on the grid of the volume's file.

    Args:
        model: fine-tuned model.
        loaded: the volume.
        config: windows.
        label: what is shown with the progress.
    """
    window = check_sliding(config, model)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    windows = Windows(loaded.voxels.shape, window, config.overlap)
    volume = _as_tensor(loaded.voxels), _as_tensor(loaded.body)

    def read(place: Place) -> Int16[Tensor, "2 d h w"]:
        # Beyond the volume there is no body, and what is no body is no input.
        parts = [windows.cut(part, place).to(torch.int16) for part in volume]
        return torch.cat(parts)

    slabs = slide(
        windows,
        read,
        make_score(model, config.precision),
        len(model.classes),
        batch_size=config.batch_size,
        skip=(lambda x: not bool(x[1].any())) if config.skip_air else None,
        budget=config.memory_mb * 2**20,
        device=model.device,
    )
    found = np.zeros(loaded.voxels.shape, np.uint8)
    for slab in track(slabs, label, len(windows.starts[0])):
        found[slab.place] = slab.winners().cpu().numpy()
    clear(found, loaded.body, config.keep)
    made = Volume(found, loaded.volume.geometry)
    volume_labels = on_grid(made, loaded.opened.geometry)
    names = dict(enumerate(model.classes))
    return LabelMap(volume_labels, segments_of(volume_labels.array, names))


def clear(labels: UInt8[np.ndarray, "d h w"], body: Bool[np.ndarray, "d h w"], keep: Keep) -> None:
    """Make background in place of labels that are not to stay; voxels that touch are connected."""
    from scipy import ndimage

    if keep == "all":
        return
    labels[~body] = 0
    if keep == "body":
        return
    boxes: list[Any] = ndimage.find_objects(labels)
    for number, box in enumerate(boxes, start=1):
        if box is not None:
            here = labels[box]  # a view
            parts, num = regions_of(here == number, corners=True)
            sizes = np.bincount(parts.ravel(), minlength=num + 1)
            sizes[0] = 0
            here[(here == number) & (parts != sizes.argmax())] = 0


def make_score(model: VolumeModel, precision: Precision) -> Score:
    """Return the function from windows (stored numbers and body) to class scores of voxels."""
    task, normaliser, device = model.task.model, model.normaliser, model.device

    @torch.inference_mode()
    def score(windows: Shaped[Tensor, "b 2 d h w"]) -> Float[Tensor, "b k d h w"]:
        moved = windows.to(device)
        stored, body = moved[:, :1], moved[:, 1].bool()
        batch = Batch(normaliser(stored, body), body, torch.arange(len(moved), device=device))
        with arithmetic(device, precision):
            return task(batch)

    return score


def on_grid(labels: Volume, grid: VolumeGeometry) -> Volume:
    """Return labels on the grid of a file, which is theirs up to axes, or another one.

    On another grid a voxel gets the class with the largest share when masks are interpolated
    linearly. The nearest voxel would shift everything by up to a quarter of a voxel where the
    ratio of spacings puts centres half-way between two others.
    """
    turned = labels.turned_like(grid)
    if turned is not None and same_grid(turned.geometry, grid):
        return Volume(turned.array, grid)
    winner = np.zeros(grid.shape, labels.array.dtype)
    best, rest = np.zeros(grid.shape, np.float32), np.ones(grid.shape, np.float32)
    for number in np.unique(labels.array[labels.array > 0]):
        mask = labels.with_array((labels.array == number).astype(np.float32))
        found = _part_with(mask, grid)
        if found is None:
            continue
        part, near = found
        share = resample(near, grid.crop([s.start for s in part], winner[part].shape)).array
        rest[part] -= share
        wins = share > best[part]
        winner[part][wins] = number
        best[part][wins] = share[wins]
    winner[rest >= best] = 0
    return Volume(winner, grid)


def _part_with(mask: Volume, grid: VolumeGeometry) -> tuple[tuple[slice, ...], Volume] | None:
    """Return the part of a grid that a mask reaches, and the mask there; None if there is none."""
    box = bounding_box(mask.array > 0)
    assert box is not None
    sides = list(zip(box, mask.array.shape, strict=True))
    low = [max(start - 1, 0) for (start, _), _ in sides]
    high = [min(start + length + 1, n) for (start, length), n in sides]
    near = mask.crop(low, [h - a for a, h in zip(low, high, strict=True)])
    corners = corner_indices(near.geometry.shape)
    outer = np.where(corners > 0, corners + 0.5, corners - 0.5)
    places = grid.voxel(near.geometry.world(outer))
    first = np.maximum(np.floor(places.min(0)).astype(int), 0)
    last = np.minimum(np.ceil(places.max(0)).astype(int) + 1, grid.shape)
    if (first >= last).any():
        return None
    return tuple(slice(int(a), int(e)) for a, e in zip(first, last, strict=True)), near


def millilitres(labels: LabelMap) -> dict[str, float]:
    """Return the volume of every structure."""
    array: UInt8[np.ndarray, "i j k"] = labels.volume.array
    counts = np.bincount(array.ravel(), minlength=256)
    voxel = labels.geometry.voxel_volume / 1000
    return {segment.name: float(counts[segment.value]) * voxel for segment in labels.segments}


def _as_tensor(array: np.ndarray) -> Shaped[Tensor, "1 d h w"]:
    return torch.from_numpy(np.ascontiguousarray(array))[None]
