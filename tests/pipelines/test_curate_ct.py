"""`mimkit curate ct`: layouts, geometry, parts by patient, refusals; and what reads its stores."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from tiny_bodies import LIVER, TUMOUR, body, write_broken, write_patient
from tiny_volumes import write_ct_series, write_nifti_file

from mimkit.core.errors import UsageError
from mimkit.datasets.errors import DataError
from mimkit.datasets.manifest import KEPT, ManifestRow, manifest_rows, read_manifest
from mimkit.datasets.readers.volume import open_volume, read_labels
from mimkit.datasets.volume_geometry import VolumeGeometry
from mimkit.datasets.volumes import Volume
from mimkit.datasets.writers.label_map import write_label_map
from mimkit.domains.ct.curate.cut import starts
from mimkit.domains.ct.domain import CT
from mimkit.pipelines.cli import main
from mimkit.pipelines.curate.ct import CurateCtConfig, run
from mimkit.pipelines.stores import OpenGroup, open_group

SIZE = (8, 16, 16)
CLASSES = ("1=liver", "2=tumour")


def curate(source: Path, out: Path, **more: Any) -> list[ManifestRow]:
    # These bodies are simpler than people, so only equal ones count as look-alikes.
    options: dict[str, Any] = {"size": SIZE, "workers": 0, "min_body": 0.2, "hash_distance": 0}
    run(CurateCtConfig(sources=(source,), out=out, **(options | more)))
    return manifest_rows(read_manifest(out / "manifest.parquet"))


def kept(rows: list[ManifestRow]) -> list[ManifestRow]:
    return sorted((row for row in rows if row.status == KEPT), key=lambda row: row.row or 0)


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("patients")
    for seed in range(5):
        write_patient(root / f"P{seed}", seed)
    return root


@pytest.fixture(scope="module")
def store(patients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ct") / "store"
    options = {"mask_classes": CLASSES, "fractions": (0.5, 0.25, 0.25)}
    curate(patients, out, licence="CC0", **options)
    return out


def check_voxels(group: OpenGroup, rows: list[ManifestRow]) -> None:
    """Compare every stored voxel with the file's at the same place in the patient."""
    index = np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij"), -1).reshape(-1, 3)
    samples = group.store.read(np.arange(len(group.store)), labels=True)
    assert samples.labels is not None
    assert samples.valid is not None
    for row in rows:
        assert row.affine is not None
        assert row.row is not None
        volume, labels = body(int(row.uri.partition("P")[2].partition("/")[0]))
        world = VolumeGeometry(row.affine, SIZE).world(index)
        places = np.rint(volume.geometry.voxel(world)).astype(int)
        np.testing.assert_allclose(volume.geometry.world(places), world, atol=1e-3)
        i, j, k = places.T
        assert np.array_equal(samples.pixels[row.row].ravel(), volume.array[i, j, k])
        assert np.array_equal(samples.labels[row.row].ravel(), labels[i, j, k])
        assert row.valid == pytest.approx(float(samples.valid[row.row].mean()))
        assert row.measures["foreground"] == pytest.approx((labels[i, j, k] > 0).mean(), abs=1e-5)


def test_voxels_labels_and_geometry_are_those_of_the_files(store: Path) -> None:
    rows, group = kept(manifest_rows(read_manifest(store / "manifest.parquet"))), open_group(store)
    assert group.meta.classes == ("background", "liver", "tumour")
    assert len(rows) == len(group.store) > 10
    check_voxels(group, rows)
    normaliser = CT.normaliser(group.normaliser_dict)
    assert normaliser.window == (-175.0, 250.0)
    assert normaliser.spacing == (4.0, 2.0, 2.0)
    assert rows[0].measures["spacing_z"] == 4.0
    assert {row.facts["codes"] for row in rows} == {"LPS"}


def test_parts_are_made_of_patients(store: Path) -> None:
    rows = kept(manifest_rows(read_manifest(store / "manifest.parquet")))
    parts: dict[str | None, set[str | None]] = {}
    for row in rows:
        parts.setdefault(row.group, set()).add(row.split)
    assert len(parts) == 5
    assert all(len(splits) == 1 for splits in parts.values())
    assert {split for splits in parts.values() for split in splits} == {"train", "val", "test"}


