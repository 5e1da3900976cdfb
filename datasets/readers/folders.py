"""Search folders for files, in the same order on every machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from ..errors import DataError


def find_files(
    root: str | Path,
    is_wanted: Callable[[str], bool],
    patterns: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[Path]:
    """Return all files below a folder with a wanted name; or the root itself if it is a file.

    Links are followed, each folder is entered once; hidden files and folders are skipped.

    Args:
        root: folder, or one file, which is taken whatever its name.
        is_wanted: judges a file's name.
        patterns: glob patterns of paths below the folder, one of which a file must match;
            "**/" also matches no folder at all. None takes all.
        exclude: glob patterns of paths below the folder that are left out.

    Raises:
        DataError: when the folder does not exist or one below it cannot be read.
    """
    root = Path(root)
    if not root.exists():
        raise DataError(root, "does not exist", "check the path")
    if not root.is_dir():
        return [root]
    files = _walk(root, is_wanted)
    return [f for f in files if _selected(f.relative_to(root).as_posix(), patterns, exclude)]


def _walk(root: Path, is_wanted: Callable[[str], bool]) -> list[Path]:
    found: list[Path] = []
    seen: set[str] = set()
    for folder, below, names in os.walk(root, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in seen else sorted(n for n in below if not n.startswith("."))
        if real not in seen:
            visible = (n for n in sorted(names) if not n.startswith("."))
            found.extend(Path(folder, n) for n in visible if is_wanted(n))
        seen.add(real)
    return found


def _unreadable(error: OSError) -> None:
    remedy = "check its rights, or leave it out"
    raise DataError(error.filename, f"cannot be searched ({error.strerror})", remedy) from error


def _selected(path: str, patterns: Sequence[str], exclude: Sequence[str]) -> bool:
    included = not patterns or any(_matches(path, pattern) for pattern in patterns)
    return included and not any(_matches(path, pattern) for pattern in exclude)


def _matches(path: str, pattern: str) -> bool:
    return fnmatch(path, pattern) or (
        pattern.startswith("**/") and fnmatch(path, pattern.removeprefix("**/"))
    )
