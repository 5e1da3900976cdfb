"""Stage `scan`: find photographs, videos and folders of frames, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from ....core.errors import UsageError
from ....datasets.manifest import ManifestRow
from ....datasets.readers.photo import PHOTO_SUFFIXES
from ....datasets.readers.video import VIDEO_SUFFIXES
from ..facts import FaceFacts
from ..layouts import facts_of, read_lists, read_table
from ..parsing import find_map
from .records import Kind, PictureRef, pseudonym

Identity = Literal["none", "folder", "file"]
"""Where a person's name is, without a table: nowhere, in the name of the folder, or in front of the
first "_" or "-" of the file's name."""

Labels = Literal["none", "folders", "sources"]
"""Where the class is, without a table: nowhere, the first folder below the source, or the name of
the source itself."""


@dataclass(frozen=True, kw_only=True)
class ScanParams:
    """What is looked for, and what is said about it.

    Attributes:
        pattern: glob pattern of files below a source, None for all.
        exclude: glob patterns of paths that are left out.
        layout: name of a collection's layout, see `domains.faces.layouts`.
        table: CSV with facts of files; what it says comes before all else.
        identity: see `Identity`.
        labels: see `Labels`.
        frame_folders: whether a folder of pictures is a video.
        consent: basis on which the pictures may be used.
        maps: folder of a parser's maps.
    """

    pattern: str | None = None
    exclude: tuple[str, ...] = ()
    layout: str | None = None
    table: Path | None = None
    identity: Identity = "none"
    labels: Labels = "none"
    frame_folders: bool = False
    consent: str | None = None
    maps: str | None = None


@dataclass(frozen=True)
class Found:
    """What is in the sources.

    Attributes:
        refs: sorted by id.
        rows: rejected rows of files that are no pictures of the collection.
    """

    refs: tuple[PictureRef, ...]
    rows: tuple[ManifestRow, ...]


def scan_sources(sources: Sequence[Path], params: ScanParams) -> Found:
    """Find pictures.

    Raises:
        UsageError: for a source that does not exist, a table that names none of the files, or when
            nothing is found.
        DataError: for a table or list that cannot be understood.
    """
    refs: dict[str, PictureRef] = {}
    rows: list[ManifestRow] = []
    table = {} if params.table is None else read_table(params.table)
    named = 0
    for source in sources:
        if not source.exists():
            raise UsageError("sources", f"{source} does not exist", "check the path")
        root = source.resolve()
        layout = _layout(root, params)
        for ref in _find(root, params):
            facts, listed = _facts(ref, root, params, table, layout)
            named += listed
            if facts is None:
                reason = f"does not lie where the layout {params.layout} puts files"
                status = "not_in_layout"
                rows.append(
                    ManifestRow(
                        id=ref.path, uri=ref.path, status=status, reason=reason, stage="scan"
                    )
                )
                continue
            name = _free_id(ref.id, root, refs)
            refs[name] = _with_map(_with_facts(replace(ref, id=name), facts, params), params)
    if not refs:
        names = ", ".join(map(str, sources))
        reason = f"no photograph or video was found in {names}"
        raise UsageError("sources", reason, "check --pattern, --exclude and --layout")
    if table and not named:
        reason = f"{params.table} names none of the files"
        raise UsageError("table", reason, "its column file must end like their paths")
    return Found(tuple(refs[name] for name in sorted(refs)), tuple(rows))


Say = Callable[[PurePosixPath], FaceFacts | None]


def _layout(root: Path, params: ScanParams) -> Say | None:
    if params.layout is None:
        return None
    name, lists = params.layout, read_lists(params.layout, root)
    return lambda path: facts_of(name, path, lists)


def _find(root: Path, params: ScanParams) -> list[PictureRef]:
    """Return the pictures below a source, sorted by path, without facts."""
    if root.is_file():
        return [_reference(root, root.parent)]
    paths = sorted(path for path in root.rglob(params.pattern or "*") if path.is_file())
    wanted = PHOTO_SUFFIXES | VIDEO_SUFFIXES
    kept = [
        path
        for path in paths
        if path.suffix.lower() in wanted
        and not any(path.relative_to(root).match(glob) for glob in params.exclude)
    ]
    if not params.frame_folders:
        return [_reference(path, root) for path in kept]
    folders: dict[Path, list[Path]] = {}
    for path in kept:
        folders.setdefault(path.parent, []).append(path)
    refs = []
    for folder, members in sorted(folders.items()):
        frames = [path for path in members if path.suffix.lower() in PHOTO_SUFFIXES]
        refs += [_reference(path, root) for path in members if path not in frames]
        if frames:
            refs.append(_folder(folder, frames, root))
    return refs


