"""Showing that long work goes on: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def say(text: str) -> None:
    """Print one message for the reader; it does not disturb a bar that is being shown."""
    print(text, flush=True)


def track(iterable: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield the items and show how many are done.

    Args:
        iterable: what is worked on.
        label: what is shown in front, a few words.
        total: number of items, taken from the iterable where it knows it.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Bar(label, total) as bar:
        for item in iterable:
            yield item
            bar.advance()


class Bar:
    """A progress bar that is advanced by hand; use it as a context manager.

    Args:
        label: what is shown in front.
        total: number of units, None when it is not known.
        done: units that were done before, for work that is continued.
    """

    def __init__(self, label: str, total: int | None = None, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self._rich: Progress | None = None
        self._task = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Bar:
        """Show the bar."""
        if sys.stderr.isatty():
            self._rich = _rich_bar()
            self._rich.start()
            self._task = self._rich.add_task(
                self.label, total=self.total, completed=self.done, info=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away; the last state stays readable."""
        if self._rich is not None:
            self._rich.stop()

    def advance(self, num: int = 1, info: str = "") -> None:
        """Count `num` more units and show `info` behind the bar."""
        self.done += num
        if self._rich is not None and self._task is not None:
            self._rich.advance(self._task, num)
            if info:
                self._rich.update(self._task, info=info)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            of = f" of {self.total}" if self.total is not None else ""
            print(f"{self.label}: {self.done}{of} {info}".rstrip(), file=sys.stderr, flush=True)


def _rich_bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
        console=Console(stderr=True),
    )
