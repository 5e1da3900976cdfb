"""Train, validation and test parts that do not share ground, and the measure of how far apart.

Tiles are not split one by one: neighbours look alike, so a random split of tiles measures memory.
Whole cells of a grid over the Earth (or whole scenes where there is no position) are drawn by a
hash of their name and the seed. From ten cells on, a cell therefore keeps its part when scenes are
added later.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "val", "test")
_KM_PER_DEGREE = 111.195  # on the sphere of the mean Earth radius
_RADIUS_KM = 6371.0088
_FEW = 10  # units, below which a hash alone may turn the shares upside down
_SLACK = 0.02  # neighbours in a rotated grid overlap by less than this share of their size


@dataclass(frozen=True)
class Footprints:
    """Squares on the ground.

    Attributes:
        lon: (n,) degrees, NaN without position.
        lat: (n,) degrees.
        side_km: (n,) length of a side.
    """

    lon: np.ndarray
    lat: np.ndarray
    side_km: np.ndarray

    def __len__(self) -> int:
        return len(self.lon)

    def take(self, index: np.ndarray) -> Footprints:
        """Return some of the squares."""
        return Footprints(self.lon[index], self.lat[index], self.side_km[index])

    def unit_vectors(self) -> np.ndarray:
        """Return (n, 3) positions on the unit sphere, where straight distance orders distances."""
        lon, lat = np.radians(self.lon), np.radians(self.lat)
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def cell_of(lon: float, lat: float, cell_km: float) -> str:
    """Return the name of the cell of about `cell_km` x `cell_km` in which a position lies."""
    row = int(np.floor(lat * _KM_PER_DEGREE / cell_km))
    # One width for a whole band of latitude, or cells of neighbouring rows would drift apart.
    middle = np.radians(np.clip((row + 0.5) * cell_km / _KM_PER_DEGREE, -89.9, 89.9))
    column = int(np.floor(lon * _KM_PER_DEGREE * np.cos(middle) / cell_km))
    return f"{cell_km:g}km:{row}:{column}"


def _uniform(seed: int, name: str) -> float:
    """Return a number in [0, 1) that depends on nothing but seed and name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def draw_splits(
    units: Sequence[str], seed: int, fractions: tuple[float, float, float]
) -> dict[str, str]:
    """Draw the part of each unit (cell or scene) by the hash of its name.

    With fewer than ten units chance could leave training with next to nothing, so the largest one
    is for training. A wanted part that got none takes the smallest unit of a part with several.
    With fewer units than parts, train comes first, then test, then val.

    Args:
        units: unit of every tile, repeated.
        seed: another seed, another draw.
        fractions: share of train, val and test; they are divided by their sum.

    Returns:
        Part of each unit.
    """
    size = Counter(units)
    names = sorted(size)
    edges = np.cumsum(np.array(fractions, float) / sum(fractions))
    place = {name: _uniform(seed, name) for name in names}
    parts = {n: SPLITS[min(int(np.searchsorted(edges, place[n], "right")), 2)] for n in names}
    largest = min(names, key=lambda name: (-size[name], name), default=None)
    if largest is not None and len(names) < _FEW:
        parts[largest] = "train"
    for wanted in ("train", "test", "val"):
        if fractions[SPLITS.index(wanted)] <= 0 or wanted in parts.values():
            continue
        donors = [n for n in names if n != largest and _may_leave(parts, n, wanted)]
        if donors:
            parts[min(donors, key=lambda n: (size[n], place[n]))] = wanted
    return parts


def _may_leave(parts: dict[str, str], name: str, wanted: str) -> bool:
    """Say whether a unit may be moved: its part has others, or is worth less than the wanted."""
    worth = {"train": 2, "test": 1, "val": 0}
    others = sum(part == parts[name] for part in parts.values()) - 1
    return others > 0 or worth[wanted] > worth[parts[name]]


def _gaps(first: Footprints, second: Footprints) -> np.ndarray:
    """Return the distance in km between squares pair by pair; negative where they overlap."""
    dlon = (first.lon - second.lon + 180) % 360 - 180
    middle = np.radians((first.lat + second.lat) / 2)
    dx = np.abs(dlon) * _KM_PER_DEGREE * np.cos(middle)
    dy = np.abs(first.lat - second.lat) * _KM_PER_DEGREE
    reach = (first.side_km + second.side_km) / 2
    return np.maximum(dx, dy) - reach


def _chord(km: float | np.ndarray) -> np.ndarray:
    """Return the straight distance on the unit sphere that belongs to a distance on the ground."""
    return 2 * np.sin(np.minimum(np.asarray(km) / _RADIUS_KM, np.pi) / 2)


def within(first: Footprints, second: Footprints, buffer_km: float) -> np.ndarray:
    """Say which squares of `first` overlap, or lie within `buffer_km` of, any of `second`.

    Squares that only touch do not count, nor do those without position.

    Returns:
        (len(first),) bool.
    """
    from scipy.spatial import KDTree

    near = np.zeros(len(first), bool)
    a, b = np.flatnonzero(np.isfinite(first.lon)), np.flatnonzero(np.isfinite(second.lon))
    if not len(a) or not len(b):
        return near
    mine, theirs = first.take(a), second.take(b)
    # Corners are sqrt(2) further away than sides, and metres per degree differ a little.
    reach = 1.5 * (mine.side_km / 2 + theirs.side_km.max() / 2) + 1.05 * buffer_km + 1e-6
    tree = KDTree(theirs.unit_vectors())
    for i, hits in enumerate(tree.query_ball_point(mine.unit_vectors(), _chord(reach))):
        if hits:
            here, there = mine.take(np.full(len(hits), i)), theirs.take(np.array(hits))
            slack = _SLACK * (here.side_km + there.side_km) / 2
            near[a[i]] = bool(np.any(_gaps(here, there) < buffer_km - slack))
    return near


def min_gap_km(first: Footprints, second: Footprints) -> float | None:
    """Return the smallest distance between squares of two parts, 0 where some touch or overlap.

    The four nearest centres of each square are looked at, which is exact for squares of similar
    size and a good estimate otherwise. None when a part has no positions.
    """
    from scipy.spatial import KDTree

    mine = first.take(np.flatnonzero(np.isfinite(first.lon)))
    theirs = second.take(np.flatnonzero(np.isfinite(second.lon)))
    if not len(mine) or not len(theirs):
        return None
    num_near = min(4, len(theirs))
    _, hits = KDTree(theirs.unit_vectors()).query(mine.unit_vectors(), k=num_near)
    index = np.asarray(hits).reshape(-1)
    here = mine.take(np.repeat(np.arange(len(mine)), num_near))
    gaps = _gaps(here, theirs.take(index))
    slack = _SLACK * (here.side_km + theirs.side_km[index]) / 2
    return float(np.where(gaps < slack, 0.0, gaps).min())
