"""Small volumes in all formats, DICOM series among them, for tests of readers and writers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from mimkit.datasets.volume_geometry import VolumeGeometry, flip_lps
from mimkit.datasets.volumes import Volume

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_CLASS = "1.2.840.10008.5.1.4.1.1.2.1"
RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"

Change = Callable[[int, Dataset], None]


def geometry(
    shape: Sequence[int] = (6, 5, 4), spacing: Sequence[float] = (0.8, 0.9, 2.5), turn: float = 0.0
) -> VolumeGeometry:
    """Return an LPS grid, turned by some degrees about an oblique axis."""
    axes = rotation(np.array([0.3, -0.2, 1.0]), turn) @ np.diag([-1.0, -1.0, 1.0])
    return VolumeGeometry.from_axes(axes, spacing, (-12.5, 30.25, -640.75), shape)


def rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    """Return the rotation about an axis (Rodrigues)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@st.composite
def geometries(draw: st.DrawFn, *, min_size: int = 2, max_size: int = 7) -> VolumeGeometry:
    """Draw grids of any orientation, spacing, place and handedness."""
    i, j, k = (draw(st.integers(min_size, max_size)) for _ in range(3))
    spacing = np.array([draw(st.floats(0.2, 6.0)) for _ in range(3)])
    origin = np.array([draw(st.floats(-900.0, 900.0)) for _ in range(3)])
    axis = np.array([draw(st.floats(-1.0, 1.0)) for _ in range(3)]) + np.array([0, 0, 1.01])
    axes = rotation(axis, draw(st.floats(-180.0, 180.0)))
    columns = draw(st.permutations(range(3)))
    signs = [draw(st.sampled_from([-1.0, 1.0])) for _ in range(3)]
    affine = np.column_stack([axes[:, columns] * signs * spacing, origin])
    # Not by `from_affine`: its run-time check of sequences draws at random.
    rows: Any = tuple(affine.ravel().tolist())
    return VolumeGeometry(rows, (i, j, k))


def hounsfield(grid: VolumeGeometry, seed: int = 0) -> Volume:
    """Return a volume of int16 from -1024 to 1500."""
    array = np.random.default_rng(seed).integers(-1024, 1500, grid.shape).astype(np.int16)
    return Volume(array, grid)


def write_nifti_file(path: Path, array: np.ndarray, affine: np.ndarray, **options: Any) -> Path:
    """Write a NIfTI file by nibabel alone; `sform` and `qform` are codes, `zooms` are forced."""
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, code=options.get("sform", 1))
    image.set_qform(affine, code=options.get("qform", 0))
    if "zooms" in options:
        image.header["pixdim"][1:4] = options["zooms"]
    image.to_filename(path)
    return path


def write_ct_series(
    folder: Path,
    volume: Volume,
    *,
    patient: str = "P1",
    series: str | None = None,
    change: Change | None = None,
    suffix: str = ".dcm",
    intercept: int = -1024,
    unsigned: bool = True,
) -> list[Path]:
    """Write a volume of HU as a classic CT series; axes are column, row, slice.

    Args:
        folder: where the files go, made if needed.
        volume: whole HU; its third axis may be sheared, the first two are perpendicular.
        patient: PatientID and PatientName.
        series: SeriesInstanceUID; None makes one from the folder's name.
        change: gets (slice, dataset) before it is written.
        suffix: end of the file names.
        intercept: RescaleIntercept.
        unsigned: store uint16 of 12 bits, otherwise int16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series = series or generate_uid(entropy_srcs=[str(folder)])
    affine = flip_lps(volume.geometry.affine[:3])
    paths = []
    for k in range(volume.array.shape[2]):
        data = _slice_headers(patient, series, k, affine)
        stored = volume.array[:, :, k].T.astype(np.int32) - intercept
        put_pixels(data, stored, unsigned=unsigned)
        data.RescaleIntercept, data.RescaleSlope, data.RescaleType = intercept, 1, "HU"
        if change is not None:
            change(k, data)
        # Names in another order than positions.
        paths.append(save(data, folder / f"im{(k * 7) % 100:03d}-{k}{suffix}"))
    return paths


def put_pixels(data: Dataset, stored: np.ndarray, *, unsigned: bool = True) -> None:
    """Set the pixels of a dataset and the headers that describe them."""
    data.Rows, data.Columns = stored.shape[-2:]
    data.BitsAllocated, data.BitsStored = 16, 12 if unsigned else 16
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(not unsigned)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.PixelData = stored.astype("<u2" if unsigned else "<i2").tobytes()


def save(data: Dataset, path: Path) -> Path:
    """Write a dataset as a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.save_as(path, enforce_file_format=True)
    return path


