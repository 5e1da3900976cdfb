"""Where face-security collections keep what they know: from a file's place to its facts.

A layout reads the official lists of a collection once (`read_lists`) and then tells the facts of
any file from its path alone (`facts_of`). Nothing is guessed: a file that does not lie where the
collection puts its files has no facts, and what a collection does not say stays unknown.

Labels are "real" and "fake" in collections of manipulated faces, "live" and "spoof" in those of
presentation attacks.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ...core.errors import UsageError
from ...datasets.errors import DataError
from .facts import SEPARATOR, FaceFacts, Layout, Lists, read_rows
from .known_layouts import KNOWN


def facts_of(
    layout: str, path: PurePosixPath | str, lists: Lists | None = None
) -> FaceFacts | None:
    """Return the facts of a file.

    Args:
        layout: name in `LAYOUTS`.
        path: of a video, or of a frame in a folder named like its video, relative to the folder of
            the collection.
        lists: what `read_lists` returned; None where there are none.

    Returns:
        The facts; None for a file that the layout does not describe.

    Raises:
        UsageError: for an unknown layout.
    """
    return find_layout(layout).facts(PurePosixPath(path), lists or {})


def read_lists(layout: str, root: Path) -> Lists:
    """Return the official lists of a collection; empty where the files are not there.

    Raises:
        UsageError: for an unknown layout.
        DataError: for a list that cannot be read or understood.
    """
    return find_layout(layout).lists(root)


def find_layout(name: str) -> Layout:
    """Return a layout by name.

    Raises:
        UsageError: for an unknown name.
    """
    if name not in LAYOUTS:
        raise UsageError(f"layout {name!r}", "is not known", f"use one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def _folder(path: PurePosixPath, lists: Lists) -> FaceFacts | None:
    """The folder below the collection is the class."""
    del lists
    return FaceFacts(label=path.parts[0]) if len(path.parts) > 1 else None


_COLUMNS = ("file", "label", "identity", "video", "method", "compression", "split")


def _csv(path: PurePosixPath, lists: Lists) -> FaceFacts | None:
    """The longest tail of the path that the table lists; a frame may be listed by its folder."""
    parts = path.parts
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    folders = ("/".join(parts[start:-1]) for start in range(len(parts) - 1))
    return next((lists[tail] for tail in (*tails, *folders) if tail in lists), None)


def _csv_lists(root: Path) -> Lists:
    path = root if root.is_file() else root / "index.csv"
    return read_table(path)


def read_table(path: Path) -> dict[str, FaceFacts]:
    """Return the facts of every file of a CSV table.

    Args:
        path: columns file, and any of label, identity (several joined by "+"), video, method,
            compression, split; other columns become further facts.

    Raises:
        DataError: when it cannot be read, lacks a column, names a file twice, or an unknown split.
    """
    found: dict[str, FaceFacts] = {}
    for row in read_rows(path, ("file",)):
        name = row["file"]
        if name in found:
            raise DataError(path, f"lists {name} twice", "keep one line per file")
        known = {key: row.get(key) or None for key in _COLUMNS if key != "file"}
        if known["split"] not in (None, "train", "val", "test"):
            reason = f"has the split {known['split']!r} for {name}"
            raise DataError(path, reason, "use train, val or test")
        identity = known.pop("identity")
        others = {key: value for key, value in row.items() if key not in _COLUMNS and value}
        people = tuple(identity.split(SEPARATOR)) if identity else ()
        found[name] = FaceFacts(identities=people, others=others, **known)
    return found


LAYOUTS: dict[str, Layout] = {
    **KNOWN,
    "csv": Layout("table", _csv, _csv_lists),
    "folder": Layout("folders", _folder),
}
"""Layout by name."""
