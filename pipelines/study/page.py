"""The results page of a study: tables with mean and spread, verdicts computed from them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Values = Sequence[float]
Rows = Sequence[tuple[str, Sequence[Values]]]


@dataclass(frozen=True)
class Section:
    """What a part of a study adds to the page.

    Args:
        text: Markdown; it shows pictures by their names.
        pictures: PNG files by name.
    """

    text: str
    pictures: Mapping[str, bytes] = field(default_factory=dict)


def spread(values: Values, digits: int = 3) -> str:
    """Return "0.731 ± 0.004": mean and sample deviation over seeds; the bare number of one."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table(columns: Sequence[str], rows: Rows, digits: Sequence[int] | None = None) -> str:
    """Return a Markdown table whose cells are values of all seeds.

    Args:
        columns: names.
        rows: name of a line and its cells.
        digits: decimals of every column, three each when not given.
    """
    places = digits or [3] * len(columns)
    head = "| | " + " | ".join(columns) + " |"
    lines = [head, "|---" * (len(columns) + 1) + "|"]
    for name, cells in rows:
        lines.append(f"| {name} | " + " | ".join(map(spread, cells, places)) + " |")
    return "\n".join(lines)


def difference(first: Values, second: Values) -> tuple[float, float]:
    """Return the mean and the sample deviation of paired differences over seeds."""
    pairs = [a - b for a, b in zip(first, second, strict=True)]
    return statistics.fmean(pairs), statistics.stdev(pairs) if len(pairs) > 1 else 0.0


def verdict(goal: str, first: Values, second: Values, least: float = 0.0) -> str:
    """Return a line that says whether the mean difference reaches a goal.

    Args:
        goal: what was wanted, in words.
        first: values that should be larger, by seed.
        second: values that they are compared with, by seed.
        least: smallest mean difference that meets the goal.
    """
    mean, deviation = difference(first, second)
    wins = sum(a > b for a, b in zip(first, second, strict=True))
    met = "**met**" if mean >= least else "**not met**"
    return (
        f"- {goal}: {met} ({mean:+.3f} ± {deviation:.3f}, better in {wins} of {len(first)} seeds; "
        f"wanted at least {least:+.3f})"
    )
