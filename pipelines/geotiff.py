"""Maps as cloud-optimised GeoTIFF: tiled, compressed, with overviews, complete or not there.

Rows arrive while a scene is predicted, but the layout of a cloud-optimised file (overviews first)
is only known at the end. They go to a plain tiled file in a hidden folder beside the target, GDAL
copies that into the final layout, and the result is renamed. A killed run leaves nothing under the
target's name, and the next one removes the hidden folder.
"""

from __future__ import annotations

import colorsys
import math
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from ..core.files import sync
from ..datasets.geometry import Geometry

NODATA = 255
BLOCKS = (512, 256, 128, 64)
_BLOCK_BYTES = 4 << 20

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
        names: description of each band; there are as many bands.
        colours: palette of a single band by value, None for continuous values.
        dtype: number type; nodata is 255 of uint8 and NaN of float32.
        scale: factor from stored to real values, one for all bands or one each.
        offset: summand after scaling, likewise.
        tags: text stored with the file.
    """

    geometry: Geometry
    names: Sequence[str] = ("class",)
    colours: Mapping[int, tuple[int, int, int, int]] | None = None
    dtype: Literal["uint8", "float32"] = "uint8"
    scale: Sequence[float] = (1.0,)
    offset: Sequence[float] = (0.0,)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def nodata(self) -> float:
        """Stored number that means "no data"."""
        return NODATA if self.dtype == "uint8" else math.nan

    @property
    def block(self) -> int:
        """Pixels a side of a stored block, which holds all bands and is read as a whole."""
        pixel = len(self.names) * np.dtype(self.dtype).itemsize
        fitting = (side for side in BLOCKS if side * side * pixel <= _BLOCK_BYTES)
        return next(fitting, BLOCKS[-1])


class MapWriter:
    """Takes the windows of a map in any order; made by `writing_map`."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def write(self, row: int, col: int, values: Shaped[np.ndarray, "b h w"]) -> None:
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

    from ..datasets.readers.gdal import gdal_options

    target = Path(path)
    folder = target.parent / f".{target.name}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with gdal_options(GDAL_PAM_ENABLED=False), _unplaced():
            with rasterio.open(folder / "rows.tif", "w", **_profile(spec)) as dataset:
                _describe(dataset, spec)
                yield MapWriter(dataset)
                _add_overviews(dataset, spec)
            _to_cog(folder / "rows.tif", folder / "map.tif", spec)
        sync(folder / "map.tif")
        (folder / "map.tif").replace(target)
        sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _unplaced() -> Iterator[None]:
    """Be silent about maps without a position: whoever gave the scene has heard it already."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _profile(spec: MapSpec) -> dict[str, Any]:
    from affine import Affine

    return {
        "driver": "GTiff",
        "width": spec.geometry.width,
        "height": spec.geometry.height,
        "count": len(spec.names),
        "dtype": spec.dtype,
        "nodata": spec.nodata,
        "crs": spec.geometry.crs,
        "transform": Affine(*spec.geometry.transform),
        "tiled": True,
        "blockxsize": spec.block,
        "blockysize": spec.block,
        "interleave": "band",  # blocks of one band are finished by themselves
        "compress": "deflate",
        "zlevel": 1,  # this file lives until the copy only
        "sparse_ok": True,
        "bigtiff": "if_safer",
    }


def _describe(dataset: Any, spec: MapSpec) -> None:
    for number, name in enumerate(spec.names, start=1):
        dataset.set_band_description(number, name)
    for numbers, name in ((spec.scale, "scales"), (spec.offset, "offsets")):
        each = tuple(numbers) * (len(spec.names) if len(numbers) == 1 else 1)
        setattr(dataset, name, each)
    dataset.update_tags(**spec.tags)
    if spec.colours is not None:
        dataset.write_colormap(1, dict(spec.colours))


def _add_overviews(dataset: Any, spec: MapSpec) -> None:
    """Make overviews until one is a single block; the copy takes them over.

    The copy could make them itself, but with all bands in one block it would compress each block
    once for every band.
    """
    from rasterio.enums import Resampling

    longest = max(spec.geometry.height, spec.geometry.width)
    count = math.ceil(math.log2(max(longest / spec.block, 1)))
    # The mode keeps class numbers; averaging them would invent classes.
    resampling = Resampling.average if spec.colours is None else Resampling.mode
    if count:
        dataset.build_overviews([2**level for level in range(1, count + 1)], resampling)


def _to_cog(source: Path, target: Path, spec: MapSpec) -> None:
    from rasterio.shutil import copy

    copy(
        source,
        target,
        driver="COG",
        compress="deflate",
        predictor="yes",
        blocksize=spec.block,
        overviews="auto",
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
