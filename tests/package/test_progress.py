"""Progress: every item passes, plain lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import io
import sys

import pytest

from mimkit.pipelines import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose last entry is the time."""
    times = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[-1])
    return times


def test_messages_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say("done")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("done\n", "")


def test_every_item_passes_and_a_quick_loop_says_nothing(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(progress.track(iter("abc"), "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_slow_work_prints_a_line_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in progress.track(range(5), "tiles"):
        clock.append(clock[-1] + 6.0)
    assert capsys.readouterr().err == "tiles: 2 of 5\ntiles: 4 of 5\n"


def test_a_bar_counts_what_was_done_before(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.Bar("steps", done=100) as bar:
        clock.append(11.0)
        bar.advance(5, "loss 0.5")
    assert bar.done == 105
    assert capsys.readouterr().err == "steps: 105 loss 0.5\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.Bar("steps", total=10, done=3) as bar:
        bar.advance(2, "loss 0.5")
        bar.advance()
    shown = terminal.getvalue()
    assert "steps" in shown
    assert "6/10" in shown
    assert "loss 0.5" in shown