def test_equal_sources_give_equal_bytes_and_a_second_run_changes_nothing(
    patients: Path, store: Path, tmp_path: Path
) -> None:
    options = {"mask_classes": CLASSES, "fractions": (0.5, 0.25, 0.25), "licence": "CC0"}
    curate(patients, tmp_path / "again", **options)
    for name in ("manifest.parquet", f"{open_group(store).store.path.name}/store.json"):
        before = (store / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == before
        curate(patients, store, **options)
        assert (store / name).read_bytes() == before


def test_resampling_is_remembered(patients: Path, tmp_path: Path) -> None:
    rows = curate(patients, tmp_path / "out", spacing=(4.0, 4.0, 4.0), mask_classes=CLASSES)
    group = open_group(tmp_path / "out")
    assert CT.normaliser(group.normaliser_dict).spacing == (4.0, 4.0, 4.0)
    for row in kept(rows):
        assert row.affine is not None
        steps = VolumeGeometry(row.affine, SIZE).spacing
        assert steps == pytest.approx((4.0, 4.0, 4.0))
    labels = group.store.read(np.arange(len(group.store)), labels=True).labels
    assert labels is not None
    assert set(np.unique(labels)) <= {0, LIVER, TUMOUR, 255}


def test_folders_of_nnunet_are_read_as_they_are(tmp_path: Path) -> None:
    root = tmp_path / "Dataset007_Liver"
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True)
    for seed in range(3):
        volume, labels = body(seed)
        affine = volume.geometry.affine
        folder = "imagesTr" if seed else "imagesTs"
        write_nifti_file(root / folder / f"case_{seed}_0000.nii.gz", volume.array, affine)
        if seed:
            write_nifti_file(root / "labelsTr" / f"case_{seed}.nii.gz", labels, affine)
    shutil.copy(root / "imagesTr" / "case_1_0000.nii.gz", root / "imagesTr" / "case_1_0001.nii.gz")
    names = {"background": 0, "liver": LIVER, "tumour": TUMOUR}
    (root / "dataset.json").write_text(json.dumps({"labels": names}))
    rows = curate(root, tmp_path / "out")
    group = open_group(tmp_path / "out")
    assert group.meta.classes == ("background", "liver", "tumour")
    labelled = {row.group: (row.labelled or 0) > 0 for row in kept(rows)}
    assert sorted(labelled.values()) == [False, True, True]
    assert [row.status for row in rows if "_0001" in row.uri] == ["other_channel"]


def test_headers_that_name_people_are_refused_and_never_stored(tmp_path: Path) -> None:
    """Two patients in one folder, as DICOM: each is its own group, by a pseudonym."""
    for seed, name in enumerate(("Doe^Jane", "Roe^Richard")):

        def named(_: int, data: Any, name: str = name) -> None:
            data.PatientName, data.PatientID = name, f"ID-{name[:3]}"

        folder = tmp_path / "dicom"
        write_ct_series(
            folder, body(seed)[0], series=f"1.2.{seed}", change=named, suffix=f".{seed}"
        )
    with pytest.raises(DataError, match=r"2 of 2 files are broken"):
        curate(tmp_path / "dicom", tmp_path / "refused")
    rows = manifest_rows(read_manifest(tmp_path / "refused" / "manifest.parquet"))
    assert {row.status for row in rows} == {"identified"}
    assert all("PatientName" in (row.reason or "") for row in rows)
    rows = curate(tmp_path / "dicom", tmp_path / "taken", allow_identified=True)
    groups = {row.group for row in kept(rows)}
    assert len(groups) == 2
    assert all(str(group).startswith("patient-") for group in groups)
    for out in ("refused", "taken"):
        for path in (tmp_path / out).rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert not any(word in content for word in (b"Doe^", b"Roe^", b"ID-Doe"))


def test_the_source_may_be_the_folder_of_one_series(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "P0" / "image", body(0)[0])
    rows = curate(tmp_path / "P0" / "image", tmp_path / "out", allow_identified=True, labels="none")
    assert kept(rows)


def test_a_copy_in_another_format_is_found(tmp_path: Path) -> None:
    write_patient(tmp_path / "all" / "P0", 0)
    write_patient(tmp_path / "all" / "P1", 1)
    write_ct_series(tmp_path / "all" / "dicom", body(0)[0], patient="anonymous")
    rows = curate(tmp_path / "all", tmp_path / "out", allow_identified=True, labels="none")
    copies = [row for row in rows if row.status == "duplicate"]
    assert len(copies) == 1
    assert "same pixels" in (copies[0].reason or "")


