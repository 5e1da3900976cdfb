"""The study on a tiny sample folder: every part, the page, and what a killed study keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_samples import NUM_TEST, NUM_TRAIN, write_samples

from mimkit.core.batch import Batch
from mimkit.core.errors import UserError
from mimkit.core.methods import DecoderConfig
from mimkit.datasets.errors import DataError
from mimkit.pipelines.cli import main
from mimkit.pipelines.recipe import Recipe, load_recipe
from mimkit.pipelines.stores import open_group
from mimkit.pipelines.study import (
    cloud_tiles,
    clouds,
    finetuning,
    reconstruct,
    scenes,
    settings,
    stores,
    tuning,
    units,
)
from mimkit.pipelines.study.page import spread, table, verdict
from mimkit.pipelines.study.run import PARTS, run_study
from mimkit.pipelines.study.units import Study, Unit, run_units


@pytest.fixture(scope="session")
def samples_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples"))


def tiny(name: str) -> Recipe:
    """Return a recipe with a network that trains in no time."""
    base = load_recipe(name)
    encoder = replace(base.method.encoder, embed_dim=16, depth=1, num_heads=2, patch_size=8)
    decoder = DecoderConfig(dim=16, depth=1, num_heads=2)
    method = replace(base.method, encoder=encoder, decoder=decoder)
    return replace(base, method=method, image_size=(32, 32), batch_size=8)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every run of the study as short as it can be."""
    for module in (scenes, reconstruct):
        monkeypatch.setattr(module, "load_recipe", tiny)
    monkeypatch.setattr(scenes, "EPOCHS", 2)
    monkeypatch.setattr(scenes, "_TURNS", 2)
    monkeypatch.setattr(scenes, "DRAWS", 2)
    monkeypatch.setattr(scenes, "FEW", 2)
    names = [scenes.key(kind, n) for n in (None, 2) for kind in ("linear", "kNN")]
    monkeypatch.setattr(scenes, "COLUMNS", names)
    monkeypatch.setattr(scenes, "_JUDGED", (names[0], names[2]))
    monkeypatch.setattr(settings, "EPOCHS", 2)
    few = dict(list(settings.VARIANTS.items())[:2])
    monkeypatch.setattr(settings, "VARIANTS", few)
    monkeypatch.setattr(finetuning, "LABELS", {"all labels": (None, 1), "2 a class": (2, 1)})
    for module in (tuning, finetuning, clouds):
        monkeypatch.setattr(module, "RATES", (1e-3, 1e-2))
    monkeypatch.setattr(reconstruct, "NUM_IMAGES", 4)
    monkeypatch.setattr(reconstruct, "SHOWN", 2)
    short = {d: replace(d, epochs=1) for d in (*reconstruct.DATA, clouds.ACROSS)}
    monkeypatch.setattr(reconstruct, "CLOUDS", short[reconstruct.CLOUDS])
    monkeypatch.setattr(reconstruct, "DATA", tuple(short[d] for d in reconstruct.DATA))
    monkeypatch.setattr(clouds, "ACROSS", short[clouds.ACROSS])
    asked = tuple(replace(s, data=short[s.data], epochs=1, labels=2) for s in clouds.SETTINGS)
    monkeypatch.setattr(clouds, "SETTINGS", asked)


