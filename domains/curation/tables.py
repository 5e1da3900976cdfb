"""Tables that say of files what their names do not: class, patient, official part."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UsageError


@dataclass(frozen=True)
class FileTable:
    """What a table says of files: a class or patient, and the official part.

    Attributes:
        path: the table, for messages.
        labels: class (or patient) by file name as written in the table.
        splits: part by file name; empty when the table has no such column.
    """

    path: str
    labels: dict[str, str]
    splits: dict[str, str]

    def key(self, uri: str) -> str | None:
        """Return the table's name of a file: the longest tail of the path that is listed."""
        parts = Path(uri.partition("#")[0]).parts
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((tail for tail in tails if tail in self.labels or tail in self.splits), None)


def read_table(path: Path, column: str = "class", *, field: str = "labels") -> FileTable:
    """Read a table with the columns file (or uri), `column` and, if wanted, split.

    Args:
        path: CSV table.
        column: what is wanted of every file.
        field: setting that names the table, for messages.

    Raises:
        UsageError: when the table does not exist or lacks a column, or holds an unknown split.
    """
    if not path.is_file():
        raise UsageError(field, f"{path} does not exist", "name a CSV table")
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    names = list(rows[0]) if rows else []
    file = next((n for n in ("file", "uri") if n in names), None)
    if file is None or (column not in names and "split" not in names):
        reason = f"{path} has the columns {', '.join(names) or 'none'}"
        raise UsageError(field, reason, f"it needs file (or uri) and {column} or split")
    labels = {row[file]: row[column] for row in rows if row.get(column)}
    splits = {row[file]: row["split"] for row in rows if row.get("split")}
    unknown = sorted(set(splits.values()) - {"train", "val", "test"})
    if unknown:
        raise UsageError(field, f"{path} has the split {unknown[0]!r}", "use train, val, test")
    return FileTable(str(path), labels, splits)
