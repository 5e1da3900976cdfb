"""The scaling study on a tiny grid, and the curve that it fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_samples import write_samples

from mimkit.core.methods import DecoderConfig
from mimkit.pipelines.pretrain import PretrainConfig, training_rows
from mimkit.pipelines.recipe import Recipe, load_recipe
from mimkit.pipelines.stores import open_group
from mimkit.pipelines.study import scaling, stores
from mimkit.pipelines.study.units import Study


def tiny(name: str) -> Recipe:
    base = load_recipe(name)
    encoder = replace(base.method.encoder, patch_size=8)
    decoder = DecoderConfig(dim=16, depth=1, num_heads=2)
    method = replace(base.method, encoder=encoder, decoder=decoder)
    return replace(base, method=method, image_size=(32, 32), batch_size=4)


def test_every_point_of_the_grid_is_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "load_recipe", tiny)
    monkeypatch.setattr(scaling, "SIZES", (scaling.Size(16, 1, 2), scaling.Size(32, 1, 2)))
    monkeypatch.setattr(scaling, "FRACTIONS", (0.5, 1.0))
    monkeypatch.setattr(scaling, "LENGTHS", (2, 6))
    samples = write_samples(tmp_path / "samples")
    study = Study(samples, tmp_path / "work", seeds=1, workers=1)
    section = scaling.section(study)
    lines = [line for line in section.text.splitlines() if "of the data" in line and "|" in line]
    assert len(lines) == 8
    assert section.pictures["scaling.png"].startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.json")}
    assert scaling.section(study).text == section.text  # nothing is done twice
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_power_law_finds_its_numbers() -> None:
    amounts = [0.1, 0.3, 1.0]
    losses = [0.4 * amount**-0.07 for amount in amounts]
    assert scaling.power_law(amounts, losses) == pytest.approx((0.4, 0.07))


def test_correlation_of_a_constant_is_not_invented() -> None:
    assert scaling.rank_correlation([1.0, 2.0, 3.0], [0.1, 0.2, 0.9]) == "+1.00"
    assert scaling.rank_correlation([1.0, 1.0], [0.1, 0.2]) == "not defined"


def test_smaller_shares_are_part_of_larger_ones(tmp_path: Path) -> None:
    stores.scenes_store(write_samples(tmp_path / "samples"), tmp_path)
    group, recipe = open_group(tmp_path / "scenes"), tiny("satellite/selectivemae-tiny")
    found = [
        set(
            training_rows(
                PretrainConfig(data=tmp_path, out=tmp_path, fraction=fraction), recipe, group
            ).tolist()
        )
        for fraction in (0.25, 0.5, 1.0)
    ]
    assert found[0] < found[1] < found[2]
    assert len(found[1]) == pytest.approx(len(found[2]) / 2, abs=1)
