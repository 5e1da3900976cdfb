"""Open a volume, whatever its files are, find volumes in folders, and say what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..volumes import Volume
from .folders import find_files
from .nifti import is_nifti, open_nifti
from .volume_labels import read_labels
from .volume_source import OpenVolume, VolumeInfo, Window

__all__ = [
    "OpenVolume",
    "Volume",
    "VolumeInfo",
    "VolumeScan",
    "VolumeSource",
    "Window",
    "discover_volumes",
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
        series: SeriesInstanceUID of a DICOM series, None for other formats.
    """

    id: str
    paths: tuple[Path, ...]
    series: str | None = None

    @property
    def uri(self) -> str:
        """The file, or the folder of a series with "#series=UID"."""
        return str(self.paths[0])


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
        source: NIfTI file, or what `discover_volumes` found.
        sheared: accept axes that are not at right angles (gantry tilt); `geometry.unsheared()` is
            the grid to resample such a volume to.

    Returns:
        The volume in its file's own axes.

    Raises:
        DataError: when it cannot be opened; the sentence says why and what helps.
    """
    path = source.paths[0] if isinstance(source, VolumeSource) else Path(source)
    if is_nifti(path):
        return open_nifti(path, sheared=sheared)
    raise DataError(path, "is no volume", "give NIfTI")


def discover_volumes(
    root: str | Path, *patterns: str, exclude: Sequence[str] = ()
) -> list[VolumeSource]:
    """Find all volumes below a folder, label maps among them, sorted by id.

    Args:
        root: folder, or one file.
        patterns: glob patterns of paths below the folder, one of which a file must match.
        exclude: glob patterns of paths below the folder that are left out.

    Raises:
        DataError: when the folder does not exist or one below it cannot be read.
    """
    root = Path(root)
    files = find_files(root, is_nifti, patterns, exclude)
    base = root if root.is_dir() else root.parent
    return sorted((VolumeSource(_name(f, base), (f,)) for f in files), key=lambda s: s.id)


def _name(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    return name[: -len("".join(path.suffixes[-2:]))] if name.endswith(".gz") else name[:-4]


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
