"""The CT study on real volumes: tested patients are unseen, patches are apart, a whole page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mimkit.core.methods import DecoderConfig, EncoderConfig, HiEndMAEConfig, MAEConfig
from mimkit.datasets.errors import DataError
from mimkit.pipelines.cli import main
from mimkit.pipelines.recipe import Recipe, load_recipe
from mimkit.pipelines.stores import open_group
from mimkit.pipelines.study import ct, ct_data, ct_organs, ct_tumours, scenes

ENCODER = EncoderConfig(embed_dim=24, depth=5, num_heads=2, patch_size=(4, 8, 8))
CROP = (12, 24, 24)
DECODER = DecoderConfig(dim=16, depth=1, num_heads=2)


def tiny(name: str) -> Recipe:
    base = load_recipe(name)
    assert isinstance(base.method, HiEndMAEConfig | MAEConfig)
    return replace(base, method=replace(base.method, encoder=ENCODER, decoder=DECODER))


def test_everybody_is_tested_once_and_chooses_nothing_for_the_own_seed(samples: Path) -> None:
    names = ct_data.patients(samples)
    assert len(names) == 10
    divisions = [ct_data.divide(names, seed) for seed in range(5)]
    assert sorted(name for d in divisions for name in d.tested) == sorted(names)
    for division in divisions:
        everybody = (*division.tested, *division.chosen_on, *division.teaching)
        assert sorted(everybody) == sorted(names)
    with pytest.raises(DataError, match="--samples"):
        ct_data.patients(samples / "ct")


def test_an_ellipsoid_touches_the_margin() -> None:
    mask = ct_tumours.ellipsoid((120, 130, 61), (1.0, 1.0, 2.0))
    low, high = (edge(0) for edge in (np.argwhere(mask).min, np.argwhere(mask).max))
    assert low.tolist() == [51, 51, 26]
    assert high.tolist() == [68, 78, 34]


def test_positions_that_teach_keep_the_gap_to_those_that_are_judged(samples: Path) -> None:
    loaded = ct_organs.read_abdomen(samples)
    places = ct_organs.draw_places(loaded, seed=0)
    assert {"liver", "kidney", "rib", "vertebrae"} <= set(places.classes)
    assert ct_organs.merged("lung_upper_lobe_left") == "lung_upper_lobe"
    judged = np.zeros(len(places.organs), dtype=int)
    for teach, rows in ct_organs.folds(places):
        judged += rows
        distance = np.abs(places.centres[teach][:, None] - places.centres[rows][None])
        assert (distance >= np.array(ct_organs.GAP)).any(axis=2).all()
    assert judged.max() == 1
    assert ct_organs.judged_rows(places).sum() > 500
    assert np.less_equal(ct_organs.SIZES["48 mm"], ct_organs.GAP).all()


def test_study_from_files_to_page(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ct, "load_recipe", tiny)
    monkeypatch.setattr(ct, "EPOCHS", 1)
    monkeypatch.setattr(ct, "TUNE_EPOCHS", 1)
    monkeypatch.setattr(ct, "RATES", (0.1,))
    for module in (ct, ct_data):
        monkeypatch.setattr(module, "CROP", CROP)
        monkeypatch.setattr(module, "SPACING", (8.0, 6.0, 6.0))
    monkeypatch.setattr(ct_data, "STRIDE", CROP)
    monkeypatch.setattr(ct_data, "OTHERS", ("chest_small",))
    monkeypatch.setattr(ct_organs, "MOST", 12)
    monkeypatch.setattr(ct_organs, "LEAST", 3)
    monkeypatch.setattr(scenes, "_TURNS", 2)
    work, out = tmp_path / "work", tmp_path / "out"
    words = ["evaluate", "--study", "ct", "--samples", str(samples), "--out", str(out)]
    words += ["--work", str(work), "--seeds", "1", "--workers", "1"]
    assert main(words) == 0
    text = (out / "ct.md").read_text()
    assert "mimkit evaluate --study ct" in text
    assert text.count("**met**") + text.count("**not met**") == 9
    for name in ct.ROWS.values():
        assert text.count(f"| {name} |") == 2 + (name in text.split("seed that tests them")[1])
    assert (out / "ct.png").read_bytes().startswith(b"\x89PNG")
    tested = ct_data.divide(ct_data.patients(samples), 0).tested
    for name in (ct_data.unlabelled(0), ct_data.drawn(0)):
        store = work / name
        assert not set(open_group(store).column("group")) & set(tested)
        with pytest.raises(DataError, match="who is tested"):
            ct_data.check_unseen(store, ("STS_008",))
    assert not open_group(work / ct_data.unlabelled(0)).meta.classes
    for name in tested:
        assert f"| {name} |" in text
