"""Write label maps as NIfTI."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..files import whole_file
from ..label_map import LabelMap
from ..readers.volume_source import MAX_SHEAR_DEGREES
from ..volumes import Volume


def write_nifti(path: str | Path, volume: Volume) -> None:
    """Write a volume on exactly its grid, compressed when the name ends in .gz.

    Sform and qform both say where it lies; a sheared grid has no qform, which cannot hold it.
    NIfTI keeps affines in float32, so that positions are exact to about 1e-4 mm.

    Args:
        path: .nii or .nii.gz file, written whole or not at all.
        volume: numbers of a type that NIfTI knows.
    """
    import gzip

    from nibabel.nifti1 import Nifti1Image

    path = Path(path)
    image = Nifti1Image(np.asarray(volume.array), volume.geometry.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.geometry.affine, code="scanner")
    upright = volume.geometry.shear <= MAX_SHEAR_DEGREES
    image.set_qform(volume.geometry.affine, code="scanner" if upright else "unknown")
    with whole_file(path) as stream:
        if path.suffix.lower() == ".gz":
            # No name and time inside: equal volumes give equal bytes.
            with gzip.GzipFile("", "wb", 6, stream, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(stream)  # pyright: ignore[reportArgumentType]


def write_nifti_labels(path: str | Path, labels: LabelMap) -> None:
    """Write a label map; NIfTI has no place for names, which `write_label_map` puts beside it."""
    write_nifti(path, labels.volume.with_array(smallest(labels.volume.array)))


def smallest(array: np.ndarray) -> np.ndarray:
    """Return labels in the smallest unsigned type that holds them, at most 32 bits."""
    largest = max(int(array.max()), 0)
    return array.astype(np.min_scalar_type(largest), copy=False)
