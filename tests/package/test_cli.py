"""How a verb ends: exit codes, one sentence for an error, a traceback only when asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mimkit.core.errors import UsageError, WeightsError
from mimkit.datasets.errors import DataError
from mimkit.pipelines import cli


@dataclass(frozen=True, kw_only=True)
class Config:
    """Do something.

    The whole text is the help.
    """

    size: int = 3
    """How much of it."""


@pytest.fixture
def ends_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that gives a verb's `run` and runs that verb through the command line."""

    def ends_with(run: Callable[[Any], Any], *words: str, **more: Any) -> int:
        module = ModuleType("mimkit.pipelines.fake")
        vars(module).update({"Config": Config, "run": run, **more})
        monkeypatch.setitem(sys.modules, "mimkit.pipelines.fake", module)
        monkeypatch.setitem(cli.VERBS, "fake", cli.Verb("fake", "Config", "does something"))
        return cli.main(["fake", *words])

    return ends_with


def raises(error: BaseException) -> Callable[[Config], None]:
    def run(config: Config) -> None:
        raise error

    return run


def test_options_reach_the_verb(ends_with: Callable[..., int]) -> None:
    seen: list[Config] = []
    assert ends_with(seen.append, "--size", "5") == 0
    assert seen == [Config(size=5)]


@pytest.mark.parametrize(
    ("value", "code"), [(None, 0), (0, 0), (1, 1), (3, 3), (True, 0), ("a path", 0)]
)
def test_only_an_integer_is_an_exit_code(
    value: object, code: int, ends_with: Callable[..., int]
) -> None:
    assert ends_with(lambda config: value) == code


@pytest.mark.parametrize(
    ("verb", "domain"), [(v, d) for v in cli.VERBS for d in cli.VERBS[v].domains]
)
def test_help_leads_to_the_forms_of_other_domains(
    verb: str, domain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever asks how to curate learns that CT is curated by other words."""
    for words in ([verb, "--help"], ["--help"]):
        assert cli.main(words) == 0
        shown = capsys.readouterr().out
        assert f"{verb} {domain}" in shown
        assert cli.VERBS[verb].domains[domain].help in shown


def test_defaults_may_depend_on_the_words(ends_with: Callable[..., int]) -> None:
    seen: list[Config] = []
    start = {"defaults": lambda words: Config(size=len(words))}
    assert ends_with(seen.append, **start) == 0
    assert ends_with(seen.append, "--size", "9", **start) == 0
    assert seen == [Config(size=0), Config(size=9)]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UsageError("size 3", "is odd", "use 4"), 2, "mimkit: size 3: is odd; use 4.\n"),
        (WeightsError("w.pt", "is broken", "copy it"), 1, "mimkit: w.pt: is broken; copy it.\n"),
        (DataError("a.tif", "is empty", "omit it."), 1, "mimkit: a.tif: is empty; omit it.\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "check the path, its permissions"),
        (OSError(28, "No space left on device"), 1, "the space left on the disk.\n"),
        (ZeroDivisionError("a\nb"), 1, "unexpected ZeroDivisionError in run: a b; run again with"),
        (KeyboardInterrupt(), 130, "mimkit: interrupted; the same command continues"),
        (SystemExit(4), 4, ""),
        (SystemExit("words"), 1, ""),
        (SystemExit(None), 0, ""),
    ],
)
def test_an_error_is_one_sentence(
    error: BaseException,
    code: int,
    says: str,
    ends_with: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ends_with(raises(error)) == code
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") <= 1
    assert "Traceback" not in printed.err
    assert not printed.out


def test_debug_shows_the_traceback_and_the_sentence(
    ends_with: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(raises(UsageError("size", "is odd", "use 4")), "--debug") == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert printed.endswith("mimkit: size: is odd; use 4.\n")


def test_wrong_words_are_usage(
    ends_with: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(raises(AssertionError("is not reached")), "--size", "many") == 2
    printed = capsys.readouterr()
    assert "--size" in printed.err + printed.out
    assert "Traceback" not in printed.err + printed.out


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "mimkit", "--help"]
    read, written = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            command, stdout=written, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(written)
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["python", "mimkit"])
def test_the_module_and_the_command_are_one_program(name: str) -> None:
    command = {
        "python": [sys.executable, "-m", "mimkit"],
        "mimkit": [str(Path(sys.executable).with_name("mimkit"))],
    }[name]
    done = subprocess.run([*command, "xyzzy"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "mimkit: verb 'xyzzy': is not known; see `mimkit --help`.\n"
