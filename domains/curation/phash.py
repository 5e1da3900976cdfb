"""Perceptual hashes of tiles, and the search for tiles that look the same.

A tile's hash is 64 signs of low-frequency cosine coefficients of its band mean. Near-duplicates
(another processing level, another compression, a slightly other stretch) differ in a few bits;
unrelated tiles differ in about 32. Rotated, flipped or shifted copies are not found.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

_SIDE = 32  # pixels a side of the reduced image
_NUM_BITS = 64
MAX_THRESHOLD = 16  # beyond it chance agreements of unrelated tiles begin, and buckets fill up
_PAIRS_AT_ONCE = 4_000_000  # bounds the memory of comparing one bucket


@lru_cache(maxsize=64)
def _area_weights(size: int) -> np.ndarray:
    """Return (32, size) weights that average `size` pixels down (or spread them up) by area."""
    edges = np.linspace(0, size, _SIDE + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)[None, :]
    overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return overlap / (high - low)


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    """Return the (32, 32) matrix of the orthonormal cosine transform (DCT-II)."""
    frequency, position = np.arange(_SIDE)[:, None], np.arange(_SIDE)[None, :]
    matrix = np.cos(np.pi * frequency * (2 * position + 1) / (2 * _SIDE)) * np.sqrt(2 / _SIDE)
    matrix[0] /= np.sqrt(2)
    return matrix


@lru_cache(maxsize=1)
def _lowest() -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the 64 lowest frequencies, without the mean."""
    pairs = [(r, c) for r in range(_SIDE) for c in range(_SIDE) if r + c > 0]
    pairs.sort(key=lambda p: (p[0] ** 2 + p[1] ** 2, p))
    rows, cols = zip(*pairs[:_NUM_BITS], strict=True)
    return np.array(rows), np.array(cols)


def perceptual_hash(pixels: np.ndarray, valid: np.ndarray) -> int | None:
    """Hash what a tile looks like.

    Args:
        pixels: (c, h, w) in any number type.
        valid: (h, w) bool; pixels without data are replaced by the mean of the others.

    Returns:
        64 bits as an unsigned integer, or None for a tile without any structure.
    """
    if not valid.any():
        return None
    gray = np.where(valid, pixels.astype(np.float64).mean(axis=0), 0.0)
    mean = gray.sum() / valid.sum()
    gray = np.where(valid, gray - mean, 0.0)
    spread = np.sqrt(np.mean(gray**2))
    if not np.isfinite(spread) or spread <= 1e-9 * max(abs(mean), 1e-30):
        return None
    small = _area_weights(gray.shape[0]) @ (gray / spread) @ _area_weights(gray.shape[1]).T
    # Rounded so that the last bits of a matrix product, which depend on the machine, do not decide.
    low = np.round((_cosines() @ small @ _cosines().T)[_lowest()], 6)
    if not low.any():
        return None
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hamming(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return how many bits differ between hashes (uint64, broadcast against each other)."""
    return np.bitwise_count(np.bitwise_xor(first, second)).astype(np.int64)


def near_pairs(hashes: np.ndarray, threshold: int) -> np.ndarray:
    """Find all pairs of distinct hashes that differ in at most `threshold` bits.

    Two hashes that differ in t bits agree on at least one of t + 1 disjoint parts, so only
    hashes that share a part are compared (multi-index hashing); nothing is missed.

    Args:
        hashes: (n,) uint64, all different.
        threshold: largest Hamming distance that counts as near, 0 to 16.

    Returns:
        (m, 2) int64 indices i < j, every pair once, sorted.
    """
    found = [np.zeros((0, 2), np.int64)]
    edges = np.linspace(0, _NUM_BITS, threshold + 2).round().astype(int)
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        part = (hashes >> np.uint64(low)) & mask
        order = np.argsort(part, kind="stable")
        starts = np.flatnonzero(np.diff(part[order], prepend=~part[order[:1]]))
        for bucket in np.split(order, starts[1:]):
            found.extend(_near_in_bucket(hashes, bucket, threshold))
    return np.unique(np.concatenate(found), axis=0)


def _near_in_bucket(hashes: np.ndarray, bucket: np.ndarray, threshold: int) -> list[np.ndarray]:
    """Compare all hashes of one bucket, some rows at a time."""
    if len(bucket) < 2:
        return []
    found = []
    step = max(1, _PAIRS_AT_ONCE // len(bucket))
    for start in range(0, len(bucket), step):
        rows = bucket[start : start + step]
        i, j = np.nonzero(hamming(hashes[rows][:, None], hashes[bucket][None, :]) <= threshold)
        pairs = np.stack([rows[i], bucket[j]], axis=1)
        found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    return found


def duplicate_groups(hashes: list[int | None], threshold: int) -> np.ndarray:
    """Group tiles that look the same; near is carried on, so a chain of tiles is one group.

    Args:
        hashes: perceptual hash per tile; None belongs to no group.
        threshold: largest Hamming distance between neighbours of a group.

    Returns:
        (n,) int64, index of the first member of each tile's group (itself when it is alone).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    groups = np.arange(len(hashes), dtype=np.int64)
    known = np.array([i for i, value in enumerate(hashes) if value is not None], np.int64)
    if len(known) < 2:
        return groups
    values = np.array([hashes[i] for i in known], np.uint64)
    unique, inverse = np.unique(values, return_inverse=True)
    pairs = near_pairs(unique, threshold)
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (len(unique),) * 2)
    component = connected_components(links, directed=False)[1][inverse]
    first = np.full(component.max() + 1, len(hashes), np.int64)
    np.minimum.at(first, component, known)
    groups[known] = first[component]
    return groups
