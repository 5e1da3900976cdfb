"""Label maps lie exactly on real, oblique, anisotropic volumes, by the word of other libraries.

Files are read by nibabel, pynrrd and pydicom alone, none of our readers: what they say is where 3D
Slicer puts the voxels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from tiny_ct import write_threshold_model
from tiny_volumes import rotation, write_ct_series, write_nifti_file

from mimkit.datasets.readers.volume import open_volume
from mimkit.datasets.volume_geometry import VolumeGeometry, flip_lps
from mimkit.datasets.volumes import Volume, resample
from mimkit.pipelines.volumes.predict import PredictCtConfig, run

MICROMETRE = 1e-3  # mm
SPACING = (1.7, 2.3, 5.1)  # mm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_threshold_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def oblique(samples: Path) -> Volume:
    """Return a real CT on a grid that is 23 degrees off, with another spacing on every axis."""
    real = open_volume(samples / "ct" / "sarcoma" / "STS_002" / "CT_image.nii.gz").read()
    whole = real.with_array(np.rint(real.array).astype(np.int16))
    axes = rotation(np.array([0.3, -0.2, 1.0]), 23.0) @ np.diag([-1.0, -1.0, 1.0])
    shape = (44, 33, 22)
    middle = whole.geometry.world(np.array(whole.geometry.shape) / 2)
    origin = middle - axes @ (np.array(SPACING) * np.array(shape) / 2)
    grid = VolumeGeometry.from_axes(axes, SPACING, origin.tolist(), shape)
    return resample(whole, grid, fill=-1000)


def bright(volume: Volume) -> np.ndarray:
    """Return the centres, in mm RAS+, of the voxels that the model calls a ball."""
    return volume.geometry.world(np.argwhere(volume.array > 50))


def check_same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Check that two sets of points are the same to a micrometre."""
    from scipy.spatial import KDTree

    assert len(found) == len(wanted) > 500
    for one, other in ((found, wanted), (wanted, found)):
        assert KDTree(other).query(one)[0].max() < MICROMETRE


def predict(volume: Path, model: Path, out: Path) -> None:
    run(PredictCtConfig(volumes=(volume,), model=model, out=out, device="cpu", num_threads=1))


@pytest.mark.parametrize("codes", ["LPS", "IRA", "PSR"])
def test_nifti_lies_on_its_input(model: Path, oblique: Volume, tmp_path: Path, codes: str) -> None:
    turned = oblique.reoriented(codes)
    assert turned.geometry.obliqueness > 10
    file = write_nifti_file(tmp_path / "ct.nii.gz", turned.array, turned.geometry.affine)
    predict(file, model, tmp_path / "labels.nii.gz")
    image: Any = nibabel.load(tmp_path / "labels.nii.gz")
    given: Any = nibabel.load(file)
    np.testing.assert_array_equal(image.affine, given.affine)
    places = np.argwhere(np.asarray(image.dataobj) == 1)
    check_same(places @ image.affine[:3, :3].T + image.affine[:3, 3], bright(oblique))


def test_a_slicer_segmentation_lies_on_its_input(
    model: Path, oblique: Volume, tmp_path: Path
) -> None:
    import nrrd

    turned = oblique.reoriented("PSR")
    file = write_nifti_file(tmp_path / "ct.nii.gz", turned.array, turned.geometry.affine)
    predict(file, model, tmp_path / "labels.seg.nrrd")
    array, header = nrrd.read(str(tmp_path / "labels.seg.nrrd"))
    assert header["space"] == "left-posterior-superior"
    places = np.argwhere(array == 1)
    world = places @ np.asarray(header["space directions"]) + header["space origin"]
    check_same(flip_lps(world.T).T, bright(oblique))
    assert header["Segment0_Name"] == "ball"


def test_a_segmentation_object_lies_on_its_series(
    model: Path, oblique: Volume, tmp_path: Path
) -> None:
    import pydicom

    write_ct_series(tmp_path / "ct", oblique)
    predict(tmp_path / "ct", model, tmp_path / "labels.dcm")
    data = pydicom.dcmread(tmp_path / "labels.dcm")
    shared = data.SharedFunctionalGroupsSequence[0]
    turn = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    along, down = np.reshape(np.array(turn, float), (2, 3))
    per_row, per_column = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    points = []
    frames = np.atleast_3d(data.pixel_array)
    for frame, group in zip(frames, data.PerFrameFunctionalGroupsSequence, strict=True):
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        steps = np.outer(columns, along * per_column) + np.outer(rows, down * per_row)
        points.append(corner + steps)
    check_same(flip_lps(np.concatenate(points).T).T, bright(oblique))
    series = {str(pydicom.dcmread(path).SOPInstanceUID) for path in (tmp_path / "ct").iterdir()}
    referenced = data.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {str(item.ReferencedSOPInstanceUID) for item in referenced} <= series


def test_a_series_of_a_tilted_gantry_gets_labels_on_its_own_slices(
    model: Path, tmp_path: Path
) -> None:
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    affine[1, 2] = 0.6  # mm that each slice is shifted: 11 degrees
    grid = VolumeGeometry.from_affine(affine, (40, 40, 16))
    where = grid.world(np.argwhere(np.ones(grid.shape))).reshape(*grid.shape, 3)
    middle = grid.world(np.array([20.0, 20.0, 8.0]))
    inside = np.linalg.norm(where - middle, axis=-1) < 12.0
    noise = np.random.default_rng(0).normal(0, 8, grid.shape)
    voxels = np.rint(np.where(inside, 250, -60) + noise).astype(np.int16)
    write_ct_series(tmp_path / "ct", Volume(voxels, grid))
    predict(tmp_path / "ct", model, tmp_path / "labels.nii.gz")
    image: Any = nibabel.load(tmp_path / "labels.nii.gz")
    shear = VolumeGeometry.from_affine(image.affine, image.shape).shear
    assert shear == pytest.approx(11.3, abs=0.1)
    places = np.argwhere(np.asarray(image.dataobj) == 1)
    world = places @ image.affine[:3, :3].T + image.affine[:3, 3]
    # The volume was resampled to an upright grid and back: a border of part of a voxel may differ.
    assert np.linalg.norm(world.mean(axis=0) - middle) < 0.2
    away = np.linalg.norm(world - middle, axis=1)
    assert away.max() < 12.0 + 1.5
    assert len(places) == pytest.approx(int(inside.sum()), rel=0.1)
