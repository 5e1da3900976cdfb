"""Parts of the data and what must not be in two of them: duplicates, look-alikes, shared ground.

Works on all rows at once, in memory and without pixels: a million tiles take seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ...datasets.manifest import KEPT, ManifestRow
from .phash import duplicate_groups, near_pairs
from .split import SPLITS, Footprints, cell_of, draw_splits, min_gap_km, within

SplitBy = Literal["geography", "group", "table"]
NearPolicy = Literal["group", "drop", "keep"]
_WORTH = {"test": 0, "val": 1, "train": 2}  # who keeps a tile that may be in one part only


@dataclass(frozen=True, kw_only=True)
class DedupParams:
    """How tiles are divided and compared.

    Attributes:
        split_by: "geography" (cells on the ground), "group" (scene, patient, identity) or "table"
            (official parts).
        fractions: share of train, val and test.
        cell_km: side of a cell.
        buffer_km: least distance of train tiles to val and test tiles; 0 forbids shared ground.
        seed: of the draw.
        hash_distance: largest number of differing bits of look-alikes.
        near: "group" keeps look-alikes in one part and rejects the others, "drop" keeps one of
            them, "keep" only reports them.
    """

    split_by: SplitBy
    fractions: tuple[float, float, float]
    cell_km: float
    buffer_km: float
    seed: int
    hash_distance: int
    near: NearPolicy


@dataclass(frozen=True)
class Leakage:
    """How far apart the parts are, measured on the tiles that were kept.

    Attributes:
        train_test_gap_km: smallest distance on the ground, None without positions.
        train_val_gap_km: the same for validation tiles.
        near_duplicate_pairs: pairs of look-alikes in different parts.
        shared_checksums: checksums that occur in several parts.
    """

    train_test_gap_km: float | None
    train_val_gap_km: float | None
    near_duplicate_pairs: int
    shared_checksums: int


def divide(
    rows: Sequence[ManifestRow], official: Mapping[str, str], params: DedupParams
) -> list[ManifestRow]:
    """Give every kept tile a part and reject what would leak or repeat.

    Args:
        rows: rows of tiles, kept and rejected.
        official: part by row id, used with `split_by="table"`; tiles without one are for training.
        params: how.

    Returns:
        The same rows in the same order; kept ones have split, group and cluster.
    """
    result = sorted(rows, key=lambda row: row.id)
    kept = [i for i, row in enumerate(result) if row.status == KEPT]
    for i, row in zip(kept, _draw([result[i] for i in kept], official, params), strict=True):
        result[i] = row
    for step in (_drop_copies, _settle_look_alikes, _keep_apart):
        kept = [i for i, row in enumerate(result) if row.status == KEPT]
        for i, row in zip(kept, step([result[i] for i in kept], params), strict=True):
            result[i] = row
    place = {row.id: row for row in result}
    return [place[row.id] for row in rows]


def _draw(
    rows: list[ManifestRow], official: Mapping[str, str], params: DedupParams
) -> list[ManifestRow]:
    """Set unit (`group`) and part of every tile."""
    if params.split_by == "table":
        return [replace(row, split=official.get(row.id, "train")) for row in rows]
    units = [_unit(row, params) for row in rows]
    parts = draw_splits(units, params.seed, params.fractions) if units else {}
    return [replace(r, group=u, split=parts[u]) for r, u in zip(rows, units, strict=True)]


def _unit(row: ManifestRow, params: DedupParams) -> str:
    if params.split_by == "geography" and row.lon is not None and row.lat is not None:
        return cell_of(row.lon, row.lat, params.cell_km)
    return row.group or row.uri


def _drop_copies(rows: list[ManifestRow], params: DedupParams) -> list[ManifestRow]:
    """Reject tiles whose pixels occur before; the copy in test stays before the one in train."""
    first: dict[str | None, str] = {}
    for row in sorted(rows, key=lambda row: (_WORTH[row.split or "train"], row.id)):
        first.setdefault(row.sha, row.id)
    return [
        row
        if first[row.sha] == row.id
        else _rejected(row, "duplicate", f"same pixels as {first[row.sha]}")
        for row in rows
    ]


def _settle_look_alikes(rows: list[ManifestRow], params: DedupParams) -> list[ManifestRow]:
    """Name groups of look-alikes and reject members that would be in a second part."""
    hashes = [None if row.phash is None else int(row.phash, 16) for row in rows]
    groups = duplicate_groups(hashes, params.hash_distance)
    sizes = np.bincount(groups, minlength=len(rows))
    rows = [
        replace(row, cluster=rows[g].id) if sizes[g] > 1 else row
        for row, g in zip(rows, groups, strict=True)
    ]
    if params.near == "keep":
        return rows
    members: dict[int, list[int]] = {}
    for index in np.flatnonzero(sizes[groups] > 1).tolist():
        members.setdefault(int(groups[index]), []).append(index)
    for indices in members.values():
        chosen = _winner([rows[i] for i in indices], official=params.split_by == "table")
        for i in indices:
            same_part = rows[i].split == chosen.split and params.near == "group"
            if rows[i].id != chosen.id and not same_part:
                where = f"looks like {chosen.id} in {chosen.split}"
                rows[i] = _rejected(rows[i], "near_duplicate", where)
    return rows


def _winner(rows: list[ManifestRow], official: bool) -> ManifestRow:
    """Return the member that decides where its group stays.

    Official test tiles stay whatever else is lost, or figures could not be compared; otherwise the
    part with most members wins, which loses fewest tiles.
    """
    count = Counter(row.split for row in rows)

    def rank(row: ManifestRow) -> tuple[int, int, str]:
        return (0 if official else -count[row.split], _WORTH[row.split or "train"], row.id)

    return min(rows, key=rank)


def _keep_apart(rows: list[ManifestRow], params: DedupParams) -> list[ManifestRow]:
    """Reject train tiles on ground of val and test tiles, and val tiles on that of test tiles."""
    if params.split_by == "table":
        return rows  # official parts are taken as they are; the distance is measured all the same
    ground = footprints(rows)
    split = np.array([row.split for row in rows], dtype=object)
    for mine, others in (("val", ("test",)), ("train", ("val", "test"))):
        candidates = np.flatnonzero(split == mine)
        taken = np.flatnonzero(np.isin(split, others))
        near = within(ground.take(candidates), ground.take(taken), params.buffer_km)
        for i in candidates[near]:
            reason = f"within {params.buffer_km:g} km of a tile in {' or '.join(others)}"
            rows[i] = _rejected(rows[i], "split_border", reason)
            split[i] = None
    return rows


def footprints(rows: Sequence[ManifestRow]) -> Footprints:
    """Return where tiles lie on the ground."""
    nan = float("nan")
    lon = [nan if row.lon is None else row.lon for row in rows]
    lat = [nan if row.lat is None else row.lat for row in rows]
    side = [(row.gsd or 0.0) * max(row.height or 0, row.width or 0) / 1000 for row in rows]
    return Footprints(np.array(lon, float), np.array(lat, float), np.array(side, float))


def _rejected(row: ManifestRow, status: str, reason: str) -> ManifestRow:
    return replace(row, status=status, reason=reason, stage="dedup", split=None)


def measure_leakage(rows: Sequence[ManifestRow], hash_distance: int) -> Leakage:
    """Measure how far apart the parts of the kept tiles are."""
    kept = [row for row in rows if row.status == KEPT]
    ground = footprints(kept)
    split = np.array([row.split for row in kept], dtype=object)
    part = {name: ground.take(np.flatnonzero(split == name)) for name in SPLITS}
    checksums = {(row.sha, row.split) for row in kept if row.sha is not None}
    occurs = Counter(sha for sha, _ in checksums)
    return Leakage(
        train_test_gap_km=_rounded(min_gap_km(part["train"], part["test"])),
        train_val_gap_km=_rounded(min_gap_km(part["train"], part["val"])),
        near_duplicate_pairs=_pairs_across(kept, hash_distance),
        shared_checksums=sum(number > 1 for number in occurs.values()),
    )


def _rounded(km: float | None) -> float | None:
    return None if km is None else round(km, 3)


def _pairs_across(rows: Sequence[ManifestRow], hash_distance: int) -> int:
    """Count pairs of look-alikes in different parts."""
    hashed = [(int(row.phash, 16), row.split) for row in rows if row.phash is not None]
    if not hashed:
        return 0
    values, inverse = np.unique(np.array([h for h, _ in hashed], np.uint64), return_inverse=True)
    counts = np.zeros((len(values), len(SPLITS)), np.int64)
    parts = np.array([SPLITS.index(split or "train") for _, split in hashed])
    np.add.at(counts, (inverse, parts), 1)
    total = counts.sum(axis=1)
    same = ((total**2 - (counts**2).sum(axis=1)) // 2).sum()
    i, j = near_pairs(values, hash_distance).T
    return int(same + (total[i] * total[j] - (counts[i] * counts[j]).sum(axis=1)).sum())
