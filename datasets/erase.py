"""Taking samples out of a finished store: their bytes are overwritten, the others keep theirs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from .samples import Sample
from .store import Store, StoreWriter

_CHUNK = 1 << 20


def write_without(store: Store, gone: np.ndarray, path: Path, fingerprint: str) -> Store:
    """Write a copy of a store that lacks some samples; the others move up.

    Args:
        store: the store.
        gone: (n,) rows to leave out.
        path: folder of the copy.
        fingerprint: of the samples that stay.
    """
    stays = np.setdiff1d(np.arange(len(store)), gone)
    meta = replace(store.meta, num_samples=len(stays), fingerprint=fingerprint)
    writer = StoreWriter(path, meta)
    for shard in writer.missing():
        writer.write_shard(shard, _samples(store, stays[list(writer.shard_rows(shard))]))
    for extra in store.path.iterdir():  # what curation wrote beside the arrays, unless it is there
        if extra.is_file() and not (path / extra.name).exists():
            shutil.copyfile(extra, path / extra.name)
    return writer.finalise()


def _samples(store: Store, rows: np.ndarray) -> Iterator[Sample]:
    for row in rows:
        found = store.read(row[None], labels=bool(store.meta.classes))
        regions = None if found.regions is None else found.regions[0]
        labels = None if found.labels is None else found.labels[0]
        valid = None if found.valid is None or found.valid.all() else found.valid[0]
        yield Sample(found.pixels[0], valid, labels, regions)


def overwrite(folder: Path) -> None:
    """Overwrite all files of a folder with zeros and delete it.

    File systems may keep older copies (snapshots, backups, blocks of flash memory), about which
    nothing can be done from here.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            left = path.stat().st_size
            with path.open("r+b") as stream:
                while left > 0:
                    left -= stream.write(bytes(min(left, _CHUNK)))
                stream.flush()
                os.fsync(stream.fileno())
    shutil.rmtree(folder)
