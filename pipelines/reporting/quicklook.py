"""A scene and its map side by side, as a picture for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from ...core.files import replacing
from ...datasets.readers.raster import open_scene
from ...domains.domain import Normaliser, get_domain
from ..geotiff import NODATA
from .embedding import hex_colour, palette
from .pictures import overlay, shrink

_MAX_SIDE = 1600
_INCHES = 8.0  # height of the picture
_PAPER, _INK = "white", "#333338"


def scene_rgb(path: Path, normaliser: Normaliser) -> UInt8[np.ndarray, "h w 3"]:
    """Return a whole scene as a picture.

    Args:
        path: raster whose bands the normaliser knows.
        normaliser: of the model that reads it.

    Raises:
        DataError: when it cannot be read.
        UsageError: when it lacks a band.
    """
    domain = get_domain(normaliser.domain)
    with open_scene(path) as scene:
        names = domain.scene_bands(normaliser, scene.bands, path)
    with open_scene(path, bands=names) as scene:
        tile = scene.read(0, 0, scene.geometry.height, scene.geometry.width)
    images = normaliser(tile.pixels[None], tile.valid[None])
    physical = normaliser.denormalise(images)
    valid = torch.from_numpy(tile.valid[None])
    return domain.to_rgb(physical, domain.display_bands(normaliser), valid)[0]


def read_map(path: Path) -> UInt8[np.ndarray, "h w"]:
    """Return the classes of a map that `mimkit predict` wrote, 255 without data."""
    import rasterio

    with rasterio.open(path) as dataset:
        return dataset.read(1)


def write_quicklook(
    image: UInt8[np.ndarray, "h w 3"],
    classes: UInt8[np.ndarray, "h w"],
    names: Sequence[str],
    out: Path,
) -> dict[str, float]:
    """Write a PNG with the scene on the left and its map on the right.

    Args:
        image: the scene.
        classes: class of every pixel.
        names: of the classes.
        out: picture to write.

    Returns:
        share of the pixels with data by class name.
    """
    colours = palette(tuple(names))
    map_rgb = overlay(image, classes, colours, strength=0.75)
    map_rgb[classes == NODATA] = 0
    counts = np.bincount(classes[classes != NODATA], minlength=len(names))
    shares = dict(zip(names, (counts / max(counts.sum(), 1)).tolist(), strict=True))
    _draw((shrink(image, _MAX_SIDE), shrink(map_rgb, _MAX_SIDE)), colours, shares, out)
    return shares


def _draw(
    pictures: Sequence[UInt8[np.ndarray, "..."]],
    colours: Mapping[int, tuple[int, int, int]],
    shares: Mapping[str, float],
    out: Path,
) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    height, width = pictures[0].shape[:2]
    size = (2 * _INCHES * width / height, _INCHES * 1.06)
    figure = Figure(figsize=size, facecolor=_PAPER, layout="constrained")
    for axes, picture in zip(figure.subplots(1, 2), pictures, strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_axis_off()
    handles = [
        Patch(color=hex_colour(colours[number]), label=f"{name} {share:.0%}")
        for number, (name, share) in enumerate(shares.items())
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4, frameon=False, labelcolor=_INK
    )
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
