"""What a part of the benchmark found: rows of numbers, goals that are met or not, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Cell = str | float | int | None


@dataclass(frozen=True)
class Goal:
    """Something that was promised.

    Attributes:
        text: what, with the number.
        measured: the number that was found.
        met: whether it keeps the promise.
    """

    text: str
    measured: str
    met: bool

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.text}: {self.measured}, {'met' if self.met else 'NOT met'}"


@dataclass(frozen=True)
class Table:
    """The result of one part.

    Attributes:
        title: what was measured.
        rows: by column name; all rows have the same columns.
        goals: what was promised.
        notes: what a reader has to know to judge the numbers.
    """

    title: str
    rows: tuple[Mapping[str, Cell], ...]
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "title": self.title,
            "rows": [dict(row) for row in self.rows],
            "goals": [vars(goal) for goal in self.goals],
            "notes": list(self.notes),
        }


def shown(value: Cell) -> str:
    """Return a cell as text: three digits, large numbers with separators, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{decimals}f}"


def table_lines(rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    """Return rows as a Markdown table whose columns are also straight in a terminal."""
    names = list(rows[0])
    cells = [names, *([shown(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    text = [isinstance(rows[0][name], str) for name in names]

    def line(values: Sequence[str]) -> str:
        padded = (
            v.ljust(width) if left else v.rjust(width)
            for v, width, left in zip(values, widths, text, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if left else "-" * (width - 1) + ":"
        for width, left in zip(widths, text, strict=True)
    ]
    return [line(cells[0]), line(rule), *map(line, cells[1:])]


def markdown(table: Table) -> str:
    """Return a part as a section of a page."""
    lines = [f"## {table.title}", "", *table_lines(table.rows), ""]
    lines += [f"- Goal, {goal}." for goal in table.goals]
    lines += [f"- {note}" for note in table.notes]
    return "\n".join(lines) + "\n"