def test_what_is_broken_is_a_row_with_its_reason_and_nothing_is_lost(
    patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "all"
    shutil.copytree(patients, root)
    expected = write_broken(root)
    out = tmp_path / "out"
    words = ["curate", "ct", str(root), "--out", str(out), "--workers", "0"]
    words += ["--size", *map(str, SIZE), "--mask-classes", *CLASSES, "--min-body", "0.2"]
    words += ["--hash-distance", "0"]
    assert main(words) == 1
    assert "files are broken" in capsys.readouterr().err
    rows = manifest_rows(read_manifest(out / "manifest.parquet"))
    broken = {row.id.partition("/")[0]: row for row in rows if row.status not in (KEPT, "low_body")}
    assert {name: row.status for name, row in broken.items()} == expected
    assert all(row.reason for row in broken.values())
    usable = {row.id.partition("/")[0] for row in kept(rows)}
    bad_labels = {name for name in expected if name.startswith("label")}
    assert usable == {f"P{seed}" for seed in range(5)} | bad_labels
    assert all(row.labelled == 0 for row in kept(rows) if row.id.startswith("label"))
    card = json.loads((out / "card.json").read_text())
    num_files = (
        2 * 5 + len(expected) + len(bad_labels)
    )  # the last ones are a volume and a label file
    assert card["files"] == {"found": num_files, "broken": len(expected)}
    shutil.rmtree(out)
    assert main([*words, "--max-broken-share", "1"]) == 0


def test_patients_and_parts_may_come_from_a_table(patients: Path, tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    lines = [
        f"P{n}/CT_image.nii.gz,person-{n // 2},{'test' if n == 4 else 'train'}" for n in range(5)
    ]
    table.write_text("\n".join(["file,patient,split", *lines]))
    rows = kept(curate(patients, tmp_path / "out", patients=table, mask_classes=CLASSES))
    assert {row.group for row in rows} == {"person-0", "person-1", "person-2"}
    assert {row.group for row in rows if row.split == "test"} == {"person-2"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"window": (250.0, -175.0)}, "lower end first"),
        ({"size": (2, 16, 16)}, "at least 4 voxels"),
        ({"mask_classes": ("liver",)}, "NUMBER=NAME"),
        ({"min_body": 1.5}, "share from 0 to 1"),
    ],
)
def test_settings_that_cannot_work_name_the_field(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        CurateCtConfig(sources=(Path("x"),), out=Path("y"), **change)


@given(
    length=st.integers(1, 60),
    size=st.integers(1, 40),
    stride=st.integers(1, 40),
    data=st.data(),
)
def test_crops_cover_the_body(length: int, size: int, stride: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, length - 1))
    num = data.draw(st.integers(1, length - first))
    stride = min(stride, size)
    found = starts(length, size, stride, (first, num))
    covered = {place for start in found for place in range(start, start + size)}
    assert set(range(first, first + num)) <= covered
    assert found == sorted(set(found))
    assert all(b - a <= stride for a, b in pairwise(found))
    if length >= size:
        assert all(0 <= start <= length - size for start in found)


def test_a_store_trains_a_model_whose_page_shows_three_planes(store: Path, tmp_path: Path) -> None:
    words = ["pretrain", "--recipe", "ct/mae-tiny", "--data", str(store)]
    words += ["--out", str(tmp_path / "run"), "--epochs", "1", "--batch-size", "4"]
    words += ["--optim.warmup-epochs", "0.5", "--image-size", "8", "16", "16"]
    words += ["--method.encoder.patch-size", "2", "8", "8", "--method.encoder.depth", "1"]
    assert main([*words, "--method.decoder.depth", "1", "--method.no-norm-pix"]) == 0
    page = tmp_path / "page.html"
    report = ["report", str(tmp_path / "run"), "--data", str(store), "--out", str(page)]
    assert main([*report, "--samples", "2", "--points", "8"]) == 0
    text = page.read_text()
    assert "axial (the patient&#39;s right is on the left), coronal and sagittal" in text
    assert "106 HU and more" in text
    assert "crops" in text
    assert "on the ground" not in text


