"""Maps as cloud-optimised GeoTIFF: tiled, compressed, with overviews, complete or not there.

Rows arrive while a scene is predicted, but the layout of a cloud-optimised file (overviews first)
is only known at the end. They go to a plain tiled file in a hidden folder beside the target, GDAL
copies that into the final layout, and the result is renamed. A killed run leaves nothing under the
target's name, and the next one removes the hidden folder.
"""

from __future__ import annotations

import colorsys
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..core.files import sync
from ..datasets.geometry import Geometry

NODATA = 255
BLOCK = 512
CACHE_MB = 128

_KNOWN_COLOURS: tuple[tuple[tuple[str, ...], tuple[int, int, int]], ...] = (
    (("shadow",), (64, 64, 96)),
    (("cloud",), (240, 240, 255)),
    (("snow", "ice"), (200, 235, 255)),
    (("water", "river", "lake", "sea", "flood"), (38, 110, 200)),
    (("forest", "tree", "wood"), (20, 110, 45)),
    (("crop", "field", "agri", "farm"), (222, 200, 70)),
    (("grass", "meadow", "pasture", "vegetation"), (130, 190, 80)),
    (("urban", "built", "develop", "city", "resident"), (200, 60, 60)),
    (("industr",), (150, 70, 150)),
    (("bare", "soil", "sand", "rock", "desert"), (190, 150, 110)),
)


@dataclass(frozen=True)
class MapSpec:
    """What a map file holds.

    Args:
        geometry: position and size.
        num_bands: bands of 8 bits.
        names: description of each band.
        colours: palette of a single band by value, None for continuous values.
        scale: factor from stored to real values.
        tags: text stored with the file.
    """

    geometry: Geometry
    num_bands: int = 1
    names: Sequence[str] = ("class",)
    colours: Mapping[int, tuple[int, int, int, int]] | None = None
    scale: float = 1.0
    tags: Mapping[str, str] = field(default_factory=dict)


class MapWriter:
    """Takes the windows of a map in any order; made by `writing_map`."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def write(self, row: int, col: int, values: UInt8[np.ndarray, "b h w"]) -> None:
        """Write a window; what is never written is nodata."""
        from rasterio.windows import Window

        self._dataset.write(values, window=Window(col, row, values.shape[2], values.shape[1]))  # type: ignore[call-arg]


@contextmanager
def writing_map(path: str | Path, spec: MapSpec) -> Iterator[MapWriter]:
    """Open a map for writing; it appears at `path` when the block ends without an error.

    Args:
        path: target; an existing file is replaced at the end.
        spec: what it holds.
    """
    import rasterio

    target = Path(path)
    folder = target.parent / f".{target.name}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE_MB, GDAL_PAM_ENABLED=False):
            with rasterio.open(folder / "rows.tif", "w", **_profile(spec)) as dataset:
                _describe(dataset, spec)
                yield MapWriter(dataset)
            _to_cog(folder / "rows.tif", folder / "map.tif", spec)
        sync(folder / "map.tif")
        (folder / "map.tif").replace(target)
        sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _profile(spec: MapSpec) -> dict[str, Any]:
    from affine import Affine

    return {
        "driver": "GTiff",
        "width": spec.geometry.width,
        "height": spec.geometry.height,
        "count": spec.num_bands,
        "dtype": "uint8",
        "nodata": NODATA,
        "crs": spec.geometry.crs,
        "transform": Affine(*spec.geometry.transform),
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "zlevel": 1,  # this file lives until the copy only
        "sparse_ok": True,
        "bigtiff": "if_safer",
    }


def _describe(dataset: Any, spec: MapSpec) -> None:
    for number, name in enumerate(spec.names, start=1):
        dataset.set_band_description(number, name)
    dataset.scales = (spec.scale,) * spec.num_bands
    dataset.update_tags(**spec.tags)
    if spec.colours is not None:
        dataset.write_colormap(1, dict(spec.colours))


def _to_cog(source: Path, target: Path, spec: MapSpec) -> None:
    from rasterio.shutil import copy

    # Mode and nearest keep class numbers; averaging them would invent classes.
    resampling = "average" if spec.colours is None else "mode"
    copy(
        source,
        target,
        driver="COG",
        compress="deflate",
        predictor="yes",
        blocksize=BLOCK,
        overviews="auto",
        overview_resampling=resampling,
        bigtiff="if_safer",
        num_threads="2",
    )


def class_colours(names: Sequence[str]) -> dict[int, tuple[int, int, int, int]]:
    """Return a palette: usual map colours where a name is known, distinct hues otherwise.

    The nodata value is transparent.
    """
    colours: dict[int, tuple[int, int, int, int]] = {}
    for number, name in enumerate(names):
        matches = [c for words, c in _KNOWN_COLOURS if any(w in name.lower() for w in words)]
        colour = matches[0] if matches else _hue(number)
        if (*colour, 255) in colours.values():
            colour = _hue(number)
        colours[number] = (*colour, 255)
    colours[NODATA] = (0, 0, 0, 0)
    return colours


def _hue(number: int) -> tuple[int, int, int]:
    # Steps of the golden ratio keep any number of hues apart.
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1.0, 0.65, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)
