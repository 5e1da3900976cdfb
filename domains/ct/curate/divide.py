"""Stage `divide`: parts by patient, and what must not be in two of them.

Whole volumes are divided and compared, never crops: neighbouring crops of one body look alike, and
a patient in two parts measures memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ....datasets.manifest import KEPT, ManifestRow
from ...curation import dedup
from ...curation.tables import FileTable
from .cut import volume_id
from .records import VolumeFacts


def with_patients(
    volumes: Mapping[str, VolumeFacts], table: FileTable | None
) -> dict[str, VolumeFacts]:
    """Return volumes whose patient is the one that a table says, where it says one."""
    if table is None:
        return dict(volumes)
    said = {name: table.labels.get(table.key(v.ref.uri) or "") for name, v in volumes.items()}
    return {n: replace(v, patient=said[n] or v.patient) for n, v in volumes.items()}


def volume_rows(volumes: Mapping[str, VolumeFacts]) -> list[ManifestRow]:
    """Return a row for every volume, which stands for all of its crops."""
    return [
        ManifestRow(
            id=name,
            uri=volume.ref.uri,
            status=KEPT,
            stage="divide",
            sensor="ct",
            group=volume.patient,
            sha=volume.sha,
            phash=volume.phash,
        )
        for name, volume in sorted(volumes.items())
    ]


def divide(
    volumes: Mapping[str, VolumeFacts], table: FileTable | None, params: dedup.DedupParams
) -> list[ManifestRow]:
    """Return a row for every volume with its part, or why it is left out."""
    official = {}
    if table is not None:
        parts = {n: table.splits.get(table.key(v.ref.uri) or "") for n, v in volumes.items()}
        official = {name: part for name, part in parts.items() if part is not None}
    return dedup.divide(volume_rows(volumes), official, params)


def apply_to_crops(
    rows: Sequence[ManifestRow], divided: Sequence[ManifestRow]
) -> list[ManifestRow]:
    """Give crops the part of their volume; one row says why a volume is left out, its crops go.

    Args:
        rows: of crops, kept and rejected, and of volumes and labels that were refused.
        divided: a row for every volume that can be used.
    """
    place = {row.id: row for row in divided}
    result = []
    for row in rows:
        volume = place.get(volume_id(row))
        if volume is None:
            result.append(row)
        elif volume.status == KEPT:
            split = volume.split if row.status == KEPT else None
            changes = {"group": volume.group, "cluster": volume.cluster, "phash": volume.phash}
            result.append(replace(row, split=split, **changes))
    return [*result, *(row for row in divided if row.status != KEPT)]
