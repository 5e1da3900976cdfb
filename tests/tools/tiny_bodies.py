"""Small bodies of water in air, with labels, as files of CT data sets."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from tiny_volumes import geometry, write_nifti_file

from mimkit.datasets.volumes import Volume

SHAPE = (40, 36, 20)  # columns, rows, slices
SPACING = (2.0, 2.0, 4.0)
LIVER, TUMOUR = 1, 2
_SFORM = 280  # byte at which a NIfTI header says its affine


def body(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> tuple[Volume, np.ndarray]:
    """Return a volume of HU in LPS and its labels; each seed is another person."""
    random = np.random.default_rng(seed)
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    wide, deep = random.uniform(0.65, 0.8), random.uniform(0.6, 0.75)
    hu = np.full(shape, -1000.0)
    hu[(x / wide) ** 2 + (y / deep) ** 2 < 1] = -80
    hu[(x / wide) ** 2 + (y / deep) ** 2 < 0.75] = 40
    labels = np.zeros(shape, np.uint8)
    first, size = random.integers(8, 14, 2), random.integers(6, 9)
    start = int(random.integers(3, 8))
    labels[first[0] : first[0] + size, first[1] : first[1] + size, start : start + 10] = LIVER
    labels[first[0] + 2 : first[0] + 5, first[1] + 2 : first[1] + 5, start + 2 : start + 6] = TUMOUR
    hu[labels == LIVER], hu[labels == TUMOUR] = 110, 180
    hu += random.normal(0, 15, shape)
    whole = np.rint(hu.clip(-1024)).astype(np.int16)  # as scanners do
    return Volume(whole, geometry(shape, SPACING)), labels


def write_patient(folder: Path, seed: int, *, labels: bool = True) -> Path:
    """Write CT_image.nii.gz and CT_mask.nii.gz of a person and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    volume, numbers = body(seed)
    affine = volume.geometry.affine
    write_nifti_file(folder / "CT_image.nii.gz", volume.array.astype(np.float32), affine)
    if labels:
        write_nifti_file(folder / "CT_mask.nii.gz", numbers, affine)
    return folder


def write_broken(root: Path) -> dict[str, str]:
    """Write one person for every way to break a volume or its labels.

    Returns:
        The status that curation gives, by the name of the folder; of the label file when the name
        begins with "label".
    """
    expected = {}
    volume, labels = body(50)
    affine, array = volume.geometry.affine, volume.array
    sheared = affine.copy()
    sheared[0, 2] += 1.0
    nan = array.astype(np.float32)
    nan[3, 4, 5] = np.nan
    moved = affine.copy()
    moved[:3, 3] += 7.0
    volumes = {
        "flat": (array[:, :, 0], affine, {}, "unreadable"),
        "series": (np.stack([array, array], -1), affine, {}, "unreadable"),
        "nan": (nan, affine, {}, "unreadable"),
        "sheared": (array, sheared, {}, "sheared"),
        "eight-bit": (((array + 1024) / 9).clip(0, 255).astype(np.uint8), affine, {}, None),
        "unsigned": ((array + 1024).clip(0).astype(np.uint16), affine, {}, None),
        "windowed": (array.clip(-60, 140), affine, {}, "truncated_range"),
        "air": (array * 0 - 1000 + (array % 25), affine, {}, None),
        "thick": (array, affine @ np.diag([1, 1, 4, 1]), {}, "coarse_spacing"),
    }
    for name, (numbers, matrix, options, status) in volumes.items():
        (root / name).mkdir(parents=True)
        write_nifti_file(root / name / "CT_image.nii.gz", numbers, matrix, **options)
        expected[name] = status or "not_hounsfield"
    cut = write_patient(root / "cut", 51, labels=False) / "CT_image.nii.gz"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (root / "zero").mkdir()
    zero = write_nifti_file(root / "zero" / "CT_image.nii", array, affine)
    content = bytearray(zero.read_bytes())
    struct.pack_into("<12f", content, _SFORM, *(affine @ np.diag([1, 1, 0, 1]))[:3].ravel())
    zero.write_bytes(content)
    expected["zero"] = "unreadable"
    (root / "text").mkdir()
    (root / "text" / "CT_image.nii.gz").write_text("not an image")
    expected |= {"cut": "unreadable", "text": "unreadable"}
    masks = {
        "label-grid": (labels, moved, "unreadable_label"),
        "label-unknown": (labels * 40, affine, "unknown_label"),
        "label-empty": (labels * 0, affine, "empty_label"),
    }
    for number, (name, (numbers, matrix, status)) in enumerate(masks.items()):
        write_patient(root / name, 60 + number)
        write_nifti_file(root / name / "CT_mask.nii.gz", numbers, matrix)
        expected[name] = status
    return expected
