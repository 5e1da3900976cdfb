"""Labels and contours: which voxels a region has, what is said of wrong labels."""

from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
from tiny_volumes import (
    geometry,
    hounsfield,
    write_ct_series,
    write_enhanced_ct,
    write_nifti_file,
    write_rtstruct,
)

from mimkit.datasets.errors import DataError
from mimkit.datasets.label_map import LabelMap, Segment, label_problems, segments_of
from mimkit.datasets.readers.rtstruct import filled
from mimkit.datasets.readers.volume import read_labels
from mimkit.datasets.volume_geometry import VolumeGeometry
from mimkit.datasets.volumes import Volume
from mimkit.datasets.writers.label_map import write_label_map

GRID = geometry((12, 10, 4), turn=10.0)


def box(low: float, high: float, k: float = 1.0) -> list[list[float]]:
    """Return a square contour from `low` to `high` along columns and rows of slice k."""
    return [[low, low, k], [high, low, k], [high, high, k], [low, high, k]]


def brute_force(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return the even-odd rule point by point: count edges to the left of each."""
    inside = np.zeros(shape, bool)
    for i in range(shape[0]):
        for j in range(shape[1]):
            for corners in polygons:
                for (a, b), (c, d) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                    if (a <= i) != (c <= i) and b + (i - a) * (d - b) / (c - a) < j:
                        inside[i, j] ^= True
    return inside


@pytest.mark.parametrize("seed", range(5))
def test_filling_is_the_even_odd_rule_over_all_contours(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Half of the corners lie outside, and no centre lies on an edge.
    polygons = [rng.uniform(-4, 14, (n, 2)) for n in (3, 5, 9)]
    mask = filled(polygons, (11, 9))
    assert 0 < mask.sum() < mask.size
    assert np.array_equal(mask, brute_force(polygons, (11, 9)))


def test_regions_that_share_an_edge_tile_the_slice() -> None:
    left = np.array([[0.0, 0.0], [0.0, 4.0], [8.0, 4.0], [8.0, 0.0]])
    right = left + np.array([0.0, 4.0])
    masks = [filled([polygon], (8, 8)) for polygon in (left, right)]
    assert np.array_equal(masks[0] + masks[1], np.ones((8, 8), bool))
    assert not (masks[0] & masks[1]).any()


def test_contours_fill_their_slice_and_inner_ones_are_holes(tmp_path: Path) -> None:
    regions = {"ring": [box(1.5, 8.5), box(3.5, 5.5)], "spot": [box(4.5, 5.4, 3.0)]}
    path = write_rtstruct(tmp_path / "contours.dcm", GRID, regions)
    expected = np.zeros(GRID.shape, np.uint8)
    expected[2:9, 2:9, 1] = 1
    expected[4:6, 4:6, 1] = 0
    expected[5, 5, 3] = 2
    labels = read_labels(path, grid=GRID)
    assert np.array_equal(labels.volume.array, expected)
    assert labels.segments == (Segment(1, "ring", (10, 20, 30)), Segment(2, "spot", (10, 20, 31)))
    turned = read_labels(path, grid=GRID.reoriented("SAR"))  # slices lie along another axis
    assert np.array_equal(turned.on(GRID).volume.array, expected)
    spot = read_labels(path, grid=GRID, segments=["spot"])
    assert np.array_equal(spot.volume.array, expected == 2)


CONTOURS = {
    "overlap": ({"a": [box(1.5, 6.5)], "b": [box(5.5, 8.5)]}, "'a' and 'b' overlap"),
    "outside": ({"a": [box(1.5, 6.5, k=9.0)]}, r"lies outside its volume \(slice 9\)"),
    "between": ({"a": [box(1.5, 6.5, k=1.4)]}, "does not lie in a slice"),
    "two points": ({"a": [box(1.5, 6.5)[:2]]}, "has 6 numbers"),
}


@pytest.mark.parametrize("case", CONTOURS)
def test_contours_that_fit_no_label_map_are_refused(case: str, tmp_path: Path) -> None:
    regions, message = CONTOURS[case]
    path = write_rtstruct(tmp_path / "contours.dcm", GRID, regions)
    with pytest.raises(DataError, match=message):
        read_labels(path, grid=GRID)


def test_overlapping_regions_are_read_one_at_a_time(tmp_path: Path) -> None:
    regions = {"a": [box(1.5, 6.5)], "b": [box(5.5, 8.5)]}
    path = write_rtstruct(tmp_path / "contours.dcm", GRID, regions)
    one, other = (read_labels(path, grid=GRID, segments=[name]) for name in "ab")
    assert one.volume.array[6, 6, 1] == other.volume.array[6, 6, 1] == 1
    with pytest.raises(DataError, match="has no segment 'c'; its segments are a, b"):
        read_labels(path, grid=GRID, segments=["c"])


def test_contours_need_a_grid(tmp_path: Path) -> None:
    path = write_rtstruct(tmp_path / "contours.dcm", GRID, {"a": [box(1.5, 6.5)]})
    with pytest.raises(DataError, match="contours, which need a grid"):
        read_labels(path)


def slicer(path: Path, array: np.ndarray, **fields: Any) -> Path:
    """Write what 3D Slicer writes: several layers come first, and have no direction."""
    layered = array.ndim == 4
    header: dict[str, Any] = {
        "space": "left-posterior-superior",
        "kinds": [*(["list"] if layered else []), "domain", "domain", "domain"],
        "space directions": np.vstack([*([[np.nan] * 3] if layered else []), np.eye(3)]),
        "space origin": np.zeros(3),
        "Segment0_ID": "s1", "Segment0_Name": "liver", "Segment0_Color": "1 0.5 0",
        "Segment0_LabelValue": "1", "Segment0_Layer": "0",
        "Segment1_ID": "s2", "Segment1_Name": "lesion", "Segment1_Color": "0 0 1",
        "Segment1_LabelValue": "1", "Segment1_Layer": "1",
    }  # fmt: skip
    nrrd.write(str(path), array, header | fields)
    return path


def test_layers_of_a_slicer_segmentation_become_numbers(tmp_path: Path) -> None:
    layers = np.zeros((2, 5, 6, 4), np.uint8)
    layers[0, :2], layers[1, 3:] = 1, 1
    labels = read_labels(slicer(tmp_path / "a.seg.nrrd", layers))
    assert labels.segments == (
        Segment(1, "liver", (255, 128, 0)),
        Segment(2, "lesion", (0, 0, 255)),
    )
    assert np.array_equal(labels.volume.array, layers[0] + 2 * layers[1])
    layers[1, 1] = 1
    path = slicer(tmp_path / "b.seg.nrrd", layers)
    with pytest.raises(DataError, match="'liver' and 'lesion' overlap"):
        read_labels(path)
    lesion = read_labels(path, segments=["lesion"])
    assert np.array_equal(lesion.volume.array, layers[1])


def test_a_segmentation_of_the_box_around_its_segments_is_put_into_its_volume(
    tmp_path: Path,
) -> None:
    whole = np.zeros(GRID.shape, np.uint8)
    whole[3:8, 2:6, 1:3] = some_labels()[3:8, 2:6, 1:3]
    box = GRID.crop((3, 2, 1), (5, 4, 2))
    labels = LabelMap(Volume(whole[3:8, 2:6, 1:3], box), segments_of(whole))
    path = write_label_map(tmp_path / "a.seg.nrrd", labels)[0]
    read = read_labels(path, grid=GRID)
    assert read.geometry == GRID
    assert np.array_equal(read.volume.array, whole)
    with pytest.raises(DataError, match="lies on another grid"):  # a slice reaches beyond it
        read_labels(path, grid=GRID.crop((0, 0, 2), (12, 10, 2)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Segment1_Layer": "2"}, "layer 2"),
        ({"Segment1_LabelValue": "x"}, "description of segments is wrong"),
        ({"Segment1_Color": "1 2"}, "colour '1 2'"),
        ({"Segment1_Layer": "0"}, "one label in one layer"),
    ],
)
def test_a_wrong_description_of_segments_is_refused(
    fields: dict[str, str], message: str, tmp_path: Path
) -> None:
    layers = np.zeros((2, 5, 6, 4), np.uint8)
    path = slicer(tmp_path / "a.seg.nrrd", layers, **fields)
    with pytest.raises(DataError, match=message):
        read_labels(path)


def nifti_labels(folder: Path, array: np.ndarray, grid: VolumeGeometry = GRID) -> Path:
    return write_nifti_file(folder / "labels.nii.gz", array, grid.affine)


def some_labels(dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, GRID.shape).astype(dtype)


def test_labels_stored_as_real_numbers_are_integers(tmp_path: Path) -> None:
    labels = read_labels(nifti_labels(tmp_path, some_labels("float32")), names={1: "a", 3: "c"})
    assert labels.volume.array.dtype == np.uint8
    assert np.array_equal(labels.volume.array, some_labels())
    assert labels.names == {1: "a", 3: "c"}
    only = labels.only(["c"])
    assert np.array_equal(only.volume.array, some_labels() == 3)


WRONG = {
    "fractions": (some_labels("float32") + np.float32(0.5), "holds fractions"),
    "negative": (some_labels("int16") - np.int16(1), "negative label -1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_image_is_no_label_map(case: str, tmp_path: Path) -> None:
    array, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        read_labels(nifti_labels(tmp_path, array))


@pytest.mark.parametrize(
    "other",
    [
        GRID.crop((0, 0, 0), (12, 10, 3)),
        GRID.crop((1, 0, 0), GRID.shape),
        GRID.resampled((0.8, 0.9, 2.6)),
        geometry((12, 10, 4), turn=12.0),
    ],
    ids=["size", "place", "spacing", "direction"],
)
def test_labels_on_another_grid_are_refused(other: VolumeGeometry, tmp_path: Path) -> None:
    path = nifti_labels(tmp_path, some_labels())
    with pytest.raises(DataError, match="lies on another grid"):
        read_labels(path, grid=other)


def test_a_segmentation_of_another_series_is_refused(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "ct", hounsfield(GRID))
    labels = LabelMap(Volume(some_labels(), GRID), segments_of(some_labels()))
    write_label_map(tmp_path / "labels.dcm", labels, series=tmp_path / "ct")
    with pytest.raises(DataError, match="does not lie on the voxels of its volume"):
        read_labels(tmp_path / "labels.dcm", grid=GRID.crop((0, 0, 1), (12, 10, 3)))


def test_problems_of_labels_are_listed() -> None:
    labels = LabelMap(Volume(some_labels(), GRID), ())
    assert label_problems(labels, GRID, known=[1, 2, 3]) == ()
    unknown = label_problems(labels, GRID.crop((0, 0, 1), GRID.shape), known=[1, 2])
    assert unknown[0] == "it holds unknown labels 3"
    assert "lies on another grid" in unknown[1]
    empty = LabelMap(Volume(np.zeros(GRID.shape, np.uint8), GRID), ())
    assert label_problems(empty) == ("it has no labelled voxel",)


def test_names_and_colours_come_with_nifti_in_a_file_beside_it(tmp_path: Path) -> None:
    segments = (Segment(2, "milz", (1, 2, 3)),)
    labels = LabelMap(Volume(some_labels(), GRID), segments)
    files = write_label_map(tmp_path / "case.nii.gz", labels)
    assert [file.name for file in files] == ["case.nii.gz", "case.labels.json"]
    assert read_labels(files[0]).segments == segments
    files[1].write_text('{"labels": {"2": {"name": "milz"}}}')
    with pytest.raises(DataError, match="is no table of labels"):
        read_labels(files[0])


def test_equal_labels_give_equal_files(tmp_path: Path) -> None:
    labels = LabelMap(Volume(some_labels(), GRID), segments_of(some_labels()))
    for name in ("labels.nii.gz", "labels.seg.nrrd"):
        one = write_label_map(tmp_path / "a" / name, labels)[0].read_bytes()
        assert one == write_label_map(tmp_path / "b" / name, labels)[0].read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.mha", "no suffix of a label map"), ("a.dcm", "refers to a DICOM series")],
)
def test_files_that_cannot_be_written_are_refused(name: str, message: str, tmp_path: Path) -> None:
    labels = LabelMap(Volume(some_labels(), GRID), segments_of(some_labels()))
    with pytest.raises(DataError, match=message):
        write_label_map(tmp_path / name, labels)
    assert not list(tmp_path.iterdir())


UNFIT = {
    "unnamed": (some_labels(), "label 3 has no name"),
    "empty": (np.zeros(GRID.shape, np.uint8), "no voxel is labelled"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_segmentation_object_needs_names_and_voxels(case: str, tmp_path: Path) -> None:
    array, message = UNFIT[case]
    write_enhanced_ct(tmp_path / "ct.dcm", hounsfield(GRID))
    labels = LabelMap(Volume(array, GRID), segments_of(array, {1: "a", 2: "b"}))
    with pytest.raises(DataError, match=message):
        write_label_map(tmp_path / "labels.dcm", labels, series=tmp_path / "ct.dcm")
    assert not (tmp_path / "labels.dcm").exists()


@pytest.mark.parametrize("kind", ["LABELMAP", "FRACTIONAL"])
def test_segmentation_objects_of_other_kinds_are_read(kind: str, tmp_path: Path) -> None:
    """A label map holds numbers, a fractional object 0 to 255 of which half and more count."""
    import highdicom
    from pydicom import dcmread
    from pydicom.sr.codedict import codes

    paths = write_ct_series(tmp_path / "ct", hounsfield(GRID))
    array = some_labels()
    masks: np.ndarray = array.transpose(2, 1, 0)
    if kind == "FRACTIONAL":
        shares = np.array([0.0, 0.6, 0.4, 1.0], np.float32)
        masks, array = shares[masks], (shares[array] >= 0.5).astype(np.uint8)
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"part {number}",
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type="MANUAL",
        )
        for number in ((1, 2, 3) if kind == "LABELMAP" else (1,))
    ]
    seg = highdicom.seg.Segmentation(
        [dcmread(path) for path in paths],
        np.ascontiguousarray(masks),
        kind,
        described,
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="tests",
        manufacturer_model_name="tests",
        software_versions="1",
        device_serial_number="1",
    )
    seg.save_as(tmp_path / "labels.dcm")
    labels = read_labels(tmp_path / "labels.dcm", grid=GRID)
    assert np.array_equal(labels.volume.array, array)
    assert labels.names == {number: f"part {number}" for number in range(1, len(described) + 1)}
