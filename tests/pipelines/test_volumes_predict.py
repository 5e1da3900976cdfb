"""Label maps of whole volumes: on the grid of the file, in its format, broken files reported."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from tiny_ct import ball_volume, write_threshold_model
from tiny_models import write_model
from tiny_volumes import geometry, write_ct_series, write_nifti_file

from mimkit.core.errors import UsageError
from mimkit.datasets.errors import DataError
from mimkit.datasets.readers.volume import read_labels
from mimkit.datasets.volume_geometry import VolumeGeometry
from mimkit.datasets.volumes import Volume
from mimkit.pipelines.volumes.predict import PredictCtConfig, run
from mimkit.pipelines.volumes.segment import Keep, clear

SHAPE = (26, 22, 17)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_threshold_model(tmp_path_factory.mktemp("model"))


def ball(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    centre = (0.4 * shape[0], 0.6 * shape[1], 0.45 * shape[2])
    return ball_volume(shape, centre, 5.0, 0)[0]


def oblique(shape: tuple[int, int, int] = SHAPE) -> VolumeGeometry:
    """Return an anisotropic grid, 23 degrees off, slices first, one axis flipped."""
    return geometry(shape, (0.8, 0.9, 2.5), turn=23.0).reoriented("IRA")


def loaded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return voxels and affine by nibabel alone."""
    image: Any = nibabel.load(path)
    return np.asarray(image.dataobj), np.asarray(image.affine)


def predict(*volumes: Path, model: Path, out: Path, **options: Any) -> list[Any]:
    settings = {"device": "cpu", "num_threads": 1, "batch_size": 4, **options}
    return run(PredictCtConfig(volumes=volumes, model=model, out=out, **settings))


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_label_map_overlays_an_oblique_anisotropic_volume(
    model: Path, tmp_path: Path, overlap: float
) -> None:
    grid = oblique()
    voxels = ball(grid.shape)
    file = write_nifti_file(tmp_path / "case.nii.gz", voxels, grid.affine)
    (made,) = predict(file, model=model, out=tmp_path / "out.nii.gz", overlap=overlap)
    array, affine = loaded(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(array, voxels > 50)
    np.testing.assert_array_equal(affine, loaded(file)[1])
    labels = read_labels(tmp_path / "out.nii.gz", grid=grid)
    assert labels.names == {1: "ball"}
    expected = float((voxels > 50).sum()) * grid.voxel_volume / 1000
    assert made.millilitres["ball"] == pytest.approx(expected)


def test_a_resampled_volume_gets_its_labels_back_on_its_own_grid(tmp_path: Path) -> None:
    model = write_threshold_model(tmp_path / "model", spacing=(2.0, 1.2, 1.2))
    grid = oblique((40, 40, 30))
    ball_mask = ball_volume(grid.shape, (15.3, 20.4, 19.8), 8.0, 0)[1]
    noise = np.random.default_rng(0).normal(0, 15, grid.shape)
    smooth = (np.where(ball_mask, 150, -50) + noise).astype(np.int16)
    file = write_nifti_file(tmp_path / "case.nii.gz", smooth, grid.affine)
    predict(file, model=model, out=tmp_path / "out.nii.gz")
    found = read_labels(tmp_path / "out.nii.gz", grid=grid).volume.array > 0
    truth = smooth > 50
    assert found.shape == truth.shape
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice > 0.9
    centres = [np.argwhere(mask).mean(axis=0) for mask in (found, truth)]
    np.testing.assert_allclose(*centres, atol=0.2)  # voxels


def test_a_series_gets_a_seg_and_nrrd_a_seg_nrrd(model: Path, tmp_path: Path) -> None:
    import nrrd

    grid = geometry((20, 18, 12), (0.75, 0.75, 2.5))
    voxels = ball(grid.shape)
    write_ct_series(tmp_path / "in" / "series", Volume(voxels, grid))
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([0.75, 0.75, 2.5]),
        "space origin": [0.0, 0.0, 0.0],
    }
    nrrd.write(str(tmp_path / "in" / "chest.nrrd"), voxels, header)
    made = predict(tmp_path / "in", model=model, out=tmp_path / "out")
    files = sorted(Path(path) for row in made for path in row.files)
    assert [path.name for path in files] == ["chest.seg.nrrd", "series.dcm"]
    for path in files:
        labels = read_labels(path, grid=grid if path.suffix == ".dcm" else None)
        np.testing.assert_array_equal(labels.volume.array > 0, voxels > 50)
        assert [segment.name for segment in labels.segments] == ["ball"]


