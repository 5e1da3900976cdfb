"""What a page is made of; the template knows how each kind looks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

Tone = Literal["plain", "good", "warn", "bad"]


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Args:
        text: plain text.
        tone: how it is marked.
    """

    kind: ClassVar[str] = "text"
    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: what it says.
        shade: how strongly it is coloured, 0 to 1.
        strong: set in bold.
    """

    text: str
    shade: float = 0.0
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first column names its rows, the others are aligned to the right.

    Args:
        head: names of the columns.
        rows: one cell per column; a plain string stands for a cell without colour.
        caption: what it shows.
    """

    kind: ClassVar[str] = "table"
    head: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    caption: str = ""

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows with every string turned into a cell."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Args:
        uri: the bytes as a data URI.
        alt: what it shows, for those who cannot see it.
        caption: line below it.
        wide: takes the whole width.
    """

    uri: str
    alt: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Figures:
    """Diagrams side by side, as many as fit."""

    kind: ClassVar[str] = "figures"
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """Small pictures in rows and named columns.

    Args:
        head: names of the columns.
        rows: label of the row and one picture per column.
        caption: what is shown.
        legend: names and colours ("#rrggbb") of what is marked.
    """

    kind: ClassVar[str] = "gallery"
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Picture, ...]], ...]
    caption: str = ""
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """Text as written, folded away behind a title."""

    kind: ClassVar[str] = "code"
    title: str
    text: str
    open: bool = False


Block = Text | Table | Figures | Gallery | Facts | Code


@dataclass(frozen=True)
class Section:
    """A part of a chapter."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Verdict:
    """What a reader who reads nothing else should know.

    Args:
        tone: of the whole run.
        headline: one sentence.
        findings: what went well or was measured.
        problems: what is wrong, each with what to do.
    """

    tone: Tone
    headline: str
    findings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chapter:
    """One run."""

    title: str
    verdict: Verdict
    sections: tuple[Section, ...] = field(default=())


@dataclass(frozen=True)
class Page:
    """A report.

    Args:
        title: of the page.
        chapters: one per run.
        comparison: runs side by side, when there are several.
        footer: last line.
    """

    title: str
    chapters: tuple[Chapter, ...]
    comparison: Table | None = None
    footer: str = ""
