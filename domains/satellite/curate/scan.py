"""Stage `scan`: find the scenes below the given sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ....core.errors import UsageError
from ....datasets.readers.discover import SceneSource, discover_scenes
from .records import SceneRef


def scan(
    sources: Sequence[Path],
    *,
    pattern: str | None = None,
    exclude: Sequence[str] = (),
    masks: frozenset[Path] = frozenset(),
    array_spec: str | None = None,
) -> list[SceneRef]:
    """Find scenes.

    Args:
        sources: files and folders.
        pattern: glob pattern of files below a folder; None takes all known image formats.
        exclude: glob patterns of paths, relative to their source, that are left out.
        masks: files that hold labels and are therefore no scenes.
        array_spec: JSON file that describes arrays without a sidecar.

    Returns:
        Scenes sorted by id.

    Raises:
        UsageError: for a source that does not exist, or when nothing is found.
    """
    found: dict[str, SceneRef] = {}
    for source in sources:
        if not source.exists():
            raise UsageError("source", f"{source} does not exist", "check the path")
        patterns = [pattern] if pattern else []
        scenes = discover_scenes(source.resolve(), *patterns, exclude=exclude, spec=array_spec)
        for scene in scenes:
            if masks.intersection(scene.paths):
                continue
            ref = _reference(scene)
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
        if name not in found or found[name].uris == ref.uris:
            break
        name = f"{parent}/{name}"
    return name


def _reference(scene: SceneSource) -> SceneRef:
    paths = tuple(str(path) for path in scene.paths)
    return SceneRef(scene.id, paths, scene.uris, tuple(_stamp(path) for path in paths))


def _stamp(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns
