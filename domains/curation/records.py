"""What a stage of curation hands on, and how it is kept on disk; the same for all domains."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

from ...datasets.manifest import ManifestRow, row_from_plain

UNREADABLE = "unreadable"
"""Status of a file that cannot be opened or read to its end."""


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
        rows = (row_from_plain(dict(zip(names, row, strict=True))) for row in plain["rows"])
        return StageResult(tuple(rows), plain["output"], plain["counters"])
