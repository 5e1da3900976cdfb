"""What `mimkit curate ct` can be told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ...core.errors import UsageError
from .base import CurateBase


@dataclass(frozen=True, kw_only=True)
class CurateCtConfig(CurateBase):
    """Turn CT volumes into a store for training: scan, cut, divide by patient, pack.

    Every volume, label file and crop becomes a row of OUT/manifest.parquet, kept or rejected with
    its reason; OUT/card.json sums up. A killed run continues when the same command is given again.
    """

    sources: tyro.conf.Positional[tuple[Path, ...]]
    """Files and folders with volumes: NIfTI, NRRD, DICOM series; folders of nnU-Net and the
    Medical Segmentation Decathlon are read as they are."""

    size: tuple[int, int, int] = (32, 96, 96)
    """Voxels of a crop along depth (towards the head), height (back) and width (left)."""
    stride: tuple[int, int, int] | None = None
    """Largest distance of two crops in voxels; left out: the size. Crops cover the body evenly."""
    spacing: tuple[float, float, float] | None = None
    """Resample to mm along depth, height and width (images linearly, labels to the nearest voxel);
    left out: volumes keep their own, and crops of several spacings share the store."""
    window: tuple[float, float] = (-175.0, 250.0)
    """Hounsfield units that the network sees; the store keeps all of them."""
    max_spacing: float = 10.0
    """Largest distance of slices or pixels in mm."""

    min_body: float = 0.3
    """Least share of a crop that is body; air around it is neither seen nor predicted."""
    min_foreground: float = 0.0
    """Least share of a crop whose class is not background, in volumes with labels."""
    min_contrast: float = 2.0
    """Least standard deviation of a crop's body in HU, within the window."""

    labels: Literal["auto", "none"] = "auto"
    """`none` takes no labels, for pre-training on data sets with different classes."""
    masks: tuple[str, ...] = ()
    """Glob patterns of label files, such as "*_gtv.nii.gz"; left out: *mask*, *seg*, *label* and
    what nnU-Net and Decathlon folders hold."""
    mask_classes: tuple[str, ...] = ()
    """NUMBER=NAME for each label; left out: what dataset.json, labels.json or the file says."""
    segments: tuple[str, ...] = ()
    """Names of the segments wanted from RTSTRUCT, SEG and .seg.nrrd, where segments overlap."""

    patients: Path | None = None
    """CSV table with columns file and patient, and split for official parts; left out: the
    header's patient, else the folder, else the file."""
    allow_identified: bool = False
    """Take files whose headers may tell who the patient is; names are never stored anyway."""

    def __post_init__(self) -> None:
        """Check that the settings make sense.

        Raises:
            UsageError: naming field, value and fix.
        """
        super().__post_init__()
        self.names()

    def checks(self) -> list[tuple[str, Any, bool, str]]:
        """Return (field, value, whether it is fine, remedy) of every number with limits."""
        low, high = self.window
        return [
            *super().checks(),
            ("size", self.size, min(self.size) >= 4, "use at least 4 voxels along each axis"),
            ("stride", self.stride, min(self.stride or (1,)) >= 1, "use at least 1"),
            ("spacing", self.spacing, min(self.spacing or (1.0,)) > 0, "use mm above 0"),
            ("window", self.window, low < high, "give its lower end first, such as -175 250"),
            ("max_spacing", self.max_spacing, self.max_spacing > 0, "use mm above 0"),
            ("min_contrast", self.min_contrast, self.min_contrast >= 0, "use 0 or more"),
            self.share("min_body"),
            self.share("min_foreground"),
        ]

    def names(self) -> tuple[tuple[int, str], ...]:
        """Return the numbers and names of labels that were given.

        Raises:
            UsageError: for a pair that is not NUMBER=NAME.
        """
        return named_numbers(self.mask_classes)


def named_numbers(pairs: Iterable[str]) -> tuple[tuple[int, str], ...]:
    """Return the numbers and names of pairs NUMBER=NAME, sorted.

    Raises:
        UsageError: for a pair that is none.
    """
    names: dict[int, str] = {}
    for pair in pairs:
        number, separator, name = pair.partition("=")
        if not separator or not number.strip().isdigit() or not name.strip():
            raise UsageError("mask_classes", f"{pair!r} is not NUMBER=NAME", "write 1=tumour")
        names[int(number)] = name.strip()
    return tuple(sorted(names.items()))
