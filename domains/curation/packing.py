"""Which samples go into which place of which store, in all domains, and how they get there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Generic, TypeVar

from ...datasets.errors import DataError
from ...datasets.manifest import KEPT, ManifestRow
from ...datasets.samples import Sample
from ...datasets.store import StoreMeta, StoreWriter
from .records import StageResult

Source = TypeVar("Source")
Cut = TypeVar("Cut")

_LEAST_SHARD, _LARGEST_SHARD = 16 << 20, 256 << 20  # bytes before compression
_WANTED_SHARDS = 16  # of a small store, so that several workers have something to do


def shard_bytes(total: int) -> int:
    """Return how large the shards of a store of so many bytes should be, before compression."""
    return min(max(total // _WANTED_SHARDS, _LEAST_SHARD), _LARGEST_SHARD)


def fingerprint(members: Sequence[ManifestRow], settings: object) -> str:
    """Return what tells a store from others: its samples, their parts, and what else decides bytes.

    Args:
        members: rows of its samples, in their order.
        settings: something whose text names those other things.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for row in members:
        digest.update(f"{row.id} {row.sha} {row.split}\n".encode())
    return digest.hexdigest()[:32]


def kept_in_order(rows: Iterable[ManifestRow]) -> list[ManifestRow]:
    """Return the rows that are used, by id: the order of their store depends on nothing else."""
    return sorted((row for row in rows if row.status == KEPT), key=lambda row: row.id)


def placed(
    rows: Sequence[ManifestRow], stores: Iterable[tuple[StoreMeta, Sequence[ManifestRow]]]
) -> list[ManifestRow]:
    """Return all rows, those of stores with the folder and the row that they go to.

    Args:
        rows: of a manifest.
        stores: each with its members in order.
    """
    found = {
        row.id: replace(row, store_group=meta.group_name, row=number, stage="pack")
        for meta, members in stores
        for number, row in enumerate(members)
    }
    return [found.get(row.id, row) for row in rows]


def into_one(
    rows: Sequence[ManifestRow], make_meta: Callable[[Sequence[ManifestRow]], StoreMeta]
) -> tuple[list[ManifestRow], dict[str, StoreMeta]]:
    """Put all kept samples into one store.

    Args:
        rows: of a manifest.
        make_meta: says what the samples, in their order, have in common.

    Returns:
        All rows, kept ones with store and row; and the meta data of the store by its folder.
    """
    kept = kept_in_order(rows)
    if not kept:
        return list(rows), {}
    meta = make_meta(kept)
    return placed(rows, [(meta, kept)]), {meta.group_name: meta}


def shards(
    rows: Sequence[ManifestRow], metas: Mapping[str, StoreMeta]
) -> Iterator[tuple[str, StoreMeta, int, list[ManifestRow]]]:
    """Yield the shards of all stores.

    Args:
        rows: of a manifest, with their places in the stores.
        metas: stores by folder.

    Yields:
        Folder and meta data of the store, number of the shard, its samples in the order of rows.
    """
    for name, meta in sorted(metas.items()):
        members = sorted((r for r in rows if r.store_group == name), key=lambda r: r.row or 0)
        for shard, start in enumerate(range(0, len(members), meta.shard)):
            yield name, meta, shard, members[start : start + meta.shard]


@dataclass(frozen=True)
class PackUnit(Generic[Source, Cut]):
    """One shard of one store, as work of a stage.

    Attributes:
        folder: of the store.
        shard: number of the shard.
        meta: of the store.
        sources: files that its samples come from.
        cuts: (position in `sources`, what to cut there) in the order of rows.
    """

    folder: str
    shard: int
    meta: StoreMeta
    sources: tuple[Source, ...]
    cuts: tuple[tuple[int, Cut], ...]

    def by_source(self) -> Iterator[tuple[Source, list[Cut]]]:
        """Yield each source with what follows from it in the order of rows."""
        for number, run in groupby(self.cuts, key=lambda cut: cut[0]):
            yield self.sources[number], [cut for _, cut in run]


def plan_units(
    rows: Sequence[ManifestRow],
    metas: Mapping[str, StoreMeta],
    out: Path,
    source: Callable[[ManifestRow], tuple[str, Source]],
    cut: Callable[[ManifestRow], Cut],
) -> list[PackUnit[Source, Cut]]:
    """Return the shards of all stores as units of work.

    Args:
        rows: of a manifest, with their places in the stores.
        metas: stores by folder.
        out: folder of the curation.
        source: says of a row the name of its file, and what the stage must know of the file.
        cut: says of a row what to cut from its file.
    """
    units = []
    for name, meta, shard, part in shards(rows, metas):
        named = [source(row) for row in part]
        sources = dict(named)
        number = {key: i for i, key in enumerate(sources)}
        cuts = tuple((number[key], cut(row)) for (key, _), row in zip(named, part, strict=True))
        units.append(PackUnit(str(out / name), shard, meta, tuple(sources.values()), cuts))
    return units


def write_shard(unit: PackUnit[Source, Cut], samples: Iterable[Sample]) -> StageResult:
    """Write one shard from its samples in the order of rows."""
    StoreWriter(unit.folder, unit.meta).write_shard(unit.shard, samples)
    return StageResult(counters={"packed": len(unit.cuts)})


def changed(path: object) -> DataError:
    """Return the error that a source is no longer what its samples were cut from."""
    remedy = "leave the sources alone and run the same command again"
    return DataError(path, "changed while it was being curated", remedy)
