"""Real volumes: both copies of a patient agree, compressed slices and labels fit."""

import json
from pathlib import Path

import nrrd
import numpy as np
import pytest

from mimkit.datasets.label_map import LabelMap, label_problems
from mimkit.datasets.readers.volume import (
    discover_volumes,
    open_volume,
    read_labels,
    scan_volume,
)
from mimkit.datasets.writers.label_map import write_label_map


@pytest.fixture(scope="module")
def ct(samples: Path) -> Path:
    return samples / "ct"


def test_the_dicom_copy_of_a_patient_has_the_same_voxels_and_mask(ct: Path) -> None:
    """The copies are not cropped differently: grids differ by the float32 of NIfTI alone."""
    nifti = open_volume(ct / "sarcoma" / "STS_002" / "CT_image.nii.gz")
    series = open_volume(ct / "sarcoma_dicom" / "STS_002" / "image")
    assert series.geometry.distance(nifti.geometry) < 1e-3
    assert series.dtype == "int16"
    assert np.array_equal(series.read().array, nifti.read().array)
    contours = ct / "sarcoma_dicom" / "STS_002" / "mask" / "RS.dcm"
    drawn = read_labels(contours, grid=series.geometry)
    mask = read_labels(ct / "sarcoma" / "STS_002" / "CT_mask.nii.gz", grid=series.geometry)
    assert drawn.names == {1: "GTV_Mass_CT"}
    assert drawn.volume.array.sum() == 17090
    assert np.array_equal(drawn.volume.array, mask.volume.array)


def test_a_segmentation_of_the_series_comes_back_in_all_formats(ct: Path, tmp_path: Path) -> None:
    folder = ct / "sarcoma_dicom" / "STS_002"
    grid = open_volume(folder / "image").geometry
    labels = read_labels(folder / "mask" / "RS.dcm", grid=grid)
    turned = LabelMap(labels.volume.reoriented(), labels.segments)
    for name in ("a.dcm", "a.seg.nrrd", "a.nii.gz"):
        path = write_label_map(tmp_path / name, turned, grid=grid, series=folder / "image")[0]
        read = read_labels(path, grid=grid)
        assert np.array_equal(read.volume.array, labels.volume.array)
        assert read.names == labels.names


def test_jpeg_2000_slices_have_their_organs_where_the_mask_says(ct: Path) -> None:
    series = open_volume(ct / "totalseg_dicom" / "series")
    assert series.spacing == pytest.approx((0.9765625, 0.9765625, 2.0))
    assert "its slices are 2 mm apart and 3 mm thick" in series.info.doubts[0]
    names = json.loads((ct / "totalseg_dicom" / "labels.json").read_text())
    labels = read_labels(
        ct / "totalseg_dicom" / "seg_total.nii.gz",
        grid=series.geometry,  # the file's rows run the other way
        names={int(value): name for value, name in names.items()},
    )
    assert label_problems(labels, series.geometry, known=list(labels.names)) == ()
    hounsfield = series.read().array
    assert hounsfield.dtype == np.int16
    assert (hounsfield.min(), hounsfield.max()) == (-1024, 1839)
    by_name = {
        name: hounsfield[labels.volume.array == value] for value, name in labels.names.items()
    }
    assert 60 < by_name["liver"].mean() < 120
    assert 100 < by_name["aorta"].mean() < 300  # contrast
    # A mask that is off by a voxel or upside down would take in air and bone.
    assert by_name["liver"].std() < 35
    assert by_name["vertebrae_T12"].mean() > 150


def test_nrrd_volumes_and_their_labels_share_a_grid(ct: Path) -> None:
    folder = ct / "chest_small"
    image = open_volume(folder / "ct-64.nrrd")
    reference, _ = nrrd.read(str(folder / "ct-64.nrrd"))
    array = image.read().array
    assert array.dtype == np.int16
    assert np.array_equal(array, reference)
    lungs = read_labels(folder / "wholeLung-64.nrrd", grid=image.geometry).volume.array == 1
    regions = read_labels(folder / "lm-64.nrrd", grid=image.geometry).volume.array
    assert array[lungs].mean() < -600 < array[~lungs & (array > -200)].mean()
    assert lungs[(regions & 255) > 0].mean() > 0.99


def test_all_volumes_are_found_and_read(ct: Path) -> None:
    found = discover_volumes(ct, exclude=("sarcoma/STS_0[1-4]*",))
    names = [source.id for source in found]
    assert "sarcoma_dicom/STS_002/image" in names
    assert "totalseg_dicom/series" in names
    assert "sarcoma/STS_002/CT_image" in names
    assert not any("RS" in name for name in names)
    scans = {source.id: scan_volume(source) for source in found}
    assert all(scan.reasons == () for scan in scans.values())
    eight_bit = {name for name, scan in scans.items() if "8-bit" in " ".join(scan.doubts)}
    assert eight_bit == {
        "pulmonary_artery/pulmonary_artery",
        "totalseg_dicom/seg_total",
        "totalseg_example/seg_total",
        *(name for name in names if name.endswith("CT_mask")),
    }
