"""Inspect tells the grid, the numbers and the troubles of volumes, in all their formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from inspected import Look, Refused
from tiny_volumes import geometry, hounsfield, write_ct_series, write_nifti_file

GRID = geometry((12, 10, 8))


def test_a_volume_tells_grid_and_range(look: Look, tmp_path: Path) -> None:
    volume = hounsfield(GRID)
    path = write_nifti_file(tmp_path / "ct.nii.gz", volume.array, GRID.affine)
    code, found = look(path)
    facts = found["facts"]
    assert (code, found["kind"]) == (0, "volume")
    assert (facts["voxels"], facts["mm between voxels"]) == ("12 x 10 x 8", "0.8 x 0.9 x 2.5")
    ((values,),) = found["tables"].values()
    assert (values["min"], values["max"]) == (volume.array.min(), volume.array.max())


def test_a_series_and_its_headers(look: Look, tmp_path: Path) -> None:
    write_ct_series(tmp_path / "series", hounsfield(GRID))
    code, found = look(tmp_path)
    assert (code, found["kind"], found["facts"]["format"]) == (0, "volume", "dicom")
    assert found["facts"]["files"] == 8


def test_names_in_headers_are_told_but_not_shown(look: Look, tmp_path: Path) -> None:
    def name(_: int, data: object) -> None:
        data.PatientName = "Doe^Jane"  # pyright: ignore[reportAttributeAccessIssue]

    write_ct_series(tmp_path / "series", hounsfield(GRID), change=name)
    _, found = look(tmp_path)
    assert "PatientName" in str(found["notes"])
    assert "Doe" not in str(found)


def test_a_label_map_alone_is_counted(look: Look, tmp_path: Path) -> None:
    mask = np.zeros(GRID.shape, np.uint8)
    mask[:5, :4, :2] = 3
    _, found = look(write_nifti_file(tmp_path / "mask.nii.gz", mask, GRID.affine))
    (rows,) = found["tables"].values()
    assert found["kind"] == "labels"
    assert [(row["number"], row["voxels"]) for row in rows] == [(0, 920), (3, 40)]
    assert rows[1]["ml"] == pytest.approx(40 * 0.8 * 0.9 * 2.5 / 1000)


def test_a_folder_goes_by_headers_and_names_what_is_broken(look: Look, tmp_path: Path) -> None:
    for case in "ab":
        write_nifti_file(tmp_path / f"{case}_ct.nii.gz", hounsfield(GRID).array, GRID.affine)
        mask = np.ones(GRID.shape, np.uint8)
        write_nifti_file(tmp_path / f"{case}_mask.nii.gz", mask, GRID.affine)
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "a_ct.nii.gz").read_bytes()[:40])
    code, found = look(tmp_path)
    assert (code, found["kind"]) == (1, "volumes")
    assert (found["facts"]["volumes"], found["facts"]["label maps"]) == (3, 2)
    assert "cut.nii.gz" in found["problems"][0]


def test_numbers_that_are_no_hounsfield_units_are_a_problem(look: Look, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, GRID.shape).astype(np.uint8)
    code, found = look(write_nifti_file(tmp_path / "head.nii.gz", picture, GRID.affine))
    assert code == 1
    assert "8-bit" in found["problems"][0]


def test_a_folder_without_volumes_says_what_it_takes(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "folder"  # what lies above it is this test's own
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing")
    assert "a volume" in refused(folder)
