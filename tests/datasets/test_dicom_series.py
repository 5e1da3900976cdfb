"""DICOM folders as they come: mixed series, gaps, copies, tilts, compression, names."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from tiny_volumes import (
    geometry,
    hounsfield,
    put_pixels,
    save,
    write_ct_series,
    write_enhanced_ct,
    write_rtstruct,
)

from mimkit.datasets.errors import DataError
from mimkit.datasets.readers.codestream import codestream_size
from mimkit.datasets.readers.dicom_identity import identifying_headers
from mimkit.datasets.readers.dicom_series import tilt_degrees
from mimkit.datasets.readers.volume import (
    discover_series,
    discover_volumes,
    open_volume,
    scan_volume,
)
from mimkit.datasets.volume_geometry import VolumeGeometry
from mimkit.datasets.volumes import Volume, resample

GRID = geometry((6, 5, 8), turn=12.0)
CT = hounsfield(GRID)
Change = Callable[[int, Dataset], None]


def shifted(k: int, step: float) -> Change:
    """Move slice k along the normal by some mm."""

    def change(index: int, data: Dataset) -> None:
        if index == k:
            along, down = np.reshape(np.array(data.ImageOrientationPatient, float), (2, 3))
            moved = np.array(data.ImagePositionPatient, float) + np.cross(along, down) * step
            data.ImagePositionPatient = [f"{x:.10f}" for x in moved]

    return change


def header(name: str, value: object, *, only: int | None = None) -> Change:
    def change(index: int, data: Dataset) -> None:
        if only in (None, index):
            if value is None:
                delattr(data, name)
            else:
                with warnings.catch_warnings():  # pydicom's, of wrong values
                    warnings.simplefilter("ignore")
                    setattr(data, name, value)

    return change


def bomb(k: int, data: Dataset) -> None:
    data.Rows = data.Columns = 65535


REFUSED = {
    "uneven": (shifted(3, 0.6), "unevenly spaced"),
    "two patients": (header("PatientID", "P2", only=4), "2 different patient identifiers"),
    "no position": (header("ImagePositionPatient", None, only=2), "do not say where they lie"),
    "no orientation": (header("ImageOrientationPatient", None), "do not say where they lie"),
    "no spacing": (header("PixelSpacing", None), "do not say where they lie"),
    "zero spacing": (header("PixelSpacing", [0, 1]), "pixels have no size"),
    "bent axes": (header("ImageOrientationPatient", [1, 0, 0, 0.5, 0.5, 0]), "two perpendicular"),
    "survey": (header("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), "survey picture"),
    "colour": (header("SamplesPerPixel", 3, only=0), "colour picture"),
    "short": (header("Rows", 6000), "cannot be read as DICOM"),
    "one larger slice": (header("Rows", 6000, only=0), "holds 2 stacks of images"),
    "bomb": (bomb, "claims 1 frames of 65535 x 65535"),
    "junk number": (header("RescaleSlope", "nan"), "RescaleSlope is nan"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_series_that_is_no_volume_is_refused_with_its_reason(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    write_ct_series(tmp_path / "ct", CT, change=change)
    with pytest.raises(DataError, match=message) as caught:
        open_volume(tmp_path / "ct").read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("gone", "num"), [((3,), 1), ((2, 3, 5), 3)])
def test_missing_slices_are_counted(gone: tuple[int, ...], num: int, tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path / "ct", CT)
    for k in gone:
        paths[k].unlink()
    with pytest.raises(DataError, match=f"{num} slices are missing, the first between"):
        open_volume(tmp_path / "ct")


def test_copies_of_slices_are_left_out_and_counted(tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path / "ct", CT)
    shutil.copy(paths[2], tmp_path / "ct" / "copy")
    write_ct_series(
        tmp_path / "ct", CT, suffix=".other",
        change=lambda k, data: setattr(data, "SOPInstanceUID", f"1.2.{k}"),
    )  # fmt: skip
    opened = open_volume(tmp_path / "ct")
    assert "9 repeated slices were left out" in opened.info.doubts
    assert np.array_equal(opened.read().array, CT.array)


def test_different_slices_at_one_place_are_refused(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "ct", CT)
    write_ct_series(
        tmp_path / "ct", hounsfield(GRID, seed=1), suffix="",
        change=lambda k, data: setattr(data, "SOPInstanceUID", f"1.2.{k}"),
    )  # fmt: skip
    with pytest.raises(DataError, match="two different slices lie at one position"):
        open_volume(tmp_path / "ct")


def test_acquisitions_of_one_series_are_stacks_of_their_own(tmp_path: Path) -> None:
    later = hounsfield(GRID, seed=1)

    def second(k: int, data: Dataset) -> None:
        data.AcquisitionNumber, data.SOPInstanceUID = 2, f"1.2.{k}"

    write_ct_series(tmp_path / "ct", CT, series="1.2.3")
    write_ct_series(tmp_path / "ct", later, series="1.2.3", suffix="", change=second)
    found = discover_volumes(tmp_path)
    assert [len(source.paths) for source in found] == [8, 8]
    assert len({source.id for source in found}) == 2
    by_part = {source.part: open_volume(source).read().array for source in found}
    assert np.array_equal(by_part[0], CT.array)
    assert np.array_equal(by_part[1], later.array)
    with pytest.raises(DataError, match=r"holds 2 stacks of images: 1\.2\.3 .*1\.2\.3/1"):
        open_volume(tmp_path / "ct")
    second_stack = open_volume(f"{tmp_path / 'ct'}#series=1.2.3/1")
    assert np.array_equal(second_stack.read().array, later.array)


def mixed(folder: Path) -> None:
    """Write two patients, a survey, contours, a text and a damaged file into one folder."""
    write_ct_series(folder, CT, series="1.2.1", suffix="")
    write_ct_series(folder, hounsfield(GRID, 1), series="1.2.2", suffix="-b", patient="P2")
    survey = Volume(CT.array[:, :, :2], GRID.crop((0, 0, 0), (6, 5, 2)))
    image_type = header("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_ct_series(folder, survey, series="1.2.3", suffix="-c", change=image_type)
    write_rtstruct(folder / "contours", GRID, {"a": [[[0, 0, 0], [3, 0, 0], [0, 3, 0]]]})
    (folder / "damaged.dcm").write_bytes(b"no volume")
    (folder / "notes.txt").write_text("a word")


def test_a_mixed_folder_is_sorted_out(tmp_path: Path) -> None:
    mixed(tmp_path / "all")
    folder = discover_series(tmp_path)
    kinds = sorted((series.kind, len(series.paths)) for series in folder.series)
    assert kinds == [("image", 2), ("image", 8), ("image", 8), ("rtstruct", 1)]
    assert [error.reason for error in folder.broken] == ["is no DICOM file"]
    found = {source.series: scan_volume(source) for source in discover_volumes(tmp_path)}
    assert found["1.2.1"].reasons == found["1.2.2"].reasons == ()
    assert "survey picture" in found["1.2.3"].reasons[0]
    assert found[None].reasons == ("is no DICOM file",)
    assert len(found) == 4
    (tmp_path / "all" / "damaged.dcm").unlink()
    with pytest.raises(DataError, match=r"2 stacks of images of 2 patients.*name one with"):
        open_volume(tmp_path / "all")
    chosen = open_volume(f"{tmp_path / 'all'}#series=1.2.2")
    assert chosen.info.patient == "P2"
    assert np.array_equal(chosen.read().array, hounsfield(GRID, 1).array)
    with pytest.raises(DataError, match=r"has no series '1\.2\.9'"):
        open_volume(f"{tmp_path / 'all'}#series=1.2.9")


def test_found_series_have_the_names_of_their_folders_and_ignore_file_names(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "p1" / "ct", CT, suffix="")
    write_ct_series(tmp_path / "p2", CT, suffix=".ima")
    write_enhanced_ct(tmp_path / "p3.dcm", CT)
    assert [source.id for source in discover_volumes(tmp_path)] == ["p1/ct", "p2", "p3"]
    assert [source.id for source in discover_volumes(tmp_path, "p1/*")] == ["p1/ct"]


def test_series_without_identifiers_are_told_apart_by_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_ct_series(tmp_path / name, CT, change=header("SeriesInstanceUID", ""))
    found = discover_volumes(tmp_path)
    assert [(source.id, len(source.paths)) for source in found] == [("a", 8), ("b", 8)]


def test_a_damaged_slice_is_named(tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path / "ct", CT)
    paths[3].write_bytes(paths[3].read_bytes()[:-30])
    opened = open_volume(tmp_path / "ct")
    with pytest.raises(DataError, match=paths[3].name):
        opened.read()
    whole = opened.read((slice(None), slice(None), slice(4, 8)))
    assert np.array_equal(whole.array, CT.array[:, :, 4:])


def test_rescale_is_that_of_each_slice(tmp_path: Path) -> None:
    def change(k: int, data: Dataset) -> None:
        hu = CT.array[:, :, k].T.astype(np.int32)
        data.RescaleIntercept = -1024 - k
        put_pixels(data, hu + 1024 + k)

    write_ct_series(tmp_path / "ct", CT, change=change)
    read = open_volume(tmp_path / "ct").read()
    assert read.array.dtype == np.int16
    assert np.array_equal(read.array, CT.array)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_compressed_slices_are_decoded(syntax: str, tmp_path: Path) -> None:
    grid = geometry((40, 36, 3))
    volume = hounsfield(grid)
    write_ct_series(tmp_path / "ct", volume, change=lambda k, data: data.compress(syntax))
    assert np.array_equal(open_volume(tmp_path / "ct").read().array, volume.array)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_picture_of_another_size_inside_is_refused_before_decoding(
    syntax: str, tmp_path: Path
) -> None:
    def change(k: int, data: Dataset) -> None:
        data.compress(syntax)
        data.Rows = 30  # the picture inside has 36

    write_ct_series(tmp_path / "ct", hounsfield(geometry((40, 36, 3))), change=change)
    with pytest.raises(DataError, match="picture of 36 x 40 pixels where its header says 30 x 40"):
        open_volume(tmp_path / "ct").read()


def test_numbers_beyond_the_stated_bits_are_refused(tmp_path: Path) -> None:
    def change(k: int, data: Dataset) -> None:
        data.compress(JPEG2000Lossless)
        data.BitsStored, data.HighBit = 8, 7

    write_ct_series(tmp_path / "ct", hounsfield(geometry((40, 36, 3))), change=change)
    with pytest.raises(DataError, match="numbers beyond the 8 bits"):
        open_volume(tmp_path / "ct").read()


def test_the_size_of_a_jpeg_is_that_of_its_frame_header() -> None:
    app, frame = b"\xff\xe0\x00\x04ab", b"\xff\xc3\x00\x0b\x10\x01\x02\x03\x04\x01\x01\x11\x00"
    assert codestream_size(b"\xff\xd8" + app + frame) == (0x102, 0x304)
    assert codestream_size(b"\xff\xd8" + app) is None
    assert codestream_size(b"RLE or nothing") is None


def test_jpeg_lossless_slices_are_decoded(tmp_path: Path) -> None:
    """Scanners and archives use it most, and pydicom has no encoder for it."""
    import gdcm

    volume = hounsfield(geometry((40, 36, 3)))
    syntax = gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    for path in write_ct_series(tmp_path, volume):
        reader, change, writer = (
            gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter(),
        )  # fmt: skip
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(syntax)
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    assert np.array_equal(open_volume(tmp_path).read().array, volume.array)


def test_a_tilted_gantry_is_refused_or_corrected(tmp_path: Path) -> None:
    upright = geometry((9, 12, 8), spacing=(1.0, 1.0, 2.0))
    affine = upright.affine
    affine[:3, 2] += 0.7 * upright.directions[:, 1]
    tilted = VolumeGeometry.from_affine(affine, upright.shape)
    slope = np.array([1.0, 2.0, -3.0])
    field = tilted.world(np.moveaxis(np.indices(tilted.shape), 0, -1)) @ slope
    mean = field.mean()
    write_ct_series(tmp_path / "ct", Volume(np.rint((field - mean) * 10).astype(np.int16), tilted))
    with pytest.raises(DataError, match="degrees off a right angle"):
        open_volume(tmp_path / "ct")
    opened = open_volume(tmp_path / "ct", sheared=True)
    assert opened.geometry.distance(tilted) < 1e-3
    assert tilt_degrees(opened.geometry) == pytest.approx(np.degrees(np.arctan(0.35)), abs=1e-4)
    target = opened.geometry.unsheared()
    corrected = resample(opened.read(), target, fill=-1024)
    places = np.moveaxis(np.indices(target.shape), 0, -1)
    indices = opened.geometry.voxel(target.world(places))
    inner = ((indices >= 0) & (indices <= np.array(tilted.shape) - 1)).all(axis=-1)
    expected = (target.world(places) @ slope - mean) * 10
    assert target.shear < 1e-5
    assert inner.sum() > 400
    assert np.abs(corrected.array - expected)[inner].max() < 1.5
    assert (corrected.array == -1024).any()


DOUBTS = {
    "thickness": (header("SliceThickness", 3), "2.5 mm apart and 3 mm thick"),
    "units": (header("RescaleType", "US"), "'US' and not Hounsfield"),
    "unsigned": (header("RescaleIntercept", 0), "cannot be negative"),
}


@pytest.mark.parametrize("case", DOUBTS)
def test_a_doubtful_series_is_read_and_doubted(case: str, tmp_path: Path) -> None:
    change, message = DOUBTS[case]
    write_ct_series(tmp_path / "ct", CT, change=change)
    assert message in " ".join(open_volume(tmp_path / "ct").info.doubts)


def test_a_head_in_eight_bits_is_doubted(tmp_path: Path) -> None:
    def change(k: int, data: Dataset) -> None:
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.RescaleIntercept = 7, 0
        data.PixelData = bytes(range(30))

    write_ct_series(tmp_path / "ct", CT, change=change)
    scan = scan_volume(tmp_path / "ct")
    assert scan.reasons == ()
    assert "8-bit numbers cannot hold Hounsfield" in " ".join(scan.doubts)


def test_headers_that_identify_are_named_and_never_quoted(tmp_path: Path) -> None:
    nurse = Dataset()
    nurse.PersonName = "Roe^Nurse"

    def change(k: int, data: Dataset) -> None:
        data.PatientIdentityRemoved, data.PatientName = "NO", "Doe^Jane"
        data.PatientBirthDate, data.InstitutionName = "19700101", "Some Hospital"
        data.ContentSequence = Items([nurse])
        data.ReferringPhysicianName = "anonymous"

    path = write_ct_series(tmp_path, CT, change=change)[0]
    assert identifying_headers(path) == {
        "InstitutionName": "place",
        "PatientBirthDate": "patient",
        "PatientID": "patient",
        "PatientName": "patient",
        "PersonName": "patient",
    }
    assert open_volume(tmp_path).info.identifying == identifying_headers(path)


@pytest.mark.parametrize(("name", "tells"), [("P1", False), ("Doe^Jane", True)])
def test_a_pseudonym_is_none_when_it_looks_like_a_name(
    name: str, tells: bool, tmp_path: Path
) -> None:
    path = write_ct_series(tmp_path, CT, change=header("PatientName", name))[0]
    assert ("PatientName" in identifying_headers(path)) == tells


def test_a_single_slice_is_no_volume(tmp_path: Path) -> None:
    path = write_ct_series(tmp_path, CT)[0]
    with pytest.raises(DataError, match="is one slice and no volume; give the folder"):
        open_volume(path)


def test_a_deflated_file_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    from pydicom import dcmread
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    path = write_ct_series(tmp_path, CT)[0]
    data = dcmread(path)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(data, path)
    with pytest.raises(DataError, match="deflated transfer syntax"):
        open_volume(tmp_path)