def test_a_broken_volume_is_a_row_and_the_others_are_done(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_nifti_file(folder / "good.nii.gz", ball(), geometry(SHAPE).affine)
    (folder / "text.nii.gz").write_text("no volume")
    bytes_only = np.full(SHAPE, 40, np.uint8)
    write_nifti_file(folder / "eight.nii.gz", bytes_only, geometry(SHAPE).affine)
    with pytest.raises(DataError, match="2 of 3 volumes: could not be done") as error:
        predict(folder, model=model, out=tmp_path / "out")
    assert error.value.exit_code == 1
    with (tmp_path / "out" / "predictions.csv").open() as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "eight": "failed",
        "good": "done",
        "text": "failed",
    }
    assert rows["text"]["reason"]
    assert float(rows["good"]["ball ml"]) > 0
    assert (tmp_path / "out" / "good.nii.gz").is_file()
    assert not (tmp_path / "out" / "text.nii.gz").exists()


@pytest.mark.slow
def test_workers_write_the_same_files(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        voxels = np.roll(ball(), number, axis=0)
        write_nifti_file(folder / f"case{number}.nii", voxels, geometry(SHAPE).affine)
    for workers in (1, 2):
        predict(folder, model=model, out=tmp_path / str(workers), workers=workers)
    for number in range(3):
        files = [tmp_path / str(workers) / f"case{number}.nii.gz" for workers in (1, 2)]
        arrays = [loaded(file)[0] for file in files]
        np.testing.assert_array_equal(arrays[0], arrays[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": (8, 16, 15)}, "is not a multiple of the patch"),
        ({"overlap": 0.95}, "is outside of 0 to 0.9"),
        ({"batch_size": 0}, "batch_size 0: is below 1"),
        ({"out": Path("map.dcm")}, "is a DICOM SEG, and"),
    ],
)
def test_impossible_settings_are_refused(
    model: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    file = write_nifti_file(tmp_path / "case.nii.gz", ball(), geometry(SHAPE).affine)
    settings = {"out": tmp_path / "out", **options}
    with pytest.raises(UsageError, match=said):
        predict(file, model=model, **settings)


def test_a_model_of_another_domain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a model of satellite images"):
        predict(tmp_path, model=write_model(tmp_path / "model"), out=tmp_path / "out")


@pytest.mark.parametrize(("keep", "kept"), [("all", 4), ("body", 3), ("largest", 2)])
def test_labels_in_the_air_and_small_parts_can_be_cleared(keep: Keep, kept: int) -> None:
    body = np.zeros((20, 20, 20), np.bool_)
    body[:12] = True
    parts = np.zeros(body.shape, np.uint8)
    parts[2:6, 2:6, 2:6] = 3
    parts[6, 6, 6] = 3  # touches the first with a corner
    parts[8:10, 8:10, 8:10] = 3
    parts[3:5, 12:14, 3] = 1  # between, another structure
    parts[15, 15, 15] = 1  # in the air
    made = parts.copy()
    clear(made, body, keep)
    places = [(2, 2, 2), (3, 12, 3), (8, 8, 8), (15, 15, 15)]
    assert [made[place] > 0 for place in places] == [True] * kept + [False] * (4 - kept)
    assert made[6, 6, 6] == 3
    np.testing.assert_array_equal(made[made > 0], parts[made > 0])


def test_only_the_largest_part_is_written(model: Path, tmp_path: Path) -> None:
    grid = geometry((40, 40, 20), (2.0, 2.0, 2.0))
    voxels = np.random.default_rng(0).normal(-20, 10, grid.shape).astype(np.int16)
    for place in (np.s_[8:18, 8:18, 4:12], np.s_[30:34, 30:34, 10:13]):
        voxels[place] += 300
    file = write_nifti_file(tmp_path / "case.nii.gz", voxels, grid.affine)
    for keep, expected in (("body", 800 + 48), ("largest", 800)):
        (made,) = predict(file, model=model, out=tmp_path / "out.nii.gz", keep=keep)
        assert loaded(tmp_path / "out.nii.gz")[0].sum() == expected
        assert made.millilitres["ball"] == pytest.approx(expected * 0.008)