def _common(patient: str, series: str, sop_class: str, instance: str) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UID(sop_class)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = UID(instance)
    data.PatientID = data.PatientName = patient
    data.PatientIdentityRemoved = "YES"
    data.PatientBirthDate = data.PatientSex = ""
    data.StudyInstanceUID = generate_uid(entropy_srcs=[patient, "study"])
    data.FrameOfReferenceUID = generate_uid(entropy_srcs=[patient, "frame"])
    data.SeriesInstanceUID, data.Modality = series, "CT"
    data.StudyDate, data.StudyTime, data.StudyID = "20200101", "120000", ""
    data.AccessionNumber = data.ReferringPhysicianName = ""
    data.Manufacturer, data.SeriesNumber = "tests", 1
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    return data


def _slice_headers(patient: str, series: str, k: int, affine: np.ndarray) -> Dataset:
    instance = generate_uid(entropy_srcs=[patient, series, str(k)])
    data = _common(patient, series, CT_CLASS, instance)
    data.InstanceNumber, data.AcquisitionNumber = k + 1, 1
    _place(data, data, data, affine, k)
    return data


def _place(position: Dataset, turn: Dataset, size: Dataset, affine: np.ndarray, k: int) -> None:
    """Set where slice k lies on datasets for position, orientation and pixel spacing."""
    steps = np.linalg.norm(affine[:, :2], axis=0)
    position.ImagePositionPatient = decimals(affine[:, 3] + k * affine[:, 2])
    turn.ImageOrientationPatient = decimals((affine[:, :2] / steps).T.ravel())
    size.PixelSpacing = decimals(steps[::-1])
    size.SliceThickness = decimals(np.linalg.norm(affine[:, 2:], axis=0))[0]


def decimals(values: Sequence[float] | np.ndarray) -> list[str]:
    """Return numbers as DICOM writes them, in at most 16 characters."""
    return [format_number_as_ds(float(value)) for value in values]


def write_enhanced_ct(path: Path, volume: Volume, *, order: Sequence[int] | None = None) -> Path:
    """Write a volume of HU as one file of several frames, in any order."""
    affine = flip_lps(volume.geometry.affine[:3])
    order = list(range(volume.array.shape[2])) if order is None else list(order)
    data = _common("P1", generate_uid(entropy_srcs=[str(path)]), ENHANCED_CT_CLASS, generate_uid())
    stored = volume.array[:, :, order].transpose(2, 1, 0).astype(np.int32) + 1024
    put_pixels(data, stored)
    data.NumberOfFrames = len(order)
    turn, size, rescale, shared = Dataset(), Dataset(), Dataset(), Dataset()
    rescale.RescaleIntercept, rescale.RescaleSlope, rescale.RescaleType = -1024, 1, "HU"
    groups = []
    for k in order:
        position, group = Dataset(), Dataset()
        _place(position, turn, size, affine, k)
        group.PlanePositionSequence = Items([position])
        groups.append(group)
    shared.PlaneOrientationSequence = Items([turn])
    shared.PixelMeasuresSequence = Items([size])
    shared.PixelValueTransformationSequence = Items([rescale])
    data.SharedFunctionalGroupsSequence = Items([shared])
    data.PerFrameFunctionalGroupsSequence = Items(groups)
    return save(data, path)


def write_rtstruct(
    path: Path, grid: VolumeGeometry, regions: Mapping[str, Sequence[Sequence[Sequence[float]]]]
) -> Path:
    """Write contours, given as voxel indices of a grid, as an RTSTRUCT."""
    data = _common("P1", generate_uid(), RTSTRUCT_CLASS, generate_uid())
    data.Modality, data.StructureSetLabel = "RTSTRUCT", "tests"
    names, shapes = [], []
    for number, (name, contours) in enumerate(regions.items()):
        roi, shape = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        shape.ReferencedROINumber, shape.ROIDisplayColor = number, [10, 20, 30 + number]
        items = []
        for points in contours:
            item = Dataset()
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            item.ContourData = decimals(flip_lps(grid.world(np.array(points)).T).T.ravel())
            items.append(item)
        shape.ContourSequence = Items(items)
        names.append(roi)
        shapes.append(shape)
    data.StructureSetROISequence, data.ROIContourSequence = Items(names), Items(shapes)
    return save(data, path)
