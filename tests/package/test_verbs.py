"""Every verb of the table has its module, and its help says something about every option."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import tyro

from mimkit.pipelines import cli

# What tyro adds to a help text of its own accord.
ADDED = re.compile(
    r"\((default|required|optional|repeatable|sets|fixed|unset)\b.*?\)\s*", re.DOTALL
)
VERBS = sorted(cli.VERBS)


def module_of(verb: str) -> ModuleType:
    return import_module(f"mimkit.pipelines.{cli.VERBS[verb].module}")


def options_of(verb: str) -> dict[str, str]:
    """Return the help text of every option and positional argument of a verb."""
    module = module_of(verb)
    defaults = getattr(module, "defaults", None)
    start = defaults([]) if defaults else None
    given: dict[str, Any] = {} if start is None else {"default": start}
    parser = tyro.extras.get_parser(
        getattr(module, cli.VERBS[verb].config), config=(tyro.conf.AvoidSubcommands,), **given
    )
    found = {}
    for action in parser._actions:
        name = action.option_strings[0] if action.option_strings else str(action.metavar)
        found[name] = ADDED.sub("", action.help or "").strip()
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_a_configuration_and_a_function(verb: str) -> None:
    module = module_of(verb)
    config = getattr(module, cli.VERBS[verb].config)
    assert is_dataclass(config)
    assert config.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    assert all(field.kw_only for field in fields(config))
    assert callable(module.run)


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_printed(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    printed = capsys.readouterr()
    assert f"mimkit {verb}" in printed.out
    assert not printed.err


@pytest.mark.filterwarnings("ignore:get_parser")
@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_help_text(verb: str) -> None:
    assert [name for name, text in options_of(verb).items() if len(text) < 10] == []


def test_the_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, verb in cli.VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.help)}$", printed, re.MULTILINE)


def test_no_words_show_the_overview_and_are_wrong_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([]) == 2
    assert "usage: mimkit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pretrian"], "mimkit: verb 'pretrian': is not known; use 'pretrain'.\n"),
        (["xyzzy"], "mimkit: verb 'xyzzy': is not known; see `mimkit --help`.\n"),
    ],
)
def test_an_unknown_verb_is_one_sentence(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert capsys.readouterr().err == expected


def test_a_misspelt_option_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["curate", "--uot", "x"]) == 2
    printed = capsys.readouterr()
    assert "--uot" in printed.out + printed.err
    assert "Traceback" not in printed.out + printed.err
