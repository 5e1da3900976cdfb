"""Segmentations of 3D Slicer (.seg.nrrd): names, colours and layers of NRRD label maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..label_map import Colour, LabelMap, Painter, Segment, default_colour, pick
from ..volumes import Volume
from .nrrd import NrrdHeader, nrrd_header, read_listed

_FIELD = re.compile(r"Segment(\d+)_(\w+)")
_ALL = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class _Entry:
    segment: Segment
    layer: int
    label: int


def read_nrrd_labels(path: Path, segments: Sequence[str] | None = None) -> LabelMap | Volume:
    """Read the labels of an NRRD file.

    Args:
        path: .nrrd or .seg.nrrd file.
        segments: names of the segments wanted; None takes all.

    Returns:
        A label map where the header describes segments; otherwise the bare numbers. Segments keep
        their numbers; in several layers, which may use a number twice, they are counted 1, 2, ...

    Raises:
        DataError: when the file is damaged, or segments of several layers overlap.
    """
    header = nrrd_header(path)
    entries = _entries(header)
    if not entries:
        if header.listed > 1:
            reason = f"holds {header.listed} numbers per voxel and describes no segments"
            raise DataError(path, reason, "write one label per voxel")
        return Volume(read_listed(header, _ALL)[0], header.geometry)
    if header.dtype.kind == "f":
        raise DataError(path, "holds fractions, so it is no label map", "export it as labels")
    available = [entry.segment for entry in entries]
    layers = read_listed(header, _ALL)
    if header.listed == 1:
        labels = LabelMap(Volume(layers[0], header.geometry), tuple(available))
        return labels if segments is None else labels.only(segments, path)
    chosen = pick(available, segments, path)
    painter = Painter(header.geometry, path, max(s.value for s in chosen.values()))
    for entry in entries:
        segment = chosen.get(entry.segment.value)
        if segment is not None:
            painter.paint(_ALL, layers[entry.layer] == entry.label, segment)
    return painter.result()


def _entries(header: NrrdHeader) -> list[_Entry]:
    fields: dict[int, dict[str, str]] = {}
    for key, value in header.fields.items():
        match = _FIELD.fullmatch(key)
        if match:
            fields.setdefault(int(match[1]), {})[match[2]] = str(value)
    remedy = "save it again from 3D Slicer"
    found: list[_Entry] = []
    try:
        for place, words in sorted(fields.items()):
            # Older versions wrote neither label nor layer: one segment a layer, or 1, 2, ...
            layer = int(words.get("Layer", place if header.listed > 1 else 0))
            label = int(words.get("LabelValue", 1 if header.listed > 1 else place + 1))
            if not 0 <= layer < header.listed or label < 1:
                raise ValueError(f"layer {layer}, label {label}")
            value = label if header.listed == 1 else len(found) + 1
            name = words.get("Name") or words.get("ID") or f"segment {place}"
            found.append(_Entry(Segment(value, name, _colour(words, value)), layer, label))
    except ValueError as error:
        reason = f"its description of segments is wrong ({error})"
        raise DataError(header.path, reason, remedy) from error
    if len({(entry.layer, entry.label) for entry in found}) < len(found):
        raise DataError(header.path, "two segments have one label in one layer", remedy)
    return found


def _colour(words: dict[str, str], value: int) -> Colour:
    if "Color" not in words:
        return default_colour(value)
    parts = [min(max(float(x), 0.0), 1.0) for x in words["Color"].split()]
    if len(parts) != 3 or not np.isfinite(parts).all():
        raise ValueError(f"colour {words['Color']!r}")
    red, green, blue = (round(x * 255) for x in parts)
    return red, green, blue
