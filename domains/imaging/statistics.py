"""Counts of stored values, the only statistics that a normaliser is made of.

Counts are added without rounding, so the order of pixels, chunks and workers leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

_FLOAT_BITS = 20  # of 32: sign, 8 of the exponent, 11 of the mantissa, so steps of 0.05 %


class Statistics:
    """How often each stored value occurs in each band; adds up over workers without rounding.

    Integers of 8 and 16 bits are counted exactly. Other numbers are counted as float32 in steps of
    0.05 % of their value, which needs no range to be known beforehand (8 MB a band).

    Args:
        num_bands: number of bands.
        dtype: number type of the pixels.

    Attributes:
        counts: (num_bands, keys) int64; the keys are in the order of the values.
    """

    def __init__(self, num_bands: int, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        exact = self.dtype.kind in "iu" and self.dtype.itemsize <= 2
        bits = 8 * self.dtype.itemsize if exact else _FLOAT_BITS
        self._exact = exact
        self.counts = np.zeros((num_bands, 1 << bits), np.int64)

    def update(
        self, pixels: Shaped[np.ndarray, "b c *s"], valid: Bool[np.ndarray, "b *s"] | None = None
    ) -> None:
        """Count pixels; those that are invalid or not finite are left out.

        Args:
            pixels: stored numbers of the dtype given at the start.
            valid: bool, True where there is data.

        Raises:
            ValueError: when dtype or number of bands is another.
        """
        num_bands, num_keys = self.counts.shape
        if pixels.dtype != self.dtype or pixels.shape[1] != num_bands:
            raise ValueError(f"{pixels.dtype} with {pixels.shape[1]} bands for {self}")
        for band in range(num_bands):
            values = pixels[:, band].ravel() if valid is None else pixels[:, band][valid]
            self.counts[band] += np.bincount(self._keys(values), minlength=num_keys)

    def merge(self, other: Statistics) -> None:
        """Add the counts of another worker.

        Raises:
            ValueError: when it counted another dtype or number of bands.
        """
        if other.dtype != self.dtype or other.counts.shape != self.counts.shape:
            raise ValueError(f"{other} cannot be added to {self}")
        self.counts += other.counts

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: per band the keys that occur and their counts."""
        bands = [np.flatnonzero(row) for row in self.counts]
        pairs = [[k.tolist(), row[k].tolist()] for k, row in zip(bands, self.counts, strict=True)]
        return {"dtype": self.dtype.name, "bands": pairs}

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> Statistics:
        """Read what `to_dict` returned."""
        made = Statistics(len(plain["bands"]), plain["dtype"])
        for row, (keys, counts) in zip(made.counts, plain["bands"], strict=True):
            row[keys] = counts
        return made

    def __str__(self) -> str:
        return f"statistics of {self.counts.shape[0]} bands of {self.dtype}"

    def _keys(self, values: np.ndarray) -> np.ndarray:
        if self._exact:
            return values.astype(np.int64) - np.iinfo(self.dtype).min
        values = values.astype(np.float32)
        bits = values[np.isfinite(values)].view(np.int32)
        # Floats order like their bits; those below zero the other way round.
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        return (ordered.astype(np.int64) + (1 << 31)) >> (32 - _FLOAT_BITS)

    def values(self) -> Float[np.ndarray, " keys"]:
        """Return the stored value that each key stands for, ascending; NaN where there is none."""
        keys = np.arange(self.counts.shape[1], dtype=np.int64)
        if self._exact:
            return (keys + np.iinfo(self.dtype).min).astype(np.float64)
        step = 1 << (32 - _FLOAT_BITS)
        edges = np.stack([keys * step, keys * step + step - 1]) - (1 << 31)
        bits = edges.astype(np.int32)
        bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        with np.errstate(invalid="ignore", over="ignore"):
            middle = bits.view(np.float32).astype(np.float64).mean(axis=0)
        # Zero is by far the commonest single value and must stay zero.
        return np.where(np.abs(middle) < np.finfo(np.float32).tiny, 0.0, middle)
