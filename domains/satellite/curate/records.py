"""What passes between the stages of curation, and how it is kept on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

from ....datasets.geometry import Geometry
from ....datasets.manifest import ManifestRow

UNREADABLE = "unreadable"
"""Status of a file that cannot be opened or read to its end."""


@dataclass(frozen=True)
class SceneRef:
    """A scene that was found.

    Attributes:
        id: unique name, stable between runs.
        paths: its files.
        uris: what opens it: the files, with the date in an array of several.
        stamp: size and time of change of every file; another stamp is another input.
    """

    id: str
    paths: tuple[str, ...]
    uris: tuple[str, ...]
    stamp: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class SceneFacts:
    """A scene that was opened and fits its sensor.

    Attributes:
        ref: which scene.
        bands: bands of the sensor that are used, in the sensor's order.
        names: what the file calls them.
        dtype: number type of its pixels.
        crs: coordinate system, None when unknown.
        transform: affine transform.
        height: rows.
        width: columns.
        scale: factor to physical units per band.
        offset: summand to physical units per band.
        nodata: stored number that means "no data" where the file does not say so.
        acquired: time of acquisition, None when unknown.
    """

    ref: SceneRef
    bands: tuple[str, ...]
    names: tuple[str, ...]
    dtype: str
    crs: str | None
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    nodata: float | None = None
    acquired: str | None = None

    @property
    def geometry(self) -> Geometry:
        """Position and size."""
        return Geometry(self.crs, self.transform, self.height, self.width)


@dataclass(frozen=True)
class StageResult:
    """What a stage made of one shard.

    Attributes:
        rows: manifest rows, kept and rejected.
        output: what the next stage needs besides rows, as plain data.
        counters: numbers that are added up over shards.
    """

    rows: tuple[ManifestRow, ...] = ()
    output: Any = None
    counters: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return bytes that `from_json` reads; equal results give equal bytes."""
        names = [f.name for f in fields(ManifestRow)]
        plain = {
            # A list per row: the names once instead of a million times.
            "columns": names,
            "rows": [[getattr(row, name) for name in names] for row in self.rows],
            "output": self.output,
            "counters": self.counters,
        }
        return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()

    @staticmethod
    def from_json(content: bytes) -> StageResult:
        """Read what `to_json` wrote."""
        plain = json.loads(content)
        names = plain["columns"]
        rows = []
        for values in plain["rows"]:
            known = dict(zip(names, values, strict=True))
            if known["transform"] is not None:
                known["transform"] = tuple(known["transform"])
            rows.append(ManifestRow(**known))
        return StageResult(tuple(rows), plain["output"], plain["counters"])
