"""What `mimkit curate` can be told."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ...core.errors import UsageError
from ...domains.satellite.phash import MAX_THRESHOLD

_EFFICIENCY = ("out", "workers", "scheduler", "max_broken_share")


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """Turn scenes into a store for training: scan, check, slice, dedup, pack.

    Every file that was looked at becomes a row of OUT/manifest.parquet, kept or rejected with its
    reason; OUT/card.json sums up. A killed run continues when the same command is given again.
    """

    sources: tyro.conf.Positional[tuple[Path, ...]]
    """Files and folders with scenes: GeoTIFF, JPEG, PNG, .npy, .npz; also one file per band."""
    out: Path
    """Folder of the new store."""

    sensor: str | None = None
    """Sensor, such as landsat8-oli or sentinel2-l1c@n0400, or a YAML file; guessed if left out."""
    bands: tuple[str, ...] | None = None
    """Bands that every scene must have; left out: those that most scenes have."""
    nodata: float | None = None
    """Stored number that means "no data"; left out: what the file or the sensor says."""
    require_crs: bool = False
    """Reject scenes without a coordinate system."""
    pattern: str | None = None
    """Glob pattern of the files below a source folder, such as "**/*_crop.tif"."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of paths below the source that are left out, such as "segmentation/*"."""
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

    hash_distance: int = 4
    """Largest number of differing bits, of 64, at which two tiles look the same."""
    near_duplicates: Literal["group", "drop", "keep"] = "group"
    """Look-alikes: keep them in one part, keep one of them, or only report them."""
    split: Literal["geography", "scene", "table"] | None = None
    """Parts by cells on the ground, by scene, or as the table of --labels says; left out: the
    table if it has a column split, else geography."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test."""
    cell_km: float = 10.0
    """Side of a geographic cell, which is never divided between parts."""
    buffer_km: float = 0.0
    """Least distance between train tiles and val or test tiles; 0 only forbids shared ground."""
    seed: int = 0
    """Seed of the split."""

    collection: str | None = None
    """Name of the collection, for the manifest."""
    licence: str | None = None
    """Licence of the pixels, for the manifest and the card."""

    max_broken_share: float = 0.2
    """End with exit code 1 when a larger share of the scenes is broken; all is written anyway."""
    workers: int | None = None
    """Processes; 0 or 1 works in this one; left out: as many as there are cores, for large jobs.
    The result is the same for any number."""
    scheduler: str | None = None
    """Address of a dask scheduler to use instead; its workers must see the same folders."""

    def __post_init__(self) -> None:
        """Check that the numbers make sense.

        Raises:
            UsageError: naming field, value and fix.
        """
        checks = [
            ("sources", self.sources, bool(self.sources), "name at least one file or folder"),
            ("size", self.size, self.size >= 8, "use at least 8 pixels"),
            ("stride", self.stride, self.stride is None or self.stride >= 1, "use at least 1"),
            (
                "hash_distance",
                self.hash_distance,
                0 <= self.hash_distance <= MAX_THRESHOLD,
                f"use 0 to {MAX_THRESHOLD}",
            ),
            ("cell_km", self.cell_km, 0 < self.cell_km < math.inf, "use kilometres above 0"),
            ("buffer_km", self.buffer_km, 0 <= self.buffer_km < math.inf, "use 0 or more"),
            ("min_contrast", self.min_contrast, self.min_contrast >= 0, "use 0 or more"),
            (
                "fractions",
                self.fractions,
                min(self.fractions) >= 0 and self.fractions[0] > 0,
                "use shares of train, val, test such as 0.8 0.1 0.1",
            ),
            ("workers", self.workers, self.workers is None or self.workers >= 0, "use 0 or more"),
        ]
        for name in ("min_valid", "max_cloud", "max_broken_share"):
            value = getattr(self, name)
            checks.append((name, value, 0 <= value <= 1, "use a share from 0 to 1"))
        for name, value, fine, remedy in checks:
            if not fine:
                raise UsageError(name, f"is {value!r}", remedy)
        if self.split == "table" and self.labels in (None, "folders"):
            raise UsageError("split", 'is "table" but there is no table', "name it with --labels")

    def identity(self) -> dict[str, Any]:
        """Return the settings that change results, as plain data."""
        from ...core.config_tree import to_plain

        plain: dict[str, Any] = {
            name: str(value) if isinstance(value, Path) else to_plain(value)
            for name, value in vars(self).items()
            if name not in _EFFICIENCY
        }
        plain["sources"] = [str(source.resolve()) for source in self.sources]
        return plain

    def num_workers(self, num_bytes: int) -> int:
        """Return how many processes to use for sources of so many bytes."""
        if self.workers is not None:
            return self.workers
        cores = os.cpu_count() or 1
        # Starting processes takes seconds, in which one alone reads some hundred megabytes.
        return cores if num_bytes > 512 << 20 else 1
