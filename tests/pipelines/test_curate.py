"""Curation end to end on tiny scenes: what comes out, and that it is the same however it is run."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_scenes import scene_pixels, write_archive, write_scene

from mimkit.core.errors import UsageError
from mimkit.datasets.errors import DataError
from mimkit.datasets.manifest import KEPT, ManifestRow, manifest_rows, read_manifest
from mimkit.datasets.store import Store
from mimkit.pipelines.cli import main
from mimkit.pipelines.curate.card import CurateReport
from mimkit.pipelines.curate.run import CurateConfig, run

GROUP = "landsat8-oli-3x32x32-uint16"


def curate(sources: Path, out: Path, **changes: object) -> CurateReport:
    settings = {"sensor": "landsat8-oli", "size": 32, "cell_km": 2.0, "workers": 0, **changes}
    return run(CurateConfig(sources=(sources,), out=out, **settings))  # type: ignore[arg-type]


def content(out: Path) -> dict[str, bytes]:
    """Return all files of a store but the restart state."""
    files = [p for p in sorted(out.rglob("*")) if p.is_file()]
    names = {p: p.relative_to(out).as_posix() for p in files}
    return {n: p.read_bytes() for p, n in names.items() if not n.startswith("stages/")}


def rows_of(out: Path) -> dict[str, ManifestRow]:
    return {row.id: row for row in manifest_rows(read_manifest(out / "manifest.parquet"))}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("archive") / "scenes", num_scenes=6)


@pytest.fixture(scope="module")
def curated(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("curated") / "store"
    report = curate(archive, out)
    assert report.num_kept == 24
    return out


def test_pixels_positions_and_parts_arrive_in_the_store(archive: Path, curated: Path) -> None:
    rows = rows_of(curated)
    store = Store(curated / GROUP)
    assert store.meta.bands == ("B2", "B3", "B4")
    assert len(store) == len(rows) == 24
    row = rows["scene3:000032:000000"]
    assert row.status == KEPT
    assert row.row is not None
    samples = store.read(np.array([row.row]))
    np.testing.assert_array_equal(samples.pixels[0], scene_pixels(3)[:, 32:, :32])
    assert samples.valid is not None
    assert samples.valid.all()
    assert row.transform == (30.0, 0.0, 709_000.0, 0.0, -30.0, 7_199_040.0)
    assert row.crs == "EPSG:32621"
    assert row.gsd == pytest.approx(30)
    assert {r.split for r in rows.values()} == {"train", "val", "test"}
    assert [r.row for r in rows.values()] == list(range(24))  # sorted by id


def test_the_card_counts_everything_and_the_parts_do_not_leak(curated: Path) -> None:
    card = json.loads((curated / "card.json").read_text())
    assert card["scenes"] == {"found": 6, "broken": 0}
    assert card["stages"] == {"pack": {"kept": 24}}
    assert sum(card["splits"].values()) == card["rows"] == 24
    assert card["leakage"]["near_duplicate_pairs"] == 0
    assert card["leakage"]["shared_checksums"] == 0
    assert card["leakage"]["train_test_gap_km"] is not None
    assert "out" not in card["settings"]


def test_the_normaliser_knows_the_training_tiles_only(curated: Path) -> None:
    stored = json.loads((curated / GROUP / "normaliser.json").read_text())
    train = [row.row for row in rows_of(curated).values() if row.split == "train"]
    pixels = Store(curated / GROUP).read(np.array(train)).pixels
    mean = pixels.mean(axis=(0, 2, 3)) * 2e-5 - 0.1
    np.testing.assert_allclose(stored["mean"], mean, rtol=0.01)
    assert stored["bands"] == ["B2", "B3", "B4"]


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_bytes(
    archive: Path, curated: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimkit.domains.satellite.curate.check._UNIT_SCENES", 2)
    monkeypatch.setattr("mimkit.domains.satellite.curate.slice._UNIT_SCENES", 2)
    curate(archive, tmp_path / "out", workers=workers)
    assert content(tmp_path / "out") == content(curated)


KILLER = """
import os, signal, sys
from pathlib import Path
import mimkit.pipelines.curate.execute as execute
import mimkit.domains.satellite.curate.check as check
import mimkit.domains.satellite.curate.slice as slicing
check._UNIT_SCENES = slicing._UNIT_SCENES = 3
from mimkit.pipelines.curate.run import CurateConfig, run
moment, left = sys.argv[3], 1
perform = execute.Job.__call__
def dying(job):
    global left
    if left == 0 and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    perform(job)
    if left < 0 and moment == "after":
        os.kill(os.getpid(), signal.SIGKILL)
execute.Job.__call__ = dying
if moment == "writing":
    import mimkit.datasets.store as store
    append = store.StoreWriter._stored
    def stored(writer, name, sample):
        global left
        left -= 1
        if left < -20:
            os.kill(os.getpid(), signal.SIGKILL)
        return append(writer, name, sample)
    store.StoreWriter._stored = stored
