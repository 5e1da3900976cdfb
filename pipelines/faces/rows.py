"""Faces that are judged: what a store's manifest or a table of scores knows about each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...core.errors import UsageError
from ...datasets.errors import DataError
from ...domains.faces.attacks import ATTACKS
from ...domains.faces.facts import NEGATIVES, POSITIVES, SEPARATOR, SPOOF, read_rows
from ..stores import OpenGroup

_OWN = ("file", "score", "label", "identity", "video", "method", "collection", "split")


@dataclass(frozen=True, kw_only=True)
class Face:
    """One face.

    Args:
        id: name of the sample.
        uri: file that it was cut from.
        label: class, None where unknown.
        split: part of its collection.
        collection: where it comes from; people have names within a collection.
        identities: everyone whose face takes part.
        video: video that it is a frame of; None for a still image.
        method: how a fake was made or an attack presented.
        facts: everything else that is known, by name.
        sha: checksum of its pixels.
        store: number of the store among those that are read.
        row: row of that store.
        attack: simulated attack that is made from the stored face; None takes it as it is.
    """

    id: str
    uri: str
    label: str | None = None
    split: str | None = None
    collection: str | None = None
    identities: tuple[str, ...] = ()
    video: str | None = None
    method: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    sha: str | None = None
    store: int = 0
    row: int = 0
    attack: str | None = None

    @property
    def positive(self) -> bool:
        """Whether it is what a detector looks for: a fake or a presentation attack."""
        return self.label in POSITIVES

    @property
    def judged(self) -> bool:
        """Whether its label says genuine or not."""
        return self.label in POSITIVES + NEGATIVES

    @property
    def unit(self) -> tuple[str, str]:
        """What has one score in the end: its video, or a still image itself."""
        own = self.id if self.video is None else self.video
        return self.collection or "", f"{self.attack}: {own}" if self.attack else own

    @property
    def people(self) -> frozenset[tuple[str, str]]:
        """Everyone whose face takes part, named within the collection."""
        return frozenset((self.collection or "", name) for name in self.identities)


def store_faces(group: OpenGroup, number: int = 0) -> list[Face]:
    """Return the faces of a store, row by row.

    Args:
        group: an open store.
        number: of the store among those that are read.
    """
    names = ("id", "uri", "label", "split", "source", "sha", "row", "facts")
    columns = (group.column(name) for name in names)
    rows = zip(*columns, strict=True)
    return [_face(dict(zip(names, values, strict=True)), number) for values in rows]


def _face(row: Mapping[str, Any], number: int) -> Face:
    facts = dict(row["facts"] or ())
    identity = facts.pop("identity", None)
    return Face(
        id=row["id"],
        uri=row["uri"],
        label=row["label"],
        split=row["split"],
        collection=row["source"],
        identities=tuple(identity.split(SEPARATOR)) if identity else (),
        video=facts.pop("video", None),
        method=facts.pop("method", None),
        facts=facts,
        sha=row["sha"],
        store=number,
        row=row["row"],
    )


def with_attacks(faces: Sequence[Face]) -> list[Face]:
    """Return faces and, of every genuine one, simulated presentation attacks."""
    made = [
        replace(face, label=SPOOF, method=name, attack=name, sha=None)
        for face in faces
        if face.label in NEGATIVES
        for name in ATTACKS
    ]
    return [*faces, *made]


def read_scores(path: Path) -> tuple[list[Face], Float[Tensor, " n"]]:
    """Read scores that any detector gave.

    Args:
        path: CSV with the columns file, score (larger means fake or attack) and label (real, fake,
            live or spoof), and any of identity, video, method, collection, split; further columns
            become facts.

    Raises:
        DataError: when it cannot be read, lacks a column, or holds a score or label that is none.
    """
    rows = read_rows(path, ("file", "score", "label"))
    faces, scores = [], []
    for row in rows:
        if row["label"] not in POSITIVES + NEGATIVES:
            reason = f"labels {row['file']} as {row['label']!r}"
            raise DataError(path, reason, f"use {', '.join(NEGATIVES + POSITIVES)}")
        scores.append(_number(path, row))
        faces.append(
            Face(
                id=row["file"],
                uri=row["file"],
                label=row["label"],
                split=row.get("split") or None,
                collection=row.get("collection") or None,
                identities=tuple(row["identity"].split(SEPARATOR)) if row.get("identity") else (),
                video=row.get("video") or None,
                method=row.get("method") or None,
                facts={key: value for key, value in row.items() if key not in _OWN and value},
            )
        )
    if not faces:
        raise DataError(path, "holds no scores", "write one line per face")
    return faces, torch.tensor(scores, dtype=torch.float64)


def _number(path: Path, row: Mapping[str, str]) -> float:
    try:
        value = float(row["score"])
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise DataError(path, f"scores {row['file']} as {row['score']!r}", "write a finite number")
    return value


def classes(faces: Sequence[Face]) -> Bool[Tensor, " n"]:
    """Return which faces are positive."""
    return torch.tensor([face.positive for face in faces], dtype=torch.bool)


def numbered(names: Sequence[object]) -> Int[Tensor, " n"]:
    """Return equal names as equal numbers, 0 to g - 1 in the order of first occurrence."""
    numbers = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names], dtype=torch.long)


def chosen(faces: Sequence[Face], rows: Int[np.ndarray, " n"]) -> list[Face]:
    """Return some of the faces.

    Raises:
        UsageError: when there are none.
    """
    if not len(rows):
        raise UsageError("faces", "none were chosen", "look at the splits and labels of the store")
    return [faces[row] for row in rows]
