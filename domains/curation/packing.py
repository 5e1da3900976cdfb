"""Which samples go into which place of which store, in all domains."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ...datasets.manifest import KEPT, ManifestRow
from ...datasets.store import StoreMeta

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
