"""Which samples go into which shard of a store, in all domains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ...datasets.manifest import ManifestRow
from ...datasets.store import StoreMeta

_LEAST_SHARD, _LARGEST_SHARD = 16 << 20, 256 << 20  # bytes before compression
_WANTED_SHARDS = 16  # of a small store, so that several workers have something to do


def shard_bytes(total: int) -> int:
    """Return how large the shards of a store of so many bytes should be, before compression."""
    return min(max(total // _WANTED_SHARDS, _LEAST_SHARD), _LARGEST_SHARD)


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
