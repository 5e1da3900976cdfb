"""What is known about a path, for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of values under names.

    Attributes:
        title: what the rows are.
        columns: names.
        rows: one value per column, or None where there is none.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Description:
    """What is known about a path.

    Attributes:
        kind: "scene", "scenes", "volume", "volumes", "labels", "store", "model", "run", "state" or
            "weights".
        path: what was looked at.
        summary: the whole in one sentence.
        facts: what there is one of, by name.
        tables: what there are many of.
        notes: what a reader should know.
        problems: why it cannot be used as it is; empty when it can.
    """

    kind: str
    path: Path
    summary: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return values that JSON can hold; what is no number becomes None."""
        tables = {
            table.title: [dict(zip(table.columns, row, strict=True)) for row in table.rows]
            for table in self.tables
        }
        return _plain(
            {
                "kind": self.kind,
                "path": self.path,
                "summary": self.summary,
                "facts": self.facts,
                "tables": tables,
                "notes": self.notes,
                "problems": self.problems,
            }
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else str(value)


def show(description: Description, max_rows: int) -> None:
    """Print a description: the sentence, facts, tables, notes, problems.

    Args:
        description: what to print.
        max_rows: rows of a table that are shown.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Grid

    console = Console()
    console.print(f"[bold]{escape(description.summary)}[/]", soft_wrap=True)
    width = max(map(len, description.facts), default=0)
    for name, value in description.facts.items():
        console.print(f"  {name:<{width}}  {escape(as_text(value))}", soft_wrap=True)
    for table in description.tables:
        grid = Grid(
            title=escape(table.title), title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0)
        )
        for place, column in enumerate(table.columns):
            number = any(isinstance(row[place], int | float) for row in table.rows)
            justify = "right" if number else "left"
            grid.add_column(escape(column), justify=justify, no_wrap=number, overflow="fold")
        for row in table.rows[:max_rows]:
            grid.add_row(*(escape(as_text(value)) for value in row))
        console.print(grid)
        if len(table.rows) > max_rows:
            console.print(f"  and {len(table.rows) - max_rows} more rows (--rows shows more)")
    for note in description.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)
    for problem in description.problems:
        console.print(f"[red]problem: {escape(problem)}[/]", soft_wrap=True)


def as_text(value: Any) -> str:
    """Return a value as people write it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {as_text(item)}" for key, item in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(as_text, value)) or "none"
    return str(value)


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