@pytest.mark.usefixtures("quick")
def test_every_part_writes_its_section_and_pictures(samples_folder: Path, tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    words = ["evaluate", "--study", "satellite", "--samples", str(samples_folder)]
    words += ["--out", str(out), "--work", str(work), "--seeds", "2", "--workers", "1"]
    assert main([*words, "--parts", "reconstruct"]) == 0
    assert main(words) == 0
    text = (out / "satellite.md").read_text()
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert len(titles) == 1 + len(PARTS)
    assert "--seeds 2" in text
    assert text.count("**met**") + text.count("**not met**") == 4 + 2 + 6 + 4
    for picture in ("scenes", "finetune", "reconstruct"):
        assert f"](satellite-{picture}.png)" in text
        png = (out / f"satellite-{picture}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        assert 1000 < len(png) < 300_000
    # The same command again does nothing but write the page.
    files = {path: path.stat().st_mtime_ns for path in (work / "numbers").rglob("*.json")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert (out / "satellite.md").read_text() == text


@pytest.mark.usefixtures("quick")
def test_scenes_probe_the_test_part_once_and_learn_from_the_training_part(
    samples_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    read = scenes.read_probe_data

    def spy(reading: Any, sources: Any, task: Any, train: np.ndarray, test: np.ndarray) -> Any:
        group = reading.group
        splits = np.array(group.column("split"))
        assert set(splits[test]) in ({"test"}, {"val"})
        assert "test" not in set(splits[train])
        seen.append((len(train), len(test)))
        return read(reading, sources, task, train, test)

    monkeypatch.setattr(scenes, "read_probe_data", spy)
    study = Study(samples_folder, tmp_path, 1, 1)
    results, epochs, seconds = scenes.run(study)
    assert epochs["SelectiveMAE"] == scenes.EPOCHS
    assert seconds["MAE"] > 0
    assert set(results) == {"SelectiveMAE-0", "MAE-0", "random-0", "pixels"}
    assert results["pixels"]["band means"]["linear, all labels"] == 1.0  # brightness tells all
    assert set(seen) == {(4 * NUM_TRAIN, 4 * NUM_TEST)}
    seen.clear()
    settings.section(study)
    assert set(seen) == {(4 * NUM_TRAIN * 3 // 4, 4 * NUM_TRAIN // 4)}


def test_equal_time_gives_the_slower_method_fewer_epochs() -> None:
    assert scenes.equal_time(30, {"fast": 2.0, "slow": 5.0}, "fast") == {"fast": 30, "slow": 12}
    assert scenes.equal_time(1, {"fast": 1.0, "slow": 9.0}, "fast")["slow"] == 1


def test_the_training_part_is_divided_within_every_class_and_scale(samples_folder: Path) -> None:
    lines = stores.divided(samples_folder / "satellite" / "rsscn7_128" / "index.csv").splitlines()
    rows = [line.split(",") for line in lines[1:]]
    parts = [part for _, _, part in rows]
    assert (parts.count("train"), parts.count("val"), parts.count("test")) == (24, 8, 16)
    block = [part for name, _, part in rows if name.startswith("images/a0")]
    assert block == ["train"] * 6 + ["val"] * 2 + ["test"] * 4


def test_strips_of_a_scene_share_no_ground(samples_folder: Path, tmp_path: Path) -> None:
    for division in stores.DIVISIONS:
        group = open_group(stores.make_store(f"clouds-{division}", samples_folder, tmp_path))
        assert group.meta.classes == ("shadow", "water", "land", "cloud")
        names = [row.partition(":")[0] for row in group.column("id")]
        by_strip = dict(zip(names, group.column("split"), strict=True))
        assert by_strip == stores.DIVISIONS[division]
        assert len(set(zip(names, group.column("split"), strict=True))) == len(by_strip)
    scene = np.load(samples_folder / "satellite" / "cloudmask" / "landsat5.npz")["img"]
    strips = [np.load(tmp_path / "strips" / f"landsat5-{i}.npz")["img"] for i in range(4)]
    np.testing.assert_array_equal(np.concatenate(strips, axis=1), scene)


@pytest.mark.parametrize(
    ("name", "path"), [("scenes", "rsscn7_128/index.csv"), ("clouds-within", "landsat5.npz")]
)
def test_missing_samples_are_named(tmp_path: Path, name: str, path: str) -> None:
    with pytest.raises(DataError, match=f"{path}: is not there"):
        stores.make_store(name, tmp_path / "none", tmp_path / "work")


def test_unknown_parts_and_too_few_seeds_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--study", "satellite", "--samples", str(tmp_path), "--out", str(tmp_path)]
    assert main([*words, "--parts", "nonsense"]) == 2
    assert "part 'nonsense': is not known; use some of scenes" in capsys.readouterr().err
    assert main([*words, "--seeds", "0"]) == 2
    assert "seeds 0: is too small" in capsys.readouterr().err


def test_other_settings_are_another_unit_and_another_run(tmp_path: Path) -> None:
    one, other = (Unit("p", "name", "m:f", {"rate": rate}) for rate in (1, 2))
    assert one.path(tmp_path) != other.path(tmp_path)
    assert one.path(tmp_path) == Unit("p", "name", "m:f", {"rate": 1}).path(tmp_path)
    paths = {units.run_path(tmp_path, "run", {"rate": rate}) for rate in (1, 2, 1)}
    assert len(paths) == 2


def work_units(names: str) -> list[Unit]:
    """Return units that divide a table, a function of the study that needs no training."""
    return [
        Unit("x", name, "scenes:key", {"kind": name, "labels": place})
        for place, name in enumerate(names)
    ]


def test_a_study_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def key(work: Path, kind: str, labels: int) -> dict[str, Any]:
        if kind == "c" and "c" not in done:
            done.append(kind)
            raise UserError("unit c", "went wrong", "repeat")
        done.append(kind)
        return {"labels": labels}

    monkeypatch.setattr(scenes, "key", key)
    study = Study(tmp_path, tmp_path, 1, 1)
    with pytest.raises(UserError, match="went wrong"):
        run_units(work_units("abcd"), study, "test")
    assert done == ["a", "b", "c"]
    assert run_units(work_units("abcd"), study, "test") == {
        name: {"labels": place} for place, name in enumerate("abcd")
    }
    assert done == ["a", "b", "c", "c", "d"]


@pytest.mark.usefixtures("quick")
def test_processes_give_the_numbers_of_one_process(samples_folder: Path, tmp_path: Path) -> None:
    """Children know nothing of what a test replaced, so all settings travel as plain data."""
    found = []
    for workers in (1, 2):
        study = Study(samples_folder, tmp_path / str(workers), 2, workers)
        stores.scenes_store(study.samples, study.work)
        todo = [u for u in scenes.units(study, {"SelectiveMAE": 1, "MAE": 1}) if "MAE-1" in u.name]
        results = run_units(todo, study, "test")
        assert set(results) == {"SelectiveMAE-1", "MAE-1"}
        found.append({name: dict(numbers, cpu_minutes=0) for name, numbers in results.items()})
    # Children draw eight times, this process twice, so only what has no draws is compared.
    for name in found[0]:
        for column in ("linear, all labels", "kNN, all labels"):
            assert found[0][name][column] == found[1][name][column]


def test_what_goes_wrong_in_a_process_is_said_here(tmp_path: Path) -> None:
    study = Study(tmp_path, tmp_path, 1, 2)
    missing = [Unit("x", n, "scenes:probe_pixels", {"recipe": {}}) for n in "ab"]
    with pytest.raises(DataError, match="there is no such folder"):
        run_units(missing, study, "test")


def test_pre_trained_encoders_start_the_fine_tuning_and_scratch_does_not() -> None:
    trained, scratch = (finetuning.tuning(start, "all labels", 3) for start in tuning.STARTS)
    assert replace(trained, start="scratch") == scratch
    assert trained.model == scratch.model
    assert "scenes-SelectiveMAE-3" in trained.model
    assert [run.judge for run in tuning.candidates(trained)] == ["val"] * len(tuning.RATES)
    assert tuning.best_rate({1e-3: 0.5, 1e-2: 0.7, 1e-1: 0.7}) == 1e-2


def test_small_tiles_are_cloudy_before_they_are_shadow() -> None:
    labels = torch.full((4, 10, 10), 2)
    labels[1, :3], labels[2, :3], labels[3, :3] = 3, 0, 0
    labels[3, 5:8] = 3
    batch = Batch(torch.zeros(4, 1, 10, 10), None, torch.arange(4), labels)
    found = cloud_tiles.tile_classes(batch, ("shadow", "water", "land", "cloud"))
    assert [cloud_tiles.CLASSES[n] for n in found.tolist()] == [
        "clear",
        "cloudy",
        "shadow",
        "cloudy",
    ]


def test_numbers_are_told_with_their_spread() -> None:
    assert spread([0.5, 0.7]) == "0.600 ± 0.141"
    assert spread([0.5]) == "0.500"
    rows = [("one", [[0.1], [0.2]]), ("two", [[0.3, 0.5], [0.4]])]
    assert table(("a", "b"), rows).splitlines()[2:] == [
        "| one | 0.100 | 0.200 |",
        "| two | 0.400 ± 0.141 | 0.400 |",
    ]


@pytest.mark.parametrize(
    ("first", "least", "answer"),
    [([0.7, 0.9], 0.1, "**met**"), ([0.7, 0.9], 0.25, "**not met**"), ([0.5, 0.5], 0.0, "**not")],
)
def test_a_verdict_follows_from_the_numbers(first: list[float], least: float, answer: str) -> None:
    line = verdict("goal", first, [0.6, 0.6], least)
    assert answer in line
    wins = sum(value > 0.6 for value in first)
    assert f"better in {wins} of 2 seeds" in line


def test_only_the_named_parts_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def part(name: str) -> Callable[[Study], Any]:
        def section(study: Study) -> Any:
            called.append(name)
            return scenes.Section(f"## {name}\n", {f"{name}.png": b"png"})

        return section

    for name in list(PARTS):
        monkeypatch.setitem(PARTS, name, part(name))
    study = Study(tmp_path, tmp_path / "work", 1, 1)
    run_study(study, ("clouds",), tmp_path / "out")
    (tmp_path / "out" / "satellite.md").open("a").write("\n## Reading\n\nBy hand.\n")
    page = run_study(study, ("scenes",), tmp_path / "out")
    assert called == ["clouds", "scenes"]
    text = page.read_text()
    assert text.endswith("\n## clouds\n\n## Reading\n\nBy hand.\n")
    assert text.index("## scenes") < text.index("## clouds")
    assert (tmp_path / "out" / "clouds.png").read_bytes() == b"png"
    assert json.dumps(text)