if moment == "manifest":
    import mimkit.pipelines.curate.base as module
    module.write_manifest = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
run(CurateConfig(sources=(Path(sys.argv[1]),), out=Path(sys.argv[2]), sensor="landsat8-oli",
                 size=32, cell_km=2.0, workers=0))
"""


@pytest.mark.parametrize(
    "moments", [("before", "after", "after"), ("writing", "writing"), ("manifest",)]
)
def test_killed_runs_continue_to_the_same_bytes(
    archive: Path, curated: Path, tmp_path: Path, moments: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    for moment in moments:
        words = [sys.executable, "-c", KILLER, str(archive), str(out), moment]
        killed = subprocess.run(words, capture_output=True, check=False)
        assert killed.returncode == -9, killed.stderr.decode()
        assert not (out / "manifest.parquet").exists()
    curate(archive, out)
    assert content(out) == content(curated)


def test_repeating_a_finished_run_changes_nothing_and_does_no_work(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curate(archive, tmp_path)
    before = content(tmp_path)

    def fail(*_: object) -> None:
        raise AssertionError("work was done again")

    monkeypatch.setattr("mimkit.pipelines.curate.execute.Job.__call__", fail)
    curate(archive, tmp_path)
    assert content(tmp_path) == before


def test_other_settings_in_the_same_folder_are_refused(archive: Path, tmp_path: Path) -> None:
    curate(archive, tmp_path)
    with pytest.raises(UsageError, match=r"size 32 -> 16.*choose another --out"):
        curate(archive, tmp_path, size=16)
    curate(archive, tmp_path, workers=1, max_broken_share=0.5)


def test_another_curation_at_work_in_the_folder_is_noticed(archive: Path, tmp_path: Path) -> None:
    from mimkit.pipelines.curate.execute import claimed

    with claimed(tmp_path, {}), pytest.raises(UsageError, match="another curation is at work"):
        curate(archive, tmp_path)


def test_new_scenes_are_added_by_the_same_command(archive: Path, tmp_path: Path) -> None:
    source = tmp_path / "scenes"
    shutil.copytree(archive, source)
    (source / "scene5.tif").unlink()
    curate(source, tmp_path / "out")
    shutil.copy(archive / "scene5.tif", source)
    curate(source, tmp_path / "out")
    curate(source, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("this is no image\n")


def without_crs(path: Path) -> None:
    write_scene(path, scene_pixels(50), crs=None)


def without_data(path: Path) -> None:
    write_scene(path, np.zeros((3, 64, 64), np.uint16))


def wrong_dtype(path: Path) -> None:
    write_scene(path, scene_pixels(50).astype(np.float64))


def fewer_bands(path: Path) -> None:
    write_scene(path, scene_pixels(50)[:2], bands=("B2", "B3"))


def other_bands(path: Path) -> None:
    write_scene(path, scene_pixels(50), bands=("x", "y", "z"))


def reflectance(path: Path) -> None:
    write_scene(path, (scene_pixels(50) > 10_000).astype(np.uint16))


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (truncated, "unreadable"),
        (empty, "unreadable"),
        (text, "unreadable"),
        (without_crs, "missing_crs"),
        (without_data, "all_nodata"),
        (wrong_dtype, "wrong_dtype"),
        (fewer_bands, "missing_bands"),
        (other_bands, "missing_bands"),
        (reflectance, "implausible_scale"),
    ],
)
def test_a_broken_file_is_a_row_with_its_reason_and_the_run_goes_on(
    archive: Path, tmp_path: Path, spoil: Callable[[Path], None], status: str
) -> None:
    source = tmp_path / "scenes"
    shutil.copytree(archive, source)
    spoil(source / "scene2.tif")
    report = curate(source, tmp_path / "out", require_crs=True)
    rows = rows_of(tmp_path / "out")
    assert rows["scene2"].status == status
    assert rows["scene2"].reason
    assert rows["scene2"].row is None
    assert report.num_kept == 20
    assert report.num_broken == 1
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["rejected"] == {status: 1}


def test_scenes_without_crs_are_kept_unless_asked_for(archive: Path, tmp_path: Path) -> None:
    source = tmp_path / "scenes"
    shutil.copytree(archive, source)
    without_crs(source / "scene2.tif")
    report = curate(source, tmp_path / "out")
    assert report.num_kept == 24
    row = rows_of(tmp_path / "out")["scene2:000000:000000"]
    assert (row.crs, row.lon, row.transform) == (None, None, None)


def test_too_many_broken_files_end_with_code_1_after_everything_is_written(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "scenes"
    shutil.copytree(archive, source)
    for number in (1, 2, 3):
        empty(source / f"scene{number}.tif")
    words = ["curate", str(source), "--out", str(tmp_path / "out"), "--sensor", "landsat8-oli"]
    assert main([*words, "--size", "32", "--workers", "0"]) == 1
    assert "3 of 6 scenes are broken" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "out")) == 12 + 3


def test_tiles_that_are_not_worth_keeping(tmp_path: Path) -> None:
    pixels = scene_pixels(0, size=(64, 96))
    pixels[:, :32, :32] = 0  # outside the swath
    pixels[:, :32, 32:64] = 9000  # blank
    pixels[:, :32, 64:] = 25_000 + pixels[:, :32, 64:] // 50  # cloud
    pixels[:, 32:, :32] = pixels[:, 32:, 32:64]  # a copy
    write_scene(tmp_path / "scenes" / "a.tif", pixels)
    curate(tmp_path / "scenes", tmp_path / "out", max_cloud=0.5)
    status = {row.id: row.status for row in rows_of(tmp_path / "out").values()}
    assert status == {
        "a:000000:000000": "low_valid",
        "a:000000:000032": "low_contrast",
        "a:000000:000064": "cloudy",
        "a:000032:000000": KEPT,
        "a:000032:000032": "duplicate",
        "a:000032:000064": KEPT,
    }


def test_dense_labels_lie_on_their_pixels(tmp_path: Path) -> None:
    pixels = scene_pixels(0)
    values = np.random.default_rng(0).integers(0, 3, (1, 64, 64), dtype=np.uint8)
    write_scene(tmp_path / "scenes" / "a.tif", pixels)
    write_scene(tmp_path / "scenes" / "masks" / "a.tif", values, bands=None)
    curate(
        tmp_path / "scenes",
        tmp_path / "out",
        masks=str(tmp_path / "scenes" / "masks"),
        mask_classes=("1=water", "2=forest"),
    )
    store = Store(tmp_path / "out" / GROUP)
    assert store.meta.classes == ("water", "forest")
    row = rows_of(tmp_path / "out")["a:000032:000000"]
    labels = store.read(np.array([row.row]), labels=True).labels
    assert labels is not None
    cut = values[0, 32:, :32]
    np.testing.assert_array_equal(labels[0], np.select([cut == 1, cut == 2], [0, 1], 255))
    assert row.labelled == pytest.approx((cut > 0).mean())


def test_classes_and_official_parts_come_from_a_table(archive: Path, tmp_path: Path) -> None:
    table = tmp_path / "index.csv"
    lines = [f"scene{i}.tif,kind{i % 2},{'test' if i == 5 else 'train'}" for i in range(6)]
    table.write_text("\n".join(["file,class,split", *lines]))
    curate(archive, tmp_path / "out", labels=str(table))
    for row in rows_of(tmp_path / "out").values():
        number = int(row.id[5])
        assert row.label == f"kind{number % 2}"
        assert row.split == ("test" if number == 5 else "train")


def test_folder_names_as_classes(archive: Path, tmp_path: Path) -> None:
    curate(archive, tmp_path / "out", labels="folders")
    assert {row.label for row in rows_of(tmp_path / "out").values()} == {"scenes"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 4}, "size: is 4"),
        ({"hash_distance": 40}, "hash_distance: is 40"),
        ({"min_valid": 2.0}, "min_valid: is 2"),
        ({"fractions": (0.0, 0.5, 0.5)}, "fractions"),
        ({"split": "table"}, "there is no table"),
        ({"sensor": "landsat9"}, "landsat9"),
        ({"bands": ("B99",)}, "has no band 'B99'"),
        ({"labels": "nothing.csv"}, "nothing.csv does not exist"),
        ({"max_cloud": 0.5, "bands": ("B2", "B3")}, "max_cloud"),
    ],
)
def test_settings_that_cannot_work(
    archive: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        curate(archive, tmp_path / "out", **changes)


def test_scenes_of_one_name_in_several_sources_stay_apart(tmp_path: Path) -> None:
    sources = []
    for number in range(3):
        sources.append(tmp_path / f"{number}" / "S2")
        write_scene(sources[-1] / "a.tif", scene_pixels(number))
    config = {"sensor": "landsat8-oli", "size": 64, "workers": 0}
    run(CurateConfig(sources=(*sources, sources[0]), out=tmp_path / "out", **config))
    names = {name.rsplit(":", 2)[0] for name in rows_of(tmp_path / "out")}
    assert names == {"a", "S2/a", "2/S2/a"}


def test_a_source_that_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no scene was found"):
        curate(tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match="does not exist"):
        curate(tmp_path / "nowhere", tmp_path / "out")


def test_a_scene_that_changes_meanwhile_is_not_packed(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "scenes"
    shutil.copytree(archive, source)

    def late(*_: object) -> None:
        write_scene(source / "scene0.tif", scene_pixels(99))

    monkeypatch.setattr("mimkit.pipelines.curate.stores.clear_stale", late)
    with pytest.raises(DataError, match=r"scene0\.tif: changed while it was being curated"):
        curate(source, tmp_path / "out")
