"""Open a volume, whatever its files are, find volumes in folders, and say what is wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from ..errors import DataError
from ..volumes import Volume
from .dicom import DICOM_SUFFIXES, is_dicom
from .dicom_identity import identifying_headers
from .dicom_series import DicomFolder, DicomSeries, discover_series, grouped
from .dicom_volume import open_dicom
from .folders import find_files
from .nifti import NIFTI_SUFFIXES, is_nifti, open_nifti
from .nrrd import NRRD_SUFFIXES, is_nrrd, open_nrrd
from .volume_labels import read_labels
from .volume_source import OpenVolume, VolumeInfo, Window

__all__ = [
    "DicomFolder",
    "DicomSeries",
    "OpenVolume",
    "Volume",
    "VolumeInfo",
    "VolumeScan",
    "VolumeSource",
    "Window",
    "discover_series",
    "discover_volumes",
    "identifying_headers",
    "open_volume",
    "read_labels",
    "scan_volume",
]


@dataclass(frozen=True)
class VolumeSource:
    """A volume that was found; plain data, so that it travels to other processes.

    Attributes:
        id: name, unique within the folder that was searched, stable between runs.
        paths: its file, or the files of a DICOM series.
        series: SeriesInstanceUID, empty where it was removed; None for other formats.
        part: counts the stacks of a series; see `discover_series`.
        is_dicom: whether the files are DICOM.
    """

    id: str
    paths: tuple[Path, ...]
    series: str | None = None
    part: int = 0
    is_dicom: bool = False


@dataclass(frozen=True)
class VolumeScan:
    """What a look at a volume found; nothing is raised.

    Attributes:
        source: the volume.
        info: facts, None when it cannot be opened.
        reasons: why it cannot be used; empty when it can.
        doubts: what reads well and may still be wrong, such as 8-bit "Hounsfield units".
    """

    source: VolumeSource
    info: VolumeInfo | None
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]


def open_volume(source: str | Path | VolumeSource, *, sheared: bool = False) -> OpenVolume:
    """Open a volume; only what describes it is read, voxels come window by window.

    Args:
        source: NIfTI or NRRD file; a folder with one DICOM series of images, with "#series=UID"
            after it for one of several; a DICOM file of several frames; or what `discover_volumes`
            found.
        sheared: accept axes that are not at right angles (gantry tilt); `geometry.unsheared()` is
            the grid to resample such a volume to.

    Returns:
        The volume in its file's own axes.

    Raises:
        DataError: when it cannot be opened; the sentence says why and what helps.
    """
    if isinstance(source, VolumeSource) and source.is_dicom:
        return open_dicom(source.paths, sheared=sheared)
    path = source.paths[0] if isinstance(source, VolumeSource) else Path(source)
    if is_nifti(path):
        return open_nifti(path, sheared=sheared)
    if is_nrrd(path):
        return open_nrrd(path, sheared=sheared)
    if path.is_file() and not is_dicom(path):
        reason = "is no NIfTI, NRRD or DICOM file, by its name and content"
        raise DataError(path, reason, "convert it, or leave it out")
    return open_dicom(path, sheared=sheared)


def discover_volumes(
    root: str | Path, *patterns: str, exclude: Sequence[str] = ()
) -> list[VolumeSource]:
    """Find all volumes below a folder, sorted by id.

    A volume is a NIfTI or NRRD file, label maps among them, or a stack of a DICOM series (which
    may be spread over folders); a DICOM file that cannot be read is one too, and opening it says
    what is wrong. RTSTRUCT, SEG and other objects are not; `discover_series` lists them.

    Args:
        root: folder, or one file.
        patterns: glob patterns of paths below the folder, one of which a file must match.
        exclude: glob patterns of paths below the folder that are left out.

    Raises:
        DataError: when the folder does not exist or one below it cannot be read.
    """
    root = Path(root)
    base = root if root.is_dir() else root.parent
    files = find_files(root, lambda name: True, patterns, exclude)
    single = [file for file in files if is_nifti(file) or is_nrrd(file)]
    taken = set(single)
    folder = grouped(file for file in files if file not in taken and is_dicom(file))
    named = [(_name(file, base), VolumeSource("", (file,))) for file in single]
    for error in folder.broken:
        path = Path(error.subject)
        named.append((_name(path, base), VolumeSource("", (path,), is_dicom=True)))
    for series in folder.series:
        if series.kind == "image":
            source = VolumeSource("", series.paths, series.uid, series.part, is_dicom=True)
            named.append((_series_name(series, base), source))
    return _with_ids(named)


def _name(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    suffixes = (*NIFTI_SUFFIXES[::-1], *NRRD_SUFFIXES, *DICOM_SUFFIXES)
    suffix = next((s for s in suffixes if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def _series_name(series: DicomSeries, root: Path) -> str:
    """Return the folder of a series, or the path of a volume in one file."""
    if len(series.paths) == 1:
        return _name(series.paths[0], root)
    folder = Path(os.path.commonpath([path.parent for path in series.paths]))
    name = folder.relative_to(root).as_posix()
    return (root.resolve().name or "series") if name == "." else name


def _with_ids(named: Sequence[tuple[str, VolumeSource]]) -> list[VolumeSource]:
    """Give each volume the shortest name that no other has; the same on every machine."""
    shared = Counter(name for name, _ in named)
    found = []
    for name, source in named:
        if shared[name] > 1:
            # a.nii and a.nrrd, or several series in one folder
            text = f"{source.series}/{source.part}" if source.series else source.paths[0].name
            name = f"{name}-{sha256(text.encode()).hexdigest()[:8]}"
        found.append(replace(source, id=name))
    return sorted(found, key=lambda source: source.id)


def scan_volume(source: str | Path | VolumeSource, *, voxels: bool = True) -> VolumeScan:
    """Look at a volume and return what is wrong instead of raising.

    Args:
        source: as in `open_volume`.
        voxels: also read all voxels, which finds cut files and numbers that are not finite.
    """
    if not isinstance(source, VolumeSource):
        source = VolumeSource(Path(source).name, (Path(source),))
    info = None
    try:
        volume = open_volume(source)
        info = volume.info
        if voxels:
            volume.read()
    except DataError as error:
        return VolumeScan(source, info, (error.reason,), info.doubts if info else ())
    return VolumeScan(source, info, (), info.doubts)
