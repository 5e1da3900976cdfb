"""Who is to be erased: names as digests, and which rows of a manifest they mean."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ...core.errors import UsageError
from ...datasets.manifest import ManifestRow
from .curate.divide import identities
from .curate.records import PictureRef, pseudonym, ref_id

REMOVED = "removed"
"""Status of a row whose pixels were erased on request."""


def read_list(path: Path) -> list[str]:
    """Return the entries of a removal list: one a line; empty lines and lines after "#" are notes.

    Raises:
        UsageError: when there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "remove", f"{path} cannot be read ({error})", "name a text file"
        ) from error
    entries = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not entries:
        raise UsageError("remove", f"{path} names nobody", "write one name, file or video a line")
    return entries


def digests(entries: Iterable[str]) -> set[str]:
    """Return what is remembered of a list: digests, which tell nobody's name."""
    return {_digest(name) for entry in entries for name in (entry, pseudonym(entry))}


def entry_digests(entry: str) -> set[str]:
    """Return the digests of one entry."""
    return digests([entry])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def row_digests(row: ManifestRow) -> set[str]:
    """Return digests of all that a row may be called by: id, file, path, video, people."""
    names = {row.id, ref_id(row.id), row.uri, *_tails(row.uri.partition("#")[0])}
    names |= {row.facts.get("video", row.id), *identities(row)}
    return {_digest(name) for name in names}


def ref_digests(ref: PictureRef) -> set[str]:
    """Return digests of all that a file may be called by."""
    names = {ref.id, *_tails(ref.path), *ref.identities}
    names |= {ref.video} if ref.video is not None else set()
    return {_digest(name) for name in names}


def _tails(path: str) -> set[str]:
    parts = Path(path).parts
    return {"/".join(parts[start:]).replace("//", "/") for start in range(len(parts))}


def chosen(rows: Sequence[ManifestRow], wanted: set[str]) -> set[str]:
    """Return the ids of the rows that digests mean, and of all rows with the same pixels."""
    found = {row.id for row in rows if row_digests(row) & wanted}
    pixels = {row.sha for row in rows if row.id in found and row.sha is not None}
    return found | {row.id for row in rows if row.sha in pixels}


def erased_row(row: ManifestRow) -> ManifestRow:
    """Return what is left of a row: that there was one, of which collection and licence."""
    return ManifestRow(
        id=f"removed-{_digest(row.id)[:16]}",
        uri=REMOVED,
        status=REMOVED,
        reason="erased on request",
        stage="remove",
        source=row.source,
        licence=row.licence,
        sensor=row.sensor,
    )


def erase_rows(rows: Sequence[ManifestRow], gone: set[str]) -> list[ManifestRow]:
    """Return a manifest without some rows' contents, and without mention of them elsewhere.

    Args:
        rows: of a manifest.
        gone: ids of the rows to erase.

    Returns:
        Rows with new places in the store: those that stay move up.
    """
    secret = {name for row in rows if row.id in gone for name in (row.id, *identities(row))}
    hidden = {name: f"removed-{_digest(name)[:16]}" for name in secret}
    result, place = [], {}
    for row in sorted(rows, key=lambda row: (row.store_group or "", row.row or 0)):
        if row.id in gone:
            result.append(erased_row(row))
            continue
        number = None
        if row.store_group is not None:
            number = place[row.store_group] = place.get(row.store_group, -1) + 1
        result.append(replace(_unmention(row, hidden), row=number))
    return result


def _unmention(row: ManifestRow, hidden: dict[str, str]) -> ManifestRow:
    """Replace names of erased rows where another row mentions them."""
    reason = row.reason
    for name in sorted(hidden, key=len, reverse=True):
        reason = reason.replace(name, hidden[name]) if reason else reason
    group = hidden.get(row.group or "", row.group)
    return replace(
        row, reason=reason, group=group, cluster=hidden.get(row.cluster or "", row.cluster)
    )