def _reference(path: Path, root: Path) -> PictureRef:
    suffix, status = path.suffix.lower(), path.stat()
    kind: Kind = "video" if suffix in VIDEO_SUFFIXES else "photo"
    relative = path.relative_to(root).as_posix()
    return PictureRef(
        id=relative.replace("#", "_"),
        path=str(path),
        relative=relative,
        kind="animation" if suffix == ".gif" else kind,
        stamp=(status.st_size, status.st_mtime_ns),
    )


def _folder(folder: Path, frames: Sequence[Path], root: Path) -> PictureRef:
    status = [path.stat() for path in frames]
    relative = folder.relative_to(root).as_posix()
    name = folder.name if relative == "." else relative
    return PictureRef(
        id=name.replace("#", "_"),
        path=str(folder),
        relative=relative,
        kind="folder",
        stamp=(sum(s.st_size for s in status), max(s.st_mtime_ns for s in status)),
        files=tuple(map(str, frames)),
    )


def _facts(
    ref: PictureRef,
    root: Path,
    params: ScanParams,
    table: Mapping[str, FaceFacts],
    layout: Say | None,
) -> tuple[FaceFacts | None, bool]:
    """Return what is said about a file, None for one that the layout does not know."""
    parts = Path(ref.path).parts
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    listed = next((table[tail] for tail in tails if tail in table), None)
    said = FaceFacts()
    if layout is not None:
        told = layout(PurePosixPath(ref.relative))
        if told is None and listed is None:
            return None, False
        said = told or said
    said = _by_rule(said, ref, root, params)
    if listed is None:
        return said, False
    return (
        FaceFacts(
            label=listed.label or said.label,
            identities=listed.identities or said.identities,
            video=listed.video or said.video,
            method=listed.method or said.method,
            compression=listed.compression or said.compression,
            split=listed.split or said.split,
            others={**said.others, **listed.others},
        ),
        True,
    )


def _by_rule(said: FaceFacts, ref: PictureRef, root: Path, params: ScanParams) -> FaceFacts:
    """Fill what a layout does not say from the names of folders and files."""
    path = PurePosixPath(ref.relative)
    name = None
    if params.identity == "folder":
        name = Path(ref.path).parent.name
    elif params.identity == "file":
        name = path.stem.replace("-", "_").partition("_")[0]
    if name and not said.identities:
        said = replace(said, identities=(name,))
    if said.label is None and params.labels == "folders" and len(path.parts) > 1:
        said = replace(said, label=path.parts[0])
    elif said.label is None and params.labels == "sources":
        said = replace(said, label=root.name)
    return said


def _with_facts(ref: PictureRef, facts: FaceFacts, params: ScanParams) -> PictureRef:
    known = {"consent": params.consent, "method": facts.method, "compression": facts.compression}
    video = facts.video or (ref.id if ref.kind in ("video", "folder") else None)
    return replace(
        ref,
        label=facts.label,
        split=facts.split,
        identities=tuple(sorted(pseudonym(name) for name in facts.identities)),
        video=video,
        facts={**{k: v for k, v in known.items() if v}, **facts.others},
    )


def _with_map(ref: PictureRef, params: ScanParams) -> PictureRef:
    """Add the map of a photograph; another map is another input."""
    if params.maps is None or ref.kind != "photo":
        return ref
    path = find_map(Path(params.maps), ref.relative)
    if path is None:
        return ref
    status = path.stat()
    stamp = (ref.stamp[0] + status.st_size, max(ref.stamp[1], status.st_mtime_ns))
    return replace(ref, map=str(path), stamp=stamp)


def _free_id(name: str, source: Path, taken: Mapping[str, PictureRef]) -> str:
    """Return an id with as much of its source in front as makes it unique."""
    for parent in reversed(source.parts):
        if name not in taken:
            break
        name = f"{parent}/{name}"
    return name
