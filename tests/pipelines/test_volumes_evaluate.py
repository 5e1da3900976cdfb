"""Scores of whole volumes: right on known labels, patients apart, nothing vanishes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_ct import ball_volume, write_threshold_model
from tiny_volumes import geometry, write_nifti_file

from mimkit.pipelines.cli import main

SHAPE = (24, 20, 12)
GRID = geometry(SHAPE, (0.8, 0.9, 2.5), turn=10.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_threshold_model(tmp_path_factory.mktemp("model"))


def write_case(folder: Path, *, shift: int = 0, other: int = 0, seed: int = 0) -> np.ndarray:
    """Write a patient whose true mask is what the model answers, moved by some voxels."""
    voxels = ball_volume(SHAPE, (12.0, 10.0, 6.0), 4.0, seed)[0]
    mask = np.roll(voxels > 50, shift, axis=0).astype(np.uint8)
    mask[:other, 0, 0] = 2
    folder.mkdir(parents=True)
    write_nifti_file(folder / "CT_image.nii.gz", voxels, GRID.affine)
    write_nifti_file(folder / "CT_mask.nii.gz", mask, GRID.affine)
    names = {"1": "ball", "2": "rib"}
    (folder / "labels.json").write_text(json.dumps(names))
    return mask


def evaluate(source: Path, model: Path, out: Path, *options: str) -> int:
    words = ["evaluate", "ct", str(source), "--model", str(model), "--out", str(out)]
    return main([*words, "--device", "cpu", "--num-threads", "1", "--overlap", "0", *options])


def rows(out: Path) -> dict[str, dict[str, Any]]:
    with (out / "cases.csv").open() as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def test_every_case_has_its_scores_and_intervals_are_by_patient(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_case(tmp_path / "in" / "P1", other=3)
    mask = write_case(tmp_path / "in" / "P2", shift=2, seed=1)
    assert evaluate(tmp_path / "in", model, tmp_path / "out", "--tolerance", "1.7") == 0
    first, second = (rows(tmp_path / "out")[f"P{n}/CT_image"] for n in (1, 2))
    # The rib is background to the model, so it does not spoil the ball.
    assert (float(first["dice"]), float(first["hd95"]), float(first["nsd"])) == (1.0, 0.0, 1.0)
    assert first["group"] != second["group"]
    back = np.roll(mask == 1, -2, axis=0)
    dice = 2 * (back & (mask == 1)).sum() / (2 * back.sum())
    assert float(second["dice"]) == pytest.approx(dice, abs=1e-4)
    assert float(second["truth_ml"]) == pytest.approx(back.sum() * 0.8 * 0.9 * 2.5 / 1000, 1e-3)
    assert 0.95 < float(second["nsd"]) < 1  # two voxels of 0.8 mm; some noise left the volume
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    mean = found["summaries"][0]
    assert (mean["structure"], mean["metric"], mean["num_cases"]) == ("ball", "dice", 2)
    assert mean["interval"]["low"] == pytest.approx(dice)
    assert mean["interval"]["high"] == pytest.approx(1.0)
    assert "worst P2/CT_image" in capsys.readouterr().out


def test_what_cannot_be_scored_is_a_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    write_case(source / "P1")
    write_case(source / "P2", seed=1)
    (source / "P2" / "CT_mask.nii.gz").unlink()
    write_case(source / "P3", seed=2)
    (source / "P3" / "labels.json").write_text(json.dumps({"1": "liver"}))
    write_case(source / "P4", seed=3)
    wrong = np.full(SHAPE, 7, np.uint8)
    write_nifti_file(source / "P4" / "CT_mask.nii.gz", wrong, GRID.affine)
    assert evaluate(source, model, tmp_path / "out") == 1
    found = rows(tmp_path / "out")
    status = {name.split("/")[0]: row["status"] for name, row in found.items()}
    assert status == {"P1": "scored", "P2": "unlabelled", "P3": "failed", "P4": "failed"}
    assert "names liver, and the model knows ball" in found["P3/CT_image"]["reason"]
    assert "unknown labels 7" in found["P4/CT_image"]["reason"]
    assert "2 of 4 volumes: could not be scored" in capsys.readouterr().err


def test_only_patients_that_the_model_did_not_see(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    for number in range(2):
        write_case(source / f"P{number}", seed=number)
    assert evaluate(source, model, tmp_path / "out", "--cases", "held-out") == 2
    assert "does not say which patients it did not see" in capsys.readouterr().err
    assert evaluate(source, model, tmp_path / "out") == 0
    groups = {row["group"] for row in rows(tmp_path / "out").values()}
    fold = write_threshold_model(tmp_path / "fold", held_out=sorted(groups)[:1])
    assert evaluate(source, fold, tmp_path / "part", "--cases", "held-out") == 0
    status = [row["status"] for row in rows(tmp_path / "part").values()]
    assert sorted(status) == ["scored", "seen"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tolerance", "-1"], "tolerance -1.0: is no distance"),
        (["--draws", "3"], "are too few"),
        (["--mask-classes", "ball"], "is not NUMBER=NAME"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(
    model: Path,
    tmp_path: Path,
    options: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert evaluate(tmp_path, model, tmp_path / "out", *options) == 2
    assert said in capsys.readouterr().err
