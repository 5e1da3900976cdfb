"""`mimkit curate faces --remove`: erase people from a store that is there.

Other folder for everything new, then one exchange: a killed run either has changed nothing or goes
on with the exchange when the same command is given again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...core.errors import UsageError
from ...datasets.erase import overwrite, write_without
from ...datasets.errors import DataError
from ...datasets.files import write_json
from ...datasets.manifest import KEPT, ManifestRow, manifest_rows, read_manifest, write_manifest
from ...datasets.store import Store, store_state
from ...domains.faces.removal import (
    chosen,
    digests,
    entry_digests,
    erase_rows,
    read_list,
    row_digests,
)
from ..locks import locked
from ..progress import say

MANIFEST, REMOVALS, CARD = "manifest.parquet", "removals.json", "card.json"
_NEW, _READY = "removing", "ready"


def remove(out: Path, listed: Path) -> None:
    """Erase the people, videos or files of a list from a folder that curation wrote.

    Args:
        out: folder of the curation.
        listed: text file, one entry a line.

    Raises:
        UsageError: when the list cannot be read, or names something that is not in the manifest and
            was not removed before.
        DataError: when there is no finished curation.
    """
    if not (out / MANIFEST).is_file() and not (out / _NEW / _READY).is_file():
        raise DataError(out, "holds no finished curation", "name the folder with --out")
    entries = read_list(listed)
    with locked(out / "stages" / "lock", out, "curation"):
        if (out / _NEW / _READY).is_file():
            _exchange(out)
        rows = manifest_rows(read_manifest(out / MANIFEST))
        known = remembered(out)
        _refuse_unknown(entries, rows, known)
        wanted = digests(entries)
        gone = chosen(rows, wanted)
        _write(out, rows, gone, known | wanted)
        _exchange(out)
    kept = sum(row.id in gone and row.status == KEPT for row in rows)
    say(f"{out}: erased {kept} faces of {len(gone)} rows; {REMOVALS} keeps digests of the list")


def remembered(out: Path) -> set[str]:
    """Return the digests of all that was ever removed from a folder.

    Raises:
        DataError: when they cannot be read: nothing may come back by accident.
    """
    path = out / REMOVALS
    if not path.exists():
        return set()
    try:
        return set(json.loads(path.read_text("utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "restore it; without it erased people could come back"
        raise DataError(path, f"cannot be read ({error})", remedy) from error


def _refuse_unknown(entries: Sequence[str], rows: Sequence[ManifestRow], known: set[str]) -> None:
    present = set[str]().union(*(row_digests(row) for row in rows))
    missing = [e for e in entries if not entry_digests(e) & (present | known)]
    if missing:
        names = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        reason = f"{len(missing)} entries are not in the manifest: {names}"
        raise UsageError("remove", reason, "write names, ids, videos or paths as they were curated")


def _write(out: Path, rows: Sequence[ManifestRow], gone: set[str], known: set[str]) -> None:
    """Write what is to be there afterwards into a folder of its own."""
    new = out / _NEW
    if new.exists():
        shutil.rmtree(new)
    for folder in sorted(path for path in out.iterdir() if store_state(path) == "finished"):
        members = [row for row in rows if row.store_group == folder.name]
        lost = np.array([row.row for row in members if row.id in gone], np.int64)
        stays = sorted(f"{row.id} {row.sha}" for row in members if row.id not in gone)
        if len(lost):
            digest = hashlib.sha256("\n".join(stays).encode()).hexdigest()[:32]
            write_without(Store(folder), lost, new / folder.name, digest)
    write_manifest(new / MANIFEST, erase_rows(rows, gone))
    write_json(new / REMOVALS, {"sha256": sorted(known)})
    card = json.loads((out / CARD).read_text("utf-8"))
    write_json(new / CARD, card | {"removed": len(gone)} | _counts(rows, gone))
    write_json(new / _READY, {})


def _counts(rows: Sequence[ManifestRow], gone: set[str]) -> dict[str, object]:
    stays = [row for row in rows if row.id not in gone and row.status == KEPT]
    splits = {name: sum(row.split == name for row in stays) for name in ("train", "val", "test")}
    return {"kept": len(stays), "splits": splits}


def _exchange(out: Path) -> None:
    """Put the new files in place of the old ones, whose bytes are overwritten first."""
    new = out / _NEW
    # Results of stages name files, places of faces and hashes of pixels.
    for folder in (out / "stages").iterdir():
        if folder.is_dir():
            overwrite(folder)
    for folder in sorted(path for path in new.iterdir() if path.is_dir()):
        if (out / folder.name).exists():
            overwrite(out / folder.name)
        folder.rename(out / folder.name)
    for name in (REMOVALS, CARD, MANIFEST):
        if (new / name).exists():
            (new / name).replace(out / name)
    shutil.rmtree(new)
