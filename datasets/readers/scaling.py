"""From stored numbers to physical ones, in integers wherever slope and intercept allow it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped


def scaled_dtype(stored: np.dtype, slope: float, intercept: float, bits: int = 0) -> np.dtype:
    """Return the smallest number type that holds `slope * stored + intercept` without loss.

    Whole slopes and intercepts keep integers; with any other, or real numbers, it is float32, or
    float64 for stored float64.

    Args:
        stored: number type of the file.
        slope: factor.
        intercept: summand.
        bits: how many bits of an integer are in use (DICOM's BitsStored); 0 means all.
    """
    if (slope, intercept) == (1.0, 0.0) and (not bits or bits == stored.itemsize * 8):
        return stored.newbyteorder("=")
    if stored.kind == "f" or not (float(slope).is_integer() and float(intercept).is_integer()):
        return np.dtype(np.float64 if stored == np.float64 else np.float32)
    ends = [value * int(slope) + int(intercept) for value in _range(stored, bits)]
    names = ("int16", "int32", "int64") if stored.itemsize > 1 or min(ends) < 0 else ("uint8",)
    for name in (*names, "int16", "int32", "int64"):
        limits = np.iinfo(name)
        if limits.min <= min(ends) and max(ends) <= limits.max:
            return np.dtype(name)
    return np.dtype(np.float64)


def _range(stored: np.dtype, bits: int) -> tuple[int, int]:
    bits = bits or stored.itemsize * 8
    if stored.kind == "i":
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return 0, (1 if stored.kind == "b" else 2**bits - 1)


def scaled(
    array: Shaped[np.ndarray, "*n"], slope: float, intercept: float, dtype: np.dtype
) -> Shaped[np.ndarray, "*n"]:
    """Return `slope * array + intercept` in the type that `scaled_dtype` chose.

    The array given is overwritten when it has that type already.
    """
    result = array.astype(dtype, copy=False)
    if slope != 1.0:
        result *= dtype.type(slope)
    if intercept != 0.0:
        result += dtype.type(intercept)
    return result
