"""What a collection says about a file of faces, and how its lists are read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ...datasets.errors import DataError

REAL, FAKE, LIVE, SPOOF = "real", "fake", "live", "spoof"
NEGATIVES, POSITIVES = (REAL, LIVE), (FAKE, SPOOF)
"""Labels of genuine faces, and of what a detector looks for."""

SEPARATOR = "+"
"""Between the names of several people in one fact."""

_MAX_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class FaceFacts:
    """What a collection says about a file.

    Attributes:
        label: "real", "fake", "live", "spoof", or another class of a table or folder.
        identities: everyone whose face takes part: of a swap both people. Empty where unknown.
        video: name of the video, distinct in its collection; a still image has none.
        method: how a fake was made, or which attack was presented.
        compression: level of compression, such as "c23", or the quality of the recording.
        split: official part: "train", "val" or "test".
        others: further columns of a table, such as skin tone or age, by name.
    """

    label: str | None = None
    identities: tuple[str, ...] = ()
    video: str | None = None
    method: str | None = None
    compression: str | None = None
    split: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)

    def to_facts(self) -> dict[str, str]:
        """Return the manifest's facts: only what is known; label and split have own columns."""
        named = {
            "identity": SEPARATOR.join(self.identities),
            "video": self.video,
            "method": self.method,
            "compression": self.compression,
        }
        return {**self.others, **{key: value for key, value in named.items() if value}}


Lists = Mapping[str, Any]
"""What official lists say, as the layout that read them understands it."""


@dataclass(frozen=True)
class Layout:
    """A collection's way of laying out its files.

    Args:
        title: name of the collection.
        facts: (path relative to the collection's folder, lists) -> facts, None for other files.
        lists: folder -> official lists.
    """

    title: str
    facts: Callable[[PurePosixPath, Lists], FaceFacts | None]
    lists: Callable[[Path], Lists] = lambda _: {}


def named_files(root: Path, name: str) -> list[Path]:
    """Return the files of a name at most three folders deep, sorted."""
    patterns = ("", "*/", "*/*/", "*/*/*/")
    return sorted(path for part in patterns for path in root.glob(part + name) if path.is_file())


def read_text(path: Path) -> str:
    """Return a text file that is no larger than a list can be.

    Raises:
        DataError: when it cannot be read or is too large.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(path, "is too large for a list", "take the collection's own file")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read ({error})", "check the file") from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file; raises as `read_text` does."""
    return read_text(path).splitlines()


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: when it cannot be read or is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DataError(path, f"is no JSON ({error})", "take the collection's own file") from error


def read_rows(path: Path, wanted: Iterable[str]) -> list[dict[str, str]]:
    """Return the lines of a CSV table by the names of its columns.

    Raises:
        DataError: when it cannot be read or lacks a wanted column.
    """
    reader = csv.DictReader(read_lines(path))
    rows, names = list(reader), reader.fieldnames or []
    missing = [name for name in wanted if name not in names]
    if missing:
        reason = f"has the columns {', '.join(names) or 'none'}"
        raise DataError(path, reason, f"it needs {', '.join(missing)}")
    return [{key: value or "" for key, value in row.items() if key} for row in rows]
