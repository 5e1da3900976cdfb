"""Through every format and back: numbers stay, voxel centres stay to 1e-3 mm."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_volumes import geometries, geometry, hounsfield, write_ct_series, write_enhanced_ct

from mimkit.datasets.label_map import LabelMap, Segment
from mimkit.datasets.readers.volume import open_volume, read_labels
from mimkit.datasets.volume_geometry import VolumeGeometry
from mimkit.datasets.volumes import Volume
from mimkit.datasets.writers.label_map import write_label_map
from mimkit.datasets.writers.nifti import write_nifti

MICROMETRE = 1e-3
SEGMENTS = (Segment(1, "liver", (200, 30, 40)), Segment(2, "a spleen", (12, 250, 128)))


def organs(grid: VolumeGeometry, seed: int = 0) -> LabelMap:
    """Return labels 0, 1 and 2, each of which occurs."""
    array = np.random.default_rng(seed).integers(0, 3, grid.shape).astype(np.uint8)
    array.flat[:3] = 0, 1, 2
    return LabelMap(Volume(array, grid), SEGMENTS)


def check_same_places(one: LabelMap, other: LabelMap) -> None:
    """Check that each voxel of a label has its centre where a voxel of the other has it."""
    for value in (1, 2):
        a, b = (m.geometry.world(np.argwhere(m.volume.array == value)) for m in (one, other))
        assert len(a) == len(b) > 0
        apart = np.linalg.norm(a[:, None] - b[None], axis=2)
        assert apart.min(axis=1).max() < MICROMETRE
        assert apart.min(axis=0).max() < MICROMETRE


@pytest.mark.parametrize("name", ["labels.nii.gz", "labels.nii", "labels.seg.nrrd"])
@settings(max_examples=20)
@given(grid=geometries(), codes=st.sampled_from(["RAS", "LPS", "SPL"]))
def test_labels_in_the_networks_order_come_back_on_the_grid_of_the_input(
    name: str, grid: VolumeGeometry, codes: str
) -> None:
    labels = organs(grid)
    turned = LabelMap(labels.volume.reoriented(codes), labels.segments)
    with tempfile.TemporaryDirectory() as folder:
        written = write_label_map(Path(folder, name), turned, grid=grid)
        alone = read_labels(written[0])
        on_grid = read_labels(written[0], grid=grid)
    assert alone.geometry.distance(grid) < MICROMETRE
    assert on_grid.geometry == grid
    assert np.array_equal(on_grid.volume.array, labels.volume.array)
    assert on_grid.segments == labels.segments
    check_same_places(alone, labels)


@settings(max_examples=20)
@given(grid=geometries())
def test_an_image_through_nifti_keeps_numbers_and_places(grid: VolumeGeometry) -> None:
    volume = hounsfield(grid)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ct.nii.gz")
        write_nifti(path, volume)
        read = open_volume(path).read()
    assert read.array.dtype == np.int16
    assert np.array_equal(read.array, volume.array)
    assert read.geometry.distance(grid) < MICROMETRE


@settings(max_examples=12)
@given(
    grid=geometries(min_size=3, max_size=5),  # highdicom packs frames of less than 8 pixels wrongly
    unsigned=st.booleans(),
    codes=st.sampled_from(["RAS", "SPL"]),
)
def test_a_series_and_its_segmentation_keep_numbers_and_places(
    grid: VolumeGeometry, unsigned: bool, codes: str
) -> None:
    """The slices come in the order of their normal, whatever the order of the files."""
    volume, labels = hounsfield(grid), organs(grid)
    with tempfile.TemporaryDirectory() as folder:
        series = Path(folder, "ct")
        write_ct_series(series, volume, unsigned=unsigned)
        opened = open_volume(series)
        read = opened.read()
        # int16 less 1024 needs more than 16 bits if every stored number is possible.
        assert read.array.dtype == (np.int16 if unsigned else np.int32)
        turned = LabelMap(labels.volume.reoriented(codes), labels.segments)
        path = Path(folder, "labels.dcm")
        write_label_map(path, turned, series=series)
        on_grid = read_labels(path, grid=opened.geometry)
        alone = read_labels(path, grid=grid)
    same = read.turned_like(grid)
    assert same is not None
    assert np.array_equal(same.array, volume.array)
    assert same.geometry.distance(grid) < MICROMETRE
    assert [segment.name for segment in on_grid.segments] == ["liver", "a spleen"]
    assert np.array_equal(alone.volume.array, labels.volume.array)
    check_same_places(on_grid, labels)


def test_a_segmentation_without_its_grid_makes_one_from_its_frames(tmp_path: Path) -> None:
    grid = geometry((5, 6, 8), turn=15.0)
    labels = organs(grid)
    labels.volume.array[:, :, [0, 3, 7]] = 0  # these slices get no frame
    write_ct_series(tmp_path / "ct", hounsfield(grid))
    write_label_map(tmp_path / "labels.dcm", labels, series=tmp_path / "ct")
    read = read_labels(tmp_path / "labels.dcm")
    assert read.geometry.shape == (5, 6, 6)  # slices 1 to 6
    check_same_places(read, labels)


def test_segments_with_gaps_are_counted_and_keep_names_and_colours(tmp_path: Path) -> None:
    grid = geometry()
    labels = organs(grid)
    array = labels.volume.array * np.uint8(40)
    segments = (Segment(40, "liver", (200, 30, 40)), Segment(80, "a spleen", (12, 250, 128)))
    write_ct_series(tmp_path / "ct", hounsfield(grid))
    path = tmp_path / "labels.dcm"
    write_label_map(path, LabelMap(Volume(array, grid), segments), series=tmp_path / "ct")
    read = read_labels(path, grid=grid)
    assert [(s.value, s.name) for s in read.segments] == [(1, "liver"), (2, "a spleen")]
    for one, other in zip(read.segments, segments, strict=True):  # CIELab of 16 bits rounds
        assert np.abs(np.subtract(one.colour, other.colour)).max() <= 1
    assert np.array_equal(read.volume.array, labels.volume.array)
    only = read_labels(path, grid=grid, segments=["a spleen"])
    assert np.array_equal(only.volume.array, labels.volume.array == 2)


def test_slices_of_a_tilted_series_keep_their_places(tmp_path: Path) -> None:
    affine = geometry().affine
    affine[1, 2] += 0.8  # each slice is shifted towards the front
    grid = VolumeGeometry.from_affine(affine, (6, 5, 4))
    volume, labels = hounsfield(grid), organs(grid)
    write_ct_series(tmp_path / "ct", volume)
    opened = open_volume(tmp_path / "ct", sheared=True)
    assert opened.geometry.distance(grid) < MICROMETRE
    for name in ("labels.dcm", "labels.nii.gz", "labels.seg.nrrd"):
        write_label_map(tmp_path / name, labels, grid=opened.geometry, series=tmp_path / "ct")
        read = read_labels(tmp_path / name, grid=opened.geometry)
        assert np.array_equal(read.volume.array, labels.volume.array)
        check_same_places(read, labels)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_frames_of_one_file_are_a_volume(tmp_path: Path, order: tuple[int, ...]) -> None:
    volume = hounsfield(geometry(turn=10.0))
    path = write_enhanced_ct(tmp_path / "enhanced.dcm", volume, order=order)
    opened = open_volume(path)
    read = opened.read()
    assert read.geometry.distance(volume.geometry) < MICROMETRE
    assert np.array_equal(read.array, volume.array)
    part = opened.read((slice(1, 3), slice(0, 5), slice(2, 4)))
    assert np.array_equal(part.array, volume.array[1:3, :, 2:])
    labels = organs(volume.geometry)
    write_label_map(tmp_path / "labels.dcm", labels, series=path)
    read_back = read_labels(tmp_path / "labels.dcm", grid=opened.geometry)
    assert np.array_equal(read_back.volume.array, labels.volume.array)
