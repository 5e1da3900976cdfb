"""Stage `scan`: find the scenes below the given sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from ....core.errors import UsageError
from ....datasets.readers.raster import discover_scenes
from .records import SceneRef


def scan(
    sources: Sequence[Path],
    *,
    pattern: str | None = None,
    exclude: Sequence[str] = (),
    masks: frozenset[Path] = frozenset(),
) -> list[SceneRef]:
    """Find scenes.

    Args:
        sources: files and folders.
        pattern: glob pattern of files below a folder; None takes all known image formats.
        exclude: glob patterns of paths, relative to their source, that are left out.
        masks: files that hold labels and are therefore no scenes.

    Returns:
        Scenes sorted by id.

    Raises:
        UsageError: for a source that does not exist, or when nothing is found.
    """
    found: dict[str, SceneRef] = {}
    for source in sources:
        if not source.exists():
            raise UsageError("source", f"{source} does not exist", "check the path")
        for ref in _below(source.resolve(), pattern):
            relative = [str(Path(p).relative_to(_root(source))) for p in ref.paths]
            skipped = any(fnmatch(path, glob) for path in relative for glob in exclude)
            if skipped or any(Path(path) in masks for path in ref.paths):
                continue
            ref = replace(ref, id=_free_id(ref, source.resolve(), found))
            found[ref.id] = ref
    if not found:
        names = ", ".join(map(str, sources))
        raise UsageError("source", f"no scene was found in {names}", "check --pattern, --exclude")
    return [found[name] for name in sorted(found)]


def _free_id(ref: SceneRef, source: Path, found: dict[str, SceneRef]) -> str:
    """Return the id of a scene, with as much of its source in front as makes it unique."""
    name = ref.id
    for parent in reversed(source.parts):
        if name not in found or found[name].paths == ref.paths:
            break
        name = f"{parent}/{name}"
    return name


def _root(source: Path) -> Path:
    source = source.resolve()
    return source if source.is_dir() else source.parent


def _below(source: Path, pattern: str | None) -> list[SceneRef]:
    return [
        SceneRef(scene.id, paths, tuple(_stamp(path) for path in paths))
        for scene in discover_scenes(source, *([pattern] if pattern else []))
        for paths in [tuple(str(path) for path in scene.paths)]
    ]


def _stamp(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns
