"""What `mimkit curate` can be told about satellite scenes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ...core.errors import UsageError
from .base import CurateBase


@dataclass(frozen=True, kw_only=True)
class CurateConfig(CurateBase):
    """Turn scenes into a store for training: scan, check, slice, dedup, pack.

    Every file that was looked at becomes a row of OUT/manifest.parquet, kept or rejected with its
    reason; OUT/card.json sums up. A killed run continues when the same command is given again.
    """

    sources: tyro.conf.Positional[tuple[Path, ...]]
    """Files and folders with scenes: GeoTIFF, JPEG, PNG, .npy, .npz; also one file per band."""

    sensor: str | None = None
    """Sensor, such as landsat8-oli or sentinel2-l1c@n0400, or a YAML file; guessed if left out."""
    bands: tuple[str, ...] | None = None
    """Bands that every scene must have; left out: those that most scenes have."""
    nodata: float | None = None
    """Stored number that means "no data"; left out: what the file or the sensor says."""
    require_crs: bool = False
    """Reject scenes without a coordinate system."""
    array_spec: Path | None = None
    """JSON file that says what is in .npy and .npz files that have no such file beside them."""

    size: int = 96
    """Pixels a side of a tile."""
    stride: int | None = None
    """Pixels from one tile to the next; left out: the size, so that tiles do not overlap."""
    min_valid: float = 0.5
    """Least share of pixels with data in a tile."""
    max_cloud: float = 1.0
    """Largest share of cloud-like pixels (bright, white, hazy); 1 turns the test off."""
    min_contrast: float = 0.002
    """Least standard deviation of a tile divided by its mean; blank tiles have none."""

    labels: str | None = None
    """Class of whole files: a CSV table (file, class, optional split) or "folders"."""
    label_column: str = "class"
    """Column of the table that holds the class."""
    masks: str | None = None
    """Class per pixel: polygons (.gpkg, .geojson, .shp), a raster, a folder of rasters named like
    the scenes, a .npy array, or npz:KEY for an array in each scene's own file."""
    mask_attribute: str | None = None
    """Attribute of the polygons that holds the class; guessed when left out."""
    mask_classes: tuple[str, ...] = ()
    """VALUE=NAME for each class of a raster or array; other values are unlabelled."""

    split: Literal["geography", "scene", "table"] | None = None
    """Parts by cells on the ground, by scene, or as the table of --labels says; left out: the
    table if it has a column split, else geography."""
    cell_km: float = 10.0
    """Side of a geographic cell, which is never divided between parts."""
    buffer_km: float = 0.0
    """Least distance between train tiles and val or test tiles; 0 only forbids shared ground."""

    def __post_init__(self) -> None:
        """Check that the settings make sense.

        Raises:
            UsageError: naming field, value and fix.
        """
        super().__post_init__()
        if self.split == "table" and self.labels in (None, "folders"):
            raise UsageError("split", 'is "table" but there is no table', "name it with --labels")

    def checks(self) -> list[tuple[str, Any, bool, str]]:
        """Return (field, value, whether it is fine, remedy) of every number with limits."""
        return [
            *super().checks(),
            ("size", self.size, self.size >= 8, "use at least 8 pixels"),
            ("stride", self.stride, self.stride is None or self.stride >= 1, "use at least 1"),
            ("cell_km", self.cell_km, 0 < self.cell_km < math.inf, "use kilometres above 0"),
            ("buffer_km", self.buffer_km, 0 <= self.buffer_km < math.inf, "use 0 or more"),
            ("min_contrast", self.min_contrast, self.min_contrast >= 0, "use 0 or more"),
            self.share("min_valid"),
            self.share("max_cloud"),
        ]
