"""Volumes as they pass between the stages of curation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ....datasets.geometry import Affine
from ....datasets.readers.volume import VolumeSource

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class VolumeRef:
    """A volume that was found.

    Attributes:
        id: unique name, stable between runs.
        uri: its file, or the folder of its series.
        paths: its files.
        stamp: bytes and time of change of all its files; another stamp is another input.
        place: patient by where the files are; a header or a table may know better.
        series: SeriesInstanceUID of DICOM.
        part: counts the stacks of a series.
        is_dicom: whether the files are DICOM.
        labels: its label file, None without.
        names: (number, name) of labels when a file of the data set says them.
    """

    id: str
    uri: str
    paths: tuple[str, ...]
    stamp: tuple[int, int]
    place: str
    series: str | None = None
    part: int = 0
    is_dicom: bool = False
    labels: str | None = None
    names: tuple[tuple[int, str], ...] | None = None

    @property
    def source(self) -> VolumeSource:
        """What opens it."""
        paths = tuple(Path(path) for path in self.paths)
        return VolumeSource(self.id, paths, self.series, self.part, self.is_dicom)


@dataclass(frozen=True, kw_only=True)
class VolumeFacts:
    """A volume that was read and can be used.

    Attributes:
        ref: which volume.
        affine: voxel index (depth, height, width) to mm in RAS+, on the grid of the store.
        shape: voxels on that grid.
        patient: who it is of, as a pseudonym.
        sha: checksum of its voxels.
        phash: what it looks like, hexadecimal; None for a volume without structure.
        names: (number, name) of the labels that occur in it, background not counted.
        measures: numbers for the manifest.
        facts: words for the manifest.
    """

    ref: VolumeRef
    affine: Affine
    shape: Triple
    patient: str
    sha: str
    phash: str | None
    names: tuple[tuple[int, str], ...] = ()
    measures: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
