"""How data sets of CT lie in folders: which file is a label, of which volume, and its names.

- nnU-Net and Medical Segmentation Decathlon: imagesTr/CASE_0000.nii.gz (or CASE.nii.gz),
  labelsTr/CASE.nii.gz, names in dataset.json.
- plain folders: CT_image.nii.gz and CT_mask.nii.gz in a folder for each patient, or many of both
  in one folder with names that begin alike; names in labels.json or dataset.json, if anywhere.
- DICOM: a series in a folder; RTSTRUCT and SEG say which series they belong to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from ....datasets.errors import DataError

LABEL_NAMES = ("*mask*", "*seg*", "*label*")
"""Glob patterns of file names that are taken for labels when none are given."""

_LABEL_FOLDERS = {"labelsTr": "imagesTr", "labelsTs": "imagesTs"}
_NAME_FILES = ("dataset.json", "labels.json")
_MOST_BYTES = 4 << 20  # of a file of names
_SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".nhdr")
_CHANNEL = re.compile(r"_(\d{4})$")


def stem(path: Path) -> str:
    """Return a file's name without the endings of volumes."""
    ending = next((s for s in _SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def is_label(path: Path, root: Path, patterns: Sequence[str]) -> bool:
    """Say whether a NIfTI or NRRD file holds labels, by its place and name.

    Args:
        path: the file.
        root: the source it was found in.
        patterns: of paths below the source; empty takes `LABEL_NAMES` of the file's name.
    """
    if path.parent.name in _LABEL_FOLDERS:
        return True
    if path.parent.name in _LABEL_FOLDERS.values():
        return False
    if patterns:
        below = path.relative_to(root).as_posix() if root.is_dir() else path.name
        return any(fnmatch(below, p) or fnmatch(path.name, p) for p in patterns)
    return any(fnmatch(path.name.lower(), pattern) for pattern in LABEL_NAMES)


def other_channel(path: Path) -> str | None:
    """Return the number of an nnU-Net channel that is not the first, None for all other files."""
    found = _CHANNEL.search(stem(path))
    if path.parent.name not in _LABEL_FOLDERS.values() or found is None or int(found[1]) == 0:
        return None
    return found[1]


def owner_of(label: Path, volumes: Mapping[str, Path]) -> str | None:
    """Return the id of the volume that a label file belongs to, None when that is not clear.

    Args:
        label: NIfTI or NRRD file.
        volumes: file, or folder of the series, by id.
    """
    case = stem(label)
    if label.parent.name in _LABEL_FOLDERS:
        folder = label.parent.parent / _LABEL_FOLDERS[label.parent.name]
        named = (i for i, p in volumes.items() if p.parent == folder and _case(p) == case)
        return next(named, None)
    beside = {i: p for i, p in volumes.items() if p.parent == label.parent and p.is_file()}
    if not beside:  # a series has a folder of its own
        beside = {i: p for i, p in volumes.items() if label.parent in p.parents}
    if len(beside) == 1:
        return next(iter(beside))
    # CASE_mask beside CASE, or CASE_ct; the longest common beginning decides.
    common = {i: _common(case, stem(p)) for i, p in beside.items()}
    best = sorted(common, key=lambda i: (-common[i], i))[:2]
    if len(best) == 2 and common[best[0]] > common[best[1]]:
        return best[0]
    return None


def _case(path: Path) -> str:
    return _CHANNEL.sub("", stem(path))


def _common(first: str, second: str) -> int:
    pairs = zip(first.lower(), second.lower(), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def label_names(label: Path) -> tuple[tuple[int, str], ...] | None:
    """Return the names of labels that the data set's own files say, None when none does.

    Raises:
        DataError: when such a file is broken, or its labels are regions of several numbers.
    """
    for folder in (label.parent, label.parent.parent):
        for name in _NAME_FILES:
            path = folder / name
            if path.is_file():
                return read_names(path)
    return None


def read_names(path: Path) -> tuple[tuple[int, str], ...]:
    """Read the entry "labels" of dataset.json: names by number, or numbers by name.

    Raises:
        DataError: when there is none.
    """
    remedy = 'it should hold {"labels": {"1": "liver"}} or {"labels": {"liver": 1}}'
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(path, f"is larger than {_MOST_BYTES >> 20} MiB", remedy)
        content = json.loads(path.read_text("utf-8"))
        if path.name == "labels.json":  # where there may be nothing but the names
            content = {"labels": content, **content}
        pairs = dict(_pairs(content["labels"].items()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(path, f"its labels cannot be read ({error!r})", remedy) from error
    if min(pairs, default=0) < 0:
        raise DataError(path, "names a negative label", remedy)
    return tuple(sorted(pairs.items()))


def _pairs(items: Iterable[tuple[str, object]]) -> Iterable[tuple[int, str]]:
    for key, value in items:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise TypeError(f"label {key!r} is {value!r}")
        yield (int(key), value) if isinstance(value, str) else (value, key)