@pytest.mark.parametrize("wanted", ["group", "drop"])
def test_a_volume_that_looks_the_same_is_found(tmp_path: Path, wanted: Any) -> None:
    """A reconstruction of the same scan with other noise: no voxel is equal, the patient is."""
    for seed in range(6):
        write_patient(tmp_path / "all" / f"P{seed}", seed)
    again, labels = body(3)
    noise = np.random.default_rng(9).integers(-4, 5, again.array.shape)
    folder = tmp_path / "all" / "Z"
    folder.mkdir()
    affine = again.geometry.affine
    write_nifti_file(folder / "CT_image.nii.gz", (again.array + noise).astype(np.int16), affine)
    write_nifti_file(folder / "CT_mask.nii.gz", labels, affine)
    options = {"mask_classes": CLASSES, "near_duplicates": wanted, "hash_distance": 2}
    rows = curate(tmp_path / "all", tmp_path / "out", fractions=(0.5, 0.25, 0.25), **options)
    parts = {
        name: {row.split for row in kept(rows) if f"/{name}/" in row.uri} for name in ("P3", "Z")
    }
    dropped = {row.uri for row in rows if row.status == "near_duplicate"}
    # Both are in one part, which needs one to be left out when they were drawn for two.
    assert len(parts["P3"] | parts["Z"]) == 1
    assert len(dropped) == 1 if wanted == "drop" else len(dropped) <= 1


def test_faults_of_series_are_rows_or_corrected(tmp_path: Path) -> None:
    """Missing slices are refused, copies left out, the tilt of a gantry taken out."""
    root = tmp_path / "all"
    for seed, name in enumerate(("good", "gap", "copies")):
        paths = write_ct_series(root / name, body(seed)[0], patient=name)
        if name == "gap":
            paths[9].unlink()
        if name == "copies":
            shutil.copy(paths[4], root / name / "again.dcm")
    volume = body(3)[0]
    affine = volume.geometry.affine
    affine[1, 2] += 0.6  # mm that each slice of 4 mm is shifted
    tilted = VolumeGeometry.from_affine(affine, volume.geometry.shape)
    write_ct_series(root / "tilt", Volume(volume.array, tilted), patient="tilt")
    options = {"labels": "none", "allow_identified": True, "max_broken_share": 1.0}
    rows = curate(root, tmp_path / "out", **options)
    (broken,) = [row for row in rows if row.status not in (KEPT, "low_body")]
    assert (broken.id, broken.status) == ("gap", "unreadable")
    assert "1 slices are missing" in (broken.reason or "")
    by_name = {row.id.partition(":")[0]: row for row in kept(rows)}
    assert set(by_name) == {"good", "copies", "tilt"}
    assert "1 repeated slices were left out" in by_name["copies"].facts["doubts"]
    assert by_name["tilt"].measures["tilt_degrees"] == pytest.approx(8.53, abs=0.01)
    assert by_name["tilt"].affine is not None
    assert VolumeGeometry(by_name["tilt"].affine, SIZE).shear < 0.01


def test_contours_and_segmentation_objects_are_labels(samples: Path, tmp_path: Path) -> None:
    """The RTSTRUCT of a real series and a DICOM SEG made of it give the classes of its NIfTI."""
    source, root = samples / "ct" / "sarcoma_dicom" / "STS_002", tmp_path / "seg"
    shutil.copytree(source / "image", root / "image")
    grid = open_volume(source / "image").geometry
    drawn = read_labels(source / "mask" / "RS.dcm", grid=grid)
    write_label_map(root / "labels.dcm", drawn, grid=grid, series=source / "image")
    counts = []
    for folder in (source, root, samples / "ct" / "sarcoma" / "STS_002"):
        out = tmp_path / f"out-{len(counts)}"
        options = {"size": (24, 64, 64), "mask_classes": ("1=GTV_Mass_CT",)}
        rows = curate(folder, out, allow_identified=True, **options)
        group = open_group(out)
        assert group.meta.classes == ("background", "GTV_Mass_CT")
        found = group.store.read(np.arange(len(group.store)), labels=True).labels
        assert found is not None
        counts.append((len(kept(rows)), int((found == 1).sum())))
    assert counts[0] == counts[1] == counts[2]
    assert counts[0][1] > 10_000
