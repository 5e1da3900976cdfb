"""Volumes that are broken, doubtful or dangerous: each is refused, or doubted, in one sentence."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
from tiny_volumes import geometry, hounsfield, write_ct_series, write_nifti_file

from mimkit.datasets.errors import DataError
from mimkit.datasets.readers.volume import open_volume, scan_volume
from mimkit.datasets.readers.volume_source import MAX_VOXELS
from mimkit.datasets.volume_geometry import VolumeGeometry

Make = Callable[[Path], Path]
GRID = geometry()
DIM, PIXDIM, BITPIX, OFFSET = 40, 76, 70, 108  # places in the NIfTI-1 header


def nifti(
    name: str = "a.nii.gz", array: np.ndarray | None = None, affine: Any = None, **options: Any
) -> Make:
    def make(folder: Path) -> Path:
        numbers = hounsfield(GRID).array if array is None else array
        matrix = GRID.affine if affine is None else affine
        return write_nifti_file(folder / name, numbers, matrix, **options)

    return make


def cut(make: Make, share: float) -> Make:
    def shorter(folder: Path) -> Path:
        path = make(folder)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        return path

    return shorter


def patched(place: int, form: str, *values: float, name: str = "a.nii") -> Make:
    """Overwrite a part of the header."""

    def make(folder: Path) -> Path:
        path = nifti("a.nii")(folder)
        content = bytearray(path.read_bytes())
        struct.pack_into(form, content, place, *values)
        target = folder / name
        target.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return target

    return make


def content(name: str, data: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def nrrd_file(
    name: str = "a.nrrd", array: np.ndarray | None = None, fields: dict[str, Any] | None = None
) -> Make:
    """Make an NRRD file; a field that is None is left out."""

    def make(folder: Path) -> Path:
        header: dict[str, Any] = {
            "space": "left-posterior-superior",
            "space directions": np.eye(3),
            "space origin": np.zeros(3),
            "encoding": "gzip",
        } | (fields or {})
        header = {key: value for key, value in header.items() if value is not None}
        numbers = hounsfield(GRID).array if array is None else array
        nrrd.write(str(folder / name), numbers, header)
        return folder / name

    return make


def replaced(make: Make, old: bytes, new: bytes) -> Make:
    def changed(folder: Path) -> Path:
        path = make(folder)
        before = path.read_bytes()
        assert old in before
        path.write_bytes(before.replace(old, new, 1))
        return path

    return changed


def shear() -> np.ndarray:
    affine = GRID.affine
    affine[0, 2] = 0.4
    return affine


def nan_voxel() -> np.ndarray:
    array = hounsfield(GRID).array.astype(np.float32)
    array[1, 2, 3] = np.nan
    return array


def zero_pixdim(folder: Path) -> Path:
    path = nifti("a.nii", sform=0, qform=1)(folder)
    content = bytearray(path.read_bytes())
    struct.pack_into("<3f", content, PIXDIM + 4, 1.0, 1.0, 0.0)
    path.write_bytes(content)
    return path


NOISE = np.random.default_rng(0).integers(0, 2000, (20, 20, 20)).astype(np.int16)

BROKEN = {
    "missing": (lambda folder: folder / "no.nii.gz", "cannot be opened"),
    "empty": (content("a.nii.gz", b""), "is empty"),
    "truncated gzip": (cut(nifti(array=NOISE), 0.6), "cannot be read to its end"),
    "truncated": (cut(nifti("a.nii"), 0.8), "header claims .* bytes of voxels"),
    "text as gzip": (content("a.nii.gz", b"no volume\n"), "named .gz and is no gzip"),
    "text in gzip": (content("a.nii.gz", gzip.compress(b"no volume\n" * 99)), "is no NIfTI"),
    "gzip as plain": (content("a.nii", gzip.compress(b"x")), "is not named .gz"),
    "text": (content("a.nii", b"no volume\n" * 99), "is no NIfTI file"),
    "2-D": (nifti(array=np.zeros((5, 6), np.int16)), r"is 2-D \(5 x 6 voxels\) instead of 3-D"),
    "4-D": (nifti(array=np.zeros((5, 6, 7, 2), np.int16)), "is 4-D"),
    "complex": (nifti(array=np.zeros((2, 3, 4), np.complex64)), "instead of real numbers"),
    "NaN": (nifti(array=nan_voxel()), "1 of 120 voxels are not finite"),
    "no position": (nifti(sform=0, qform=0), "does not say how it lies"),
    "sheared": (nifti(affine=shear()), "degrees off a right angle"),
    "zero spacing": (patched(280, "<12f", 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0), "spacing of zero"),
    "zero pixdim": (zero_pixdim, "spacing of zero"),
    "flat": (nifti(affine=[[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]), "flattens"),
    "bomb": (patched(DIM, "<8h", 3, 32000, 32000, 32000, 1, 1, 1, 1), "its header claims 32000"),
    "packed bomb": (
        patched(DIM, "<8h", 3, 1200, 1200, 1200, 1, 1, 1, 1, name="b.nii.gz"),
        "compressed ones",
    ),
    "negative size": (patched(DIM, "<8h", 3, -5, 5, 5, 1, 1, 1, 1), "empty axis"),
    "no axes": (patched(DIM, "<8h", 0, 1, 1, 1, 1, 1, 1, 1), "is 1-D"),
    "NaN affine": (patched(280, "<f", float("nan")), "numbers that are not finite"),
    "NRRD text": (content("a.nrrd", b"no volume\n"), "is no NRRD file"),
    "NRRD cut": (cut(nrrd_file(array=NOISE), 0.6), "cannot be read to its end"),
    "NRRD header cut": (content("a.nrrd", b"NRRD0004\ntype: short\n"), "has the encoding None"),
    "NRRD bomb": (replaced(nrrd_file(), b"6 5 4", b"60000 60000 9"), "its header claims"),
    "NRRD packed bomb": (replaced(nrrd_file(), b"6 5 4", b"900 900 99"), "compressed ones"),
    "NRRD text numbers": (nrrd_file(fields={"encoding": "ascii"}), "has the encoding 'ascii'"),
    "NRRD nowhere": (
        nrrd_file(fields={"space": None, "space directions": None, "space origin": None}),
        "does not say how it lies",
    ),
    "NRRD other space": (nrrd_file(fields={"space": "scanner-xyz"}), "does not say how it lies"),
    "NRRD foreign data": (
        replaced(
            nrrd_file(fields={"encoding": "raw"}),
            b"encoding: raw",
            b"data file: /etc/passwd\nencoding: raw",
        ),
        "is not beside it",
    ),
    "NRRD 2-D": (
        nrrd_file(array=np.zeros((4, 5), np.int16), fields={"space directions": np.eye(3)[:2]}),
        "is 2-D",
    ),
    "DICOM text": (content("a.dcm", b"no volume\n" * 99), "is no DICOM file"),
    "no format": (content("a.txt", b"no volume\n" * 99), "is no NIfTI, NRRD or DICOM file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_volume_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    make, message = BROKEN[case]
    path = make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        open_volume(path).read()
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    scan = scan_volume(path)
    assert scan.reasons == (caught.value.reason,)


DOUBTFUL = {
    "8-bit": (nifti(array=np.zeros(GRID.shape, np.uint8)), "8-bit numbers cannot hold Hounsfield"),
    "two forms": (nifti(affine=np.diag([2.0, 2, 2, 1]), qform=1), "sform and qform differ"),
    "pixdim": (patched(PIXDIM + 4, "<3f", 9.0, 9.0, 9.0), "its pixdim says 9, 9, 9 mm"),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_a_doubtful_volume_is_read_and_doubted(case: str, tmp_path: Path) -> None:
    make, message = DOUBTFUL[case]
    path = make(tmp_path)
    if case == "two forms":  # move the qform alone
        raw = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into("<f", raw, 268, 55.0)
        path.write_bytes(gzip.compress(raw))
    scan = scan_volume(path)
    assert scan.reasons == ()
    assert message in " ".join(scan.doubts)


def test_not_finite_voxels_are_replaced_on_request(tmp_path: Path) -> None:
    volume = open_volume(nifti(array=nan_voxel())(tmp_path)).read(nan=-1024.0)
    assert volume.array[1, 2, 3] == -1024.0


def test_a_sheared_volume_is_read_on_request(tmp_path: Path) -> None:
    opened = open_volume(nifti(affine=shear())(tmp_path), sheared=True)
    assert opened.geometry.distance(VolumeGeometry.from_affine(shear(), GRID.shape)) < 1e-3


def test_windows_are_parts_of_the_whole_in_every_format(tmp_path: Path) -> None:
    array = hounsfield(GRID).array
    window = slice(1, 4), slice(0, 5), slice(2, 3)
    paths = [nifti("a.nii")(tmp_path), nifti("b.nii.gz")(tmp_path), nrrd_file("c.nrrd")(tmp_path)]
    paths.append(nrrd_file("d.nrrd", fields={"encoding": "raw"})(tmp_path))
    paths.append(nrrd_file("e.nhdr", fields={"encoding": "raw"})(tmp_path))
    write_ct_series(tmp_path / "f", hounsfield(GRID))
    for path in [*paths, tmp_path / "f"]:
        opened = open_volume(path)
        part = opened.read(window)
        assert np.array_equal(part.array, array[window])
        assert np.allclose(part.geometry.origin, opened.geometry.world(np.array([1, 0, 2])))
        for wrong in (slice(0, 7), slice(-1, 3), slice(2, 2), slice(0, 4, 2)):
            with pytest.raises(ValueError, match="on an axis of"):
                opened.read((wrong, slice(None), slice(None)))


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "dtype"),
    [
        ("int16", 1.0, 0.0, "int16"),
        ("uint8", 1.0, -100.0, "int16"),
        ("uint16", 1.0, -1024.0, "int32"),
        ("int16", 2.0, 0.0, "int32"),
        ("int32", 1.0, 0.0, "int32"),
        ("uint16", 0.5, 0.0, "float32"),
        ("float64", 1.0, 0.0, "float64"),
        ("float32", 2.0, 1.0, "float32"),
    ],
)
def test_scaling_keeps_integers_where_it_can(
    tmp_path: Path, stored: str, slope: float, intercept: float, dtype: str
) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(stored)
    path = write_nifti_file(tmp_path / "a.nii", array, np.eye(4))
    content = bytearray(path.read_bytes())
    struct.pack_into("<2f", content, 112, slope, intercept)
    path.write_bytes(content)
    opened = open_volume(path)
    read = opened.read()
    assert read.array.dtype == opened.dtype == dtype
    assert np.array_equal(read.array, array.astype(np.float64) * slope + intercept)


def test_units_other_than_millimetres_are_converted(tmp_path: Path) -> None:
    path = patched(123, "<B", 1)(tmp_path)  # metres
    assert open_volume(path).spacing == pytest.approx([1000 * s for s in GRID.spacing], rel=1e-5)


def test_the_limit_of_voxels_is_that_of_the_largest_scans() -> None:
    assert 512 * 512 * 4096 <= MAX_VOXELS <= 2**32
