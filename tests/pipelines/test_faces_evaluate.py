"""`mimkit evaluate faces` on tiny stores: files, numbers, protocols, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_judged import write_faces
from tiny_models import CLASSES, write_model

from mimkit.core.checkpoints.model_dir import load_model
from mimkit.core.errors import UsageError
from mimkit.datasets.errors import DataError
from mimkit.pipelines.faces.config import EvaluateFacesConfig
from mimkit.pipelines.faces.evaluate import run
from mimkit.pipelines.faces.report import mask_section
from mimkit.pipelines.faces.results import FaceEvaluation
from mimkit.pipelines.faces.scoring import open_reading
from mimkit.pipelines.reporting import reconstructions
from mimkit.pipelines.reporting.blocks import Gallery
from mimkit.pipelines.reporting.reconstructions import Reconstructed, Shown
from mimkit.pipelines.stores import open_group


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judged")


@pytest.fixture(scope="session")
def store(folder: Path) -> Path:
    """Return faces with fakes of two generators."""
    return write_faces(folder / "a", "alpha", methods=("gan", "diffusion"))


@pytest.fixture(scope="session")
def other(folder: Path) -> Path:
    return write_faces(folder / "b", "beta", people=8, first=100)


@pytest.fixture(scope="session")
def encoder(folder: Path, store: Path) -> Path:
    return write_model(folder / "encoder", open_group(store).normaliser_dict, task=None)


def evaluate(out: Path, **settings) -> FaceEvaluation:
    quick = {"random_seeds": 1, "intervals": 20, "draws": 2, "device": "cpu", "errors": 2}
    return run(EvaluateFacesConfig(out=out, **quick | settings))


def by_test(found: FaceEvaluation, features: str, level: str = "frame") -> dict:
    return {
        (one.fold, one.test): one
        for one in found.judged
        if (one.features, one.level) == (features, level)
    }


def test_cross_dataset_in_all_files(
    encoder: Path, store: Path, other: Path, tmp_path: Path
) -> None:
    found = evaluate(tmp_path, model=encoder, train=(store,), test=(other,), robustness=12)
    tests = ("alpha (test part)", "beta", "all test sets")
    frames = by_test(found, "model")
    assert [test for _, test in frames] == list(tests)
    videos = by_test(found, "model", "video mean")
    assert frames["cross-dataset", "beta"].num_positive == 4  # two people of the test part
    assert videos["cross-dataset", "beta"].num_positive == 2
    assert {one.features for one in found.judged} == {
        "model",
        "random initialisation",
        "16x16 pixels",
    }
    best = frames["cross-dataset", "all test sets"]
    assert best.auc is not None
    pixels = by_test(found, "16x16 pixels")["cross-dataset", "all test sets"]
    assert pixels.auc == 1.0  # the chessboard makes a fake brighter than its person
    assert best.auc_interval is not None
    assert best.resampled == "people"
    assert best.from_development is not None
    assert best.from_test_as_published is not None
    assert best.from_development.threshold != best.from_test_as_published.threshold
    assert best.calibration is not None
    parts = {(part.by, part.value) for part in best.parts}
    assert parts == {("method", "gan"), ("method", "diffusion"), ("gender", "f"), ("gender", "m")}
    assert len(found.robustness) == 5 * 3
    plain = json.loads((tmp_path / "evaluation.json").read_text())
    assert plain["judged"][0]["from_test_as_published"]["hter"] is not None
    with (tmp_path / "results.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(found.judged) == 3 * 3 * 3
    text = (tmp_path / "evaluation.md").read_text()
    assert "HTER, threshold from development | HTER, threshold from the TEST set" in text
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") >= 3 + 4 + 5  # curves, worst errors, robustness
    # The written scores can be judged again, and give the same area.
    again = evaluate(tmp_path / "again", scores=tmp_path / "scores.csv")
    (one,) = [j for j in again.judged if j.test == "all test sets" and j.level == "frame"]
    assert one.auc == pytest.approx(best.auc)
    assert one.from_development is None
    assert any("no development data" in note for note in again.notes)


def test_unseen_generators_and_domains(
    encoder: Path, store: Path, other: Path, tmp_path: Path
) -> None:
    found = evaluate(tmp_path / "s", protocol="synthetic", model=encoder, train=(store,))
    assert set(by_test(found, "model")) == {
        (f"without {method}", test)
        for method in ("gan", "diffusion")
        for test in (f"{method} (unseen)", "seen generators", "all test sets")
    }
    found = evaluate(
        tmp_path / "d",
        protocol="antispoof",
        model=encoder,
        train=(store, other),
        simulate_attacks=True,
    )
    sizes = {fold.name: (fold.num_train, fold.num_dev, fold.num_test) for fold in found.folds}
    # Of 8 people 4 are for training and 2 for validation, each with 2 genuine frames, 2 fakes and
    # 6 simulated attacks; of 12 people, with two generators, all are judged.
    assert sizes["without alpha"] == (40, 20, 144)
    text = (tmp_path / "d" / "evaluation.md").read_text()
    assert "SIMULATED" in text
    one = by_test(found, "model")["without alpha", "alpha"]
    kinds = {part.value for part in one.parts if part.by == "method"}
    assert kinds == {
        "gan",
        "diffusion",
        "simulated print",
        "simulated moire",
        "simulated reflection",
    }


def test_probes_of_identity_and_facts(encoder: Path, store: Path, tmp_path: Path) -> None:
    stills = write_faces(tmp_path / "store", "gamma", people=6, frames=4, still=True)
    found = evaluate(tmp_path / "i", protocol="identity", model=encoder, train=(stills,))
    lines = {(r.features, r.probe): r for r in found.recognised}
    assert lines["16x16 pixels", "nearest neighbour"].accuracy == (1.0, 1.0)  # colour is the person
    assert lines["model", "linear"].num_classes == 6
    assert lines["model", "linear"].num_test == 6  # one genuine image each is left
    found = evaluate(
        tmp_path / "f", protocol="attributes", fact="gender", model=encoder, train=(store,)
    )
    assert {(r.fact, r.num_classes) for r in found.recognised} == {("gender", 2)}
    with pytest.raises(UsageError, match="choose one of: label, gender"):
        evaluate(tmp_path / "n", protocol="attributes", fact="age", model=encoder, train=(store,))
    # Frames of one video are never on both sides, so nobody is left to judge.
    with pytest.raises(UsageError, match="have more than 3 genuine images"):
        evaluate(tmp_path / "v", protocol="identity", model=encoder, train=(store,))


def test_a_fine_tuned_model_answers_itself(store: Path, tmp_path: Path) -> None:
    normaliser = open_group(store).normaliser_dict
    wrong = write_model(tmp_path / "wrong", normaliser, task="classify")
    with pytest.raises(UsageError, match=f"tells {', '.join(CLASSES)} apart"):
        evaluate(tmp_path / "x", model=wrong, train=(store,))
    right = write_model(tmp_path / "right", normaliser, task="classify", classes=("fake", "real"))
    found = evaluate(tmp_path / "out", model=right, train=(store,))
    assert {one.features for one in found.judged} == {"model", "16x16 pixels"}
    assert found.judged[0].calibration is not None
    with pytest.raises(UsageError, match="is fine-tuned already"):
        evaluate(tmp_path / "y", protocol="synthetic", model=right, train=(store,))


def test_people_of_the_test_part_in_another_training_store_are_an_error(
    encoder: Path, store: Path, tmp_path: Path
) -> None:
    leaked = write_faces(tmp_path / "leaked", "alpha", people=2, first=1, methods=())
    with pytest.raises(DataError, match=r"share .* people .*alpha: p1"):
        evaluate(tmp_path / "out", model=encoder, train=(store,), test=(leaked,))


def test_one_class_is_said(encoder: Path, store: Path, tmp_path: Path) -> None:
    fakes = write_faces(tmp_path / "fakes", "fakes", people=4, first=200, methods=())
    found = evaluate(tmp_path / "out", model=encoder, train=(store,), test=(fakes,))
    one = by_test(found, "model")["cross-dataset", "fakes"]
    assert one.auc is None
    assert "no positive among 2 samples" in str(one.undefined)
    assert "undefined" in (tmp_path / "out" / "evaluation.md").read_text()


def test_masks_are_shown_beside_the_map_that_steers_them(encoder: Path, store: Path) -> None:
    loaded = load_model(encoder)
    reading = open_reading(loaded, encoder, [store])
    assert mask_section(loaded, reading, 2) is None  # its decoder was never trained
    for name, value in loaded.method.named_parameters():
        if name.startswith("heads.") and value.ndim == 1:
            value.data += 0.01
    section = mask_section(loaded, reading, 2)
    assert section is not None
    (gallery,) = section.blocks
    assert isinstance(gallery, Gallery)
    assert gallery.head == (
        "face",
        "parsing map",
        "what the encoder saw",
        "reconstruction",
        "error",
    )
    assert [len(cells) for _, cells in gallery.rows] == [5, 5]
    assert len({cell.uri for cell in gallery.rows[0][1]}) == 5
    assert "Targets are standardised" in gallery.caption
    assert {"nose", "right brow"} <= set(dict(gallery.legend))
    assert len(gallery.legend) == 11


def test_the_report_of_a_run_shows_the_map_beside_its_reconstructions() -> None:
    random = np.random.default_rng(0)

    def picture() -> np.ndarray:
        return random.integers(0, 256, (16, 16, 3), np.uint8)

    shown = Shown(original=picture(), visible=picture(), pasted=picture(), error=picture())
    made = Reconstructed((shown,), False, "Hidden patches are grey.", 0.1, 0.0, False)
    plain = reconstructions.gallery(made, ("row 7",), "One image.")
    mapped = reconstructions.gallery(
        made, ("row 7",), "One image.", torch.full((1, 16, 16), 6, dtype=torch.int8)
    )
    assert (len(plain.head), plain.legend) == (4, ())
    assert mapped.head == (plain.head[0], "parsing map", *plain.head[1:])
    cells = mapped.rows[0][1]
    assert [cell.uri for cell in (cells[0], *cells[2:])] == [c.uri for c in plain.rows[0][1]]
    assert len(mapped.legend) == 11


def test_faces_cropped_in_another_way_are_refused(
    encoder: Path, store: Path, tmp_path: Path
) -> None:
    wider = write_faces(tmp_path / "wider", "wider", people=4, first=300, margin=1.5)
    with pytest.raises(DataError, match=r"cropped as none-1.5-.*the model is for none-1.3-"):
        evaluate(tmp_path / "out", model=encoder, train=(store,), test=(wider,))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"random_seeds": -1}, "use 0 or more"),
        ({"shots": ()}, "are no numbers of images"),
        ({"model": None}, "name a model and stores, or give --scores"),
    ],
)
def test_settings_that_cannot_work(settings: dict, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=problem):
        EvaluateFacesConfig(out=tmp_path, **{"model": tmp_path, "train": (tmp_path,)} | settings)
