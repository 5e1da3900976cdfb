"""What a reader hands over: pixels as stored, where they are valid, and which rows they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNLABELLED = 255
"""Value of a label that is not known; the largest one that uint8 holds."""


@dataclass(frozen=True)
class Sample:
    """One sample on its way into a store.

    Attributes:
        pixels: (c, *s) in the store's dtype.
        valid: (*s) bool, True where there is data; None means that all of it is valid.
        labels: (*s) uint8 class of every pixel, 255 where it is not known; None means nowhere.
        regions: (*s) uint8 class of every pixel in a map of regions, 0 the background; None means
            that there is no map.
    """

    pixels: np.ndarray
    valid: np.ndarray | None = None
    labels: np.ndarray | None = None
    regions: np.ndarray | None = None


@dataclass(frozen=True)
class Samples:
    """A batch of samples in the store's own number type.

    Attributes:
        pixels: (b, c, *s) in the stored dtype; scale and offset are not applied.
        valid: (b, *s) bool, True where there is data; None means that all of it is valid.
        rows: (b,) int64, row of each sample in its store.
        labels: (b, *s) uint8, class of every pixel, 255 where it is not known; None without labels.
        regions: (b, *s) uint8, class of every pixel in a map of regions, 0 the background; None
            where the store has no such maps.
    """

    pixels: np.ndarray
    valid: np.ndarray | None
    rows: np.ndarray
    labels: np.ndarray | None = None
    regions: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check that the arrays belong together."""
        expected = (self.pixels.shape[0], *self.pixels.shape[2:])
        for name in ("valid", "labels", "regions"):
            mask = getattr(self, name)
            if self.pixels.ndim < 3 or (mask is not None and mask.shape != expected):
                shape = None if mask is None else mask.shape
                raise ValueError(f"pixels {self.pixels.shape} and {name} {shape} do not fit")
        if self.rows.shape != expected[:1]:
            raise ValueError(f"{expected[0]} samples but rows of shape {self.rows.shape}")

    def __len__(self) -> int:
        return int(self.pixels.shape[0])
