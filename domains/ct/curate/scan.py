"""Stage `scan`: find volumes and their labels; nothing but headers of DICOM files is opened."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ....core.errors import UsageError
from ....datasets.manifest import ManifestRow
from ....datasets.readers.dicom_series import DicomSeries
from ....datasets.readers.volume import VolumeSource, discover_series, discover_volumes
from .layouts import is_label, label_names, other_channel, owner_of
from .records import VolumeRef


@dataclass(frozen=True, kw_only=True)
class ScanParams:
    """What is looked for.

    Attributes:
        pattern: glob pattern of paths below a source, None for all.
        exclude: glob patterns of paths that are left out.
        masks: glob patterns of label files; empty takes the usual names.
        labels: whether labels are wanted.
    """

    pattern: str | None
    exclude: tuple[str, ...]
    masks: tuple[str, ...]
    labels: bool


@dataclass(frozen=True)
class Found:
    """What is in the sources.

    Attributes:
        refs: volumes, sorted by id.
        rows: rejected rows of files that belong to no volume.
    """

    refs: tuple[VolumeRef, ...]
    rows: tuple[ManifestRow, ...]


def scan_sources(sources: Sequence[Path], params: ScanParams) -> Found:
    """Find all volumes and pair them with their labels.

    Raises:
        UsageError: when there is no volume.
        DataError: when a source does not exist or cannot be searched.
    """
    refs: dict[str, VolumeRef] = {}
    rows: list[ManifestRow] = []
    for source in sources:
        found = _scan(source.resolve(), params)
        names = {ref.id: _free_id(ref.id, source.resolve(), refs) for ref in found.refs}
        refs |= {names[ref.id]: replace(ref, id=names[ref.id]) for ref in found.refs}
        rows += found.rows
    if not refs:
        names = ", ".join(map(str, sources))
        raise UsageError("source", f"no volume was found in {names}", "check --pattern, --exclude")
    unique = {row.id: row for row in rows}
    return Found(tuple(refs[name] for name in sorted(refs)), tuple(unique.values()))


def _scan(root: Path, params: ScanParams) -> Found:
    """Find the volumes of one source."""
    patterns = [params.pattern] if params.pattern else []
    sources = discover_volumes(root, *patterns, exclude=params.exclude)
    images = [s for s in sources if s.is_dicom or not is_label(s.paths[0], root, params.masks)]
    channels = {s.id: n for s in images if (n := None if s.is_dicom else other_channel(s.paths[0]))}
    rows = [
        _rejected(s.paths[0], "other_channel", f"is channel {channels[s.id]} of an nnU-Net case")
        for s in images
        if s.id in channels
    ]
    images = [source for source in images if source.id not in channels]
    refs = {source.id: _reference(source, root) for source in images}
    refs = {name: replace(ref, place=_place(ref, refs, root)) for name, ref in refs.items()}
    if not params.labels:
        return Found(tuple(refs.values()), tuple(rows))
    taken = {source.id for source in images}
    labels = [s.paths[0] for s in sources if s.id not in taken and s.id not in channels]
    owned = _owners(labels, refs)
    if any(source.is_dicom for source in images):
        owned |= _dicom_owners(root, refs)
    return _paired(refs, owned, rows)


def _owners(labels: Sequence[Path], refs: dict[str, VolumeRef]) -> dict[Path, str | None]:
    places = {name: Path(ref.uri) for name, ref in refs.items()}
    return {label: owner_of(label, places) for label in labels}


def _dicom_owners(root: Path, refs: dict[str, VolumeRef]) -> dict[Path, str | None]:
    """Return the volume of every RTSTRUCT and SEG, which name the series that they belong to."""
    by_series = {ref.series: name for name, ref in refs.items() if ref.series and ref.part == 0}
    owned: dict[Path, str | None] = {}
    for series in discover_series(root).series:
        if series.kind in ("rtstruct", "seg"):
            for file in series.files:
                known = [by_series[uid] for uid in file.references if uid in by_series]
                owned[file.path] = known[0] if known else _same_patient(series, file.path, refs)
    return owned


def _same_patient(series: DicomSeries, path: Path, refs: dict[str, VolumeRef]) -> str | None:
    """Return the only volume near a label object that names no series."""
    near = [name for name, ref in refs.items() if path.parent.parent in Path(ref.uri).parents]
    return near[0] if len(near) == 1 and series.patients else None


def _paired(
    refs: dict[str, VolumeRef], owned: dict[Path, str | None], rows: list[ManifestRow]
) -> Found:
    """Give every volume its label file, and a row to each that belongs to none or not to one."""
    labels: dict[str, list[Path]] = defaultdict(list)
    for path, name in sorted(owned.items()):
        if name is None:
            reason = "it is not clear which volume it belongs to; --masks names label files"
            rows.append(_rejected(path, "label_without_volume", reason))
        else:
            labels[name].append(path)
    paired = []
    for name, ref in refs.items():
        own = labels[name]
        if len(own) > 1:
            reason = f"{len(own)} label files belong to {name}; choose one with --masks"
            rows += [_rejected(path, "several_labels", reason) for path in own]
        paired.append(ref if len(own) != 1 else _with_labels(ref, own[0]))
    return Found(tuple(paired), tuple(rows))


def _with_labels(ref: VolumeRef, path: Path) -> VolumeRef:
    size, changed = _stamp((path,))
    stamp = (ref.stamp[0] + size, max(ref.stamp[1], changed))
    return replace(ref, labels=str(path), names=label_names(path), stamp=stamp)


def _reference(source: VolumeSource, root: Path) -> VolumeRef:
    first, *others = source.paths
    folder = first.parent if others else first
    return VolumeRef(
        id=source.id,
        uri=str(folder),
        paths=tuple(map(str, source.paths)),
        stamp=_stamp(source.paths),
        place=root.name,
        series=source.series,
        part=source.part,
        is_dicom=source.is_dicom,
    )


def _place(ref: VolumeRef, refs: dict[str, VolumeRef], root: Path) -> str:
    """Return who a volume is of, by its place: its folder, or its file where several share one."""
    folder = Path(ref.uri).parent
    if Path(ref.uri) == root:  # the source is the folder of one series
        return f"{folder.name}/{root.name}"
    if folder == root or not root.is_dir():
        return f"{root.name}/{Path(ref.uri).name}"
    shared = Counter(Path(other.uri).parent for other in refs.values())
    chosen = folder if shared[folder] == 1 else Path(ref.uri)
    return f"{root.name}/{chosen.relative_to(root).as_posix()}"


def _free_id(name: str, source: Path, taken: dict[str, VolumeRef]) -> str:
    """Return an id with as much of its source in front as makes it unique."""
    for parent in reversed(source.parts):
        if name not in taken:
            break
        name = f"{parent}/{name}"
    return name


def _stamp(paths: Sequence[Path]) -> tuple[int, int]:
    status = [path.stat() for path in paths]
    return sum(s.st_size for s in status), max(s.st_mtime_ns for s in status)


def _rejected(path: Path, status: str, reason: str) -> ManifestRow:
    return ManifestRow(id=str(path), uri=str(path), status=status, reason=reason, stage="scan")
