"""What a reader hands over: pixels as stored, where they are valid, and which rows they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Samples:
    """A batch of samples in the store's own number type.

    Attributes:
        pixels: (b, c, *s) in the stored dtype; scale and offset are not applied.
        valid: (b, *s) bool, True where there is data; None means that all of it is valid.
        rows: (b,) int64, row of each sample in its store.
    """

    pixels: np.ndarray
    valid: np.ndarray | None
    rows: np.ndarray

    def __post_init__(self) -> None:
        """Check that the three arrays belong together."""
        expected = (self.pixels.shape[0], *self.pixels.shape[2:])
        if self.pixels.ndim < 3 or (self.valid is not None and self.valid.shape != expected):
            shape = None if self.valid is None else self.valid.shape
            raise ValueError(f"pixels {self.pixels.shape} and valid {shape} do not fit together")
        if self.rows.shape != expected[:1]:
            raise ValueError(f"{expected[0]} samples but rows of shape {self.rows.shape}")

    def __len__(self) -> int:
        return int(self.pixels.shape[0])
