"""Recipes: every one can be built, listed, shown, compared, and written as YAML and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mimkit.core.methods import MAEConfig, build
from mimkit.pipelines.cli import main
from mimkit.pipelines.pretrain import defaults, option
from mimkit.pipelines.recipe import (
    check_recipe,
    load_recipe,
    peak_lr,
    recipe_function,
    recipe_grid,
    recipe_names,
    recipe_of,
    recipe_yaml,
)
from mimkit.pipelines.recipe_verb import RecipeFacts, compare, describe, facts, list_lines


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_says_what_it_is_and_survives_yaml(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    check_recipe(recipe)
    with torch.device("meta"):
        build(recipe.method, recipe_grid(recipe, 3))
    assert len((recipe_function(name).__doc__ or "").split()) > 8
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_yaml(recipe))
    assert load_recipe(path) == recipe


@pytest.mark.parametrize(
    ("name", "millions", "gflop"),
    [  # parameters of ViT without position table and head; GFLOP of performance anchors
        ("mae-base", 85.6, 58.0),
        ("mae-large", 303.1, 123.7),
        ("selectivemae-base", 85.6, 26.9),
    ],
)
def test_facts_are_those_of_the_published_sizes(name: str, millions: float, gflop: float) -> None:
    found = facts(name)
    assert found.millions == pytest.approx(millions, abs=0.3)
    assert found.gflop == pytest.approx(gflop, rel=0.03)


def test_the_rate_of_selectivemae_carries_its_factor() -> None:
    recipe = load_recipe("selectivemae-base")
    assert peak_lr(recipe) == pytest.approx(1.5e-4 * 2048 / 256 * 0.25 / 0.85)
    unscaled = replace(recipe, method=replace(recipe.method, scale_lr=False))  # type: ignore[call-arg]
    assert peak_lr(unscaled) == pytest.approx(1.5e-4 * 2048 / 256)


def test_the_command_line_starts_from_the_recipe() -> None:
    config = defaults(["--recipe=satellite/mae-tiny", "--data", "x"])
    assert isinstance(config.method, MAEConfig)
    assert recipe_of(config) == load_recipe("satellite/mae-tiny")
    assert option(["--a", "1", "--a=2"], "--a") == "2"
    assert option(["--ab", "1"], "--a") is None


def test_the_verb_lists_shows_and_compares(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in recipe_names())
    assert main(["recipe", "show", "mae-base"]) == 0
    shown = capsys.readouterr().out
    assert "peak learning rate 0.0024 = base 0.00015 x batch 4096 / 256" in shown
    assert "mask_ratio: 0.75" in shown
    assert main(["recipe", "diff", "mae-base", "mae-large"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == {
        f"method.encoder.{field}" for field in ("embed_dim", "depth", "num_heads")
    }
    assert compare("mae-base", "mae-base") == ["the two are the same"]


def test_the_list_is_grouped_by_method_and_narrow() -> None:
    large, small = (
        RecipeFacts(name, "mae", millions, 1234.5, 1000, (96, 96, 96), "Somebody et al., 2022")
        for name, millions in (("some/name-of-thirty-four-characters", 630.4), ("b", 0.8))
    )
    other = replace(large, method="hpm", name="c", source="Others, 2023")
    lines = list_lines([large, other, small])
    names = [line.split()[0] for line in lines if line]
    wanted = ["encoder", "hpm:", "c", "mae:", "b", "some/name-of-thirty-four-characters"]
    assert names[: len(wanted)] == wanted
    assert "mae: Somebody et al., 2022" in lines
    assert lines[6].split() == ["b", "0.8", "M", "1,234.50", "1000", "96", "x", "96", "x", "96"]
    assert max(map(len, lines)) <= 80


def test_what_is_shown_can_be_trained_with(tmp_path: Path) -> None:
    path = tmp_path / "shown.yaml"
    path.write_text(describe("satellite/mae-tiny"))
    assert load_recipe(path) == load_recipe("satellite/mae-tiny")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show"], "recipe show: takes 1 names, not 0"),
        (["diff", "mae-base"], "recipe diff: takes 2 names, not 1"),
        (["show", "mae-bas"], "did you mean 'mae-base'?"),
        (["show", "no-such.yaml"], "no-such.yaml: cannot be read"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_configuration_of_deepspeed_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recipe", "show", "satellite/selectivemae-tiny", "--zero-stage", "2"]
    assert main([*words, "--processes", "4"]) == 0
    text = capsys.readouterr().out
    shown = json.loads(text[text.index("\n{") :])
    assert shown["zero_optimization"]["stage"] == 2
    assert shown["train_micro_batch_size_per_gpu"] == 8
    assert main([*words, "--processes", "3"]) == 2
    assert "cannot be shared evenly by 3 processes" in capsys.readouterr().err
