"""The tile grid of a scene, and reading its tiles strip by strip.

Files are compressed in rows or blocks, so a strip of tiles is read once and cut in memory; slicing
and packing use the same reading and therefore see the same pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from ....datasets.manifest import ManifestRow
from ....datasets.readers.products import product_name
from ....datasets.readers.raster import open_scene
from ....datasets.readers.scene import Scene, Tile, data_mask
from .records import SceneFacts, SceneRef

_STRIP_BYTES = 128 << 20  # of one read


@dataclass(frozen=True)
class CutTile:
    """A tile in memory.

    Attributes:
        top: first row within the scene.
        left: first column within the scene.
        pixels: (c, size, size) in the scene's number type, 0 where there is no data.
        valid: (size, size) bool.
    """

    top: int
    left: int
    pixels: np.ndarray
    valid: np.ndarray

    def checksum(self) -> str:
        """Return a checksum of pixels and mask."""
        digest = hashlib.sha256(f"{self.pixels.dtype} {self.pixels.shape}".encode())
        digest.update(np.ascontiguousarray(self.pixels).tobytes())
        digest.update(np.packbits(self.valid).tobytes())
        return digest.hexdigest()[:32]


def tile_starts(length: int, size: int, stride: int) -> list[int]:
    """Return where tiles begin along an axis; the last one may reach over the edge."""
    starts = [0]
    while starts[-1] + size < length and starts[-1] + stride < length:
        starts.append(starts[-1] + stride)
    return starts


def open_ref(ref: SceneRef, array_spec: str | None) -> Scene:
    """Open a scene.

    Args:
        ref: which scene.
        array_spec: JSON file that describes .npy and .npz scenes without a sidecar of their own.

    Raises:
        DataError: when it cannot be opened.
    """
    source = ref.uris[0] if len(ref.uris) == 1 else list(ref.uris)
    return open_scene(source, spec=array_spec)


def read_tiles(
    scene: Scene, facts: SceneFacts, starts: Iterable[tuple[int, int]], size: int
) -> Iterator[CutTile]:
    """Read tiles in the given order; those that follow each other in a row are read together.

    Args:
        scene: open scene.
        facts: its bands and nodata.
        starts: (top, left) of tiles, sorted.
        size: pixels a side.
    """
    pixel_bytes = len(facts.names) * size * np.dtype(scene.dtype).itemsize
    most = max(size, _STRIP_BYTES // pixel_bytes)
    for top, row in groupby(starts, key=lambda start: start[0]):
        for lefts in _parts([left for _, left in row], size, most):
            width = lefts[-1] + size - lefts[0]
            strip = scene.read(top, lefts[0], size, width, bands=facts.names)
            valid = with_data(strip, facts.nodata)
            # One value for "no data", or copies would differ in what nobody sees.
            pixels = np.where(valid, strip.pixels, np.zeros((), strip.pixels.dtype))
            for left in lefts:
                cut = slice(left - lefts[0], left - lefts[0] + size)
                yield CutTile(top, left, pixels[:, :, cut], valid[:, cut])


def with_data(tile: Tile, nodata: float | None) -> np.ndarray:
    """Return where a tile has data, (h, w), when `nodata` also means that there is none."""
    if nodata is None:
        return tile.valid
    return tile.valid & data_mask(tile.pixels, [nodata] * len(tile.pixels))


def _parts(lefts: list[int], size: int, most: int) -> Iterator[list[int]]:
    """Cut a row of tiles into parts of at most `most` columns."""
    part: list[int] = []
    for left in lefts:
        if part and left + size - part[0] > most:
            yield part
            part = []
        part.append(left)
    if part:
        yield part


def scene_uri(ref: SceneRef) -> str:
    """Return the file of a scene, or what a product of several files is called."""
    if len(ref.uris) == 1:
        return ref.uris[0]
    return product_name([Path(path) for path in ref.paths])


def tile_id(ref: SceneRef, top: int, left: int) -> str:
    """Return the name of a tile, which sorts by scene, row and column."""
    return f"{ref.id}:{top:06d}:{left:06d}"


def scene_id(row: ManifestRow) -> str:
    """Return the name of the scene that a tile was cut from."""
    return row.id.rsplit(":", 2)[0]
