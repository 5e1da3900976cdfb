"""Fine-tuning on volumes: heads, losses, drawn foreground, patients, folds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny_ct import CLASSES, SIZE, finetune_ct, write_ct_encoder, write_ct_store

from mimkit.core.heads.task import load_task
from mimkit.datasets.order import balanced_order
from mimkit.pipelines.cli import main
from mimkit.pipelines.groups import fold_of, held_out, names_of, shuffled
from mimkit.pipelines.reporting.tasks import shown_data
from mimkit.pipelines.stores import open_group


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ct_store(tmp_path_factory.mktemp("ct") / "store")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ct_encoder(tmp_path_factory.mktemp("encoder"))


def test_a_ball_is_found_in_volumes(store: Path, encoder: Path, tmp_path: Path) -> None:
    options = ("--head", "unetr", "--deep-supervision", "--foreground", "0.75")
    options = (*options, "--epochs", "12", "--stem-dim", "4")
    run = finetune_ct(encoder, store, tmp_path / "run", *options)
    found = json.loads((run / "scores.json").read_text())
    assert found["classes"] == list(CLASSES)
    ball = found["iou"][1]
    share = found["count"][1] / sum(found["count"])
    assert ball > share + 0.3  # everything is ball: as much IoU as its share of the voxels
    task = load_task(run / "model")
    assert (task.config.head, task.config.taps) == ("unetr", (1, 2, -1))
    assert task.config.image_size == SIZE


def test_one_patient_trains_and_a_fold_is_held_out(
    store: Path, encoder: Path, tmp_path: Path
) -> None:
    options = ("--epochs", "2", "--batch-size", "2", "--train", "all")
    options = (*options, "--folds", "3", "--fold", "1", "--labelled-groups", "1")
    run = finetune_ct(encoder, store, tmp_path / "run", *options)
    said = json.loads((run / "model" / "data.json").read_text())
    assert said["fold"] == "1 of 3"
    assert len(said["held_out"]) == 2
    assert said["finetuned_on"].startswith("4 samples")
    scores = json.loads((run / "scores.json").read_text())
    assert (scores["num_samples"], scores["split"]) == (8, "fold 1 of 3")
    facts = json.loads((run / "run.json").read_text())["data"]
    group = open_group(store)
    shown = shown_data(load_task(run / "model"), group, facts["splits"]).rows
    assert sorted(set(names_of(group, shown["test"]))) == sorted(said["held_out"])
    assert not set(names_of(group, shown["train"])) & set(said["held_out"])


def test_folds_divide_the_patients_whatever_the_order() -> None:
    names = [f"patient{i}" for i in range(10)]
    folds = fold_of(names, 3, seed=1)
    assert sorted(Counter(folds.values()).values()) == [3, 3, 4]
    assert fold_of(names[::-1] * 2, 3, seed=1) == folds
    assert fold_of(names, 3, seed=2) != folds
    assert shuffled(names, 1) != sorted(names)


def test_no_patient_is_on_both_sides(store: Path) -> None:
    group = open_group(store)
    rows = group.rows("all")
    seen = []
    for fold in range(3):
        train, test = held_out(group, rows, 3, fold, 0)
        assert not set(names_of(group, train)) & set(names_of(group, test))
        assert sorted([*train, *test]) == rows.tolist()
        seen += test.tolist()
    assert sorted(seen) == rows.tolist()


def test_a_share_of_the_visits_goes_to_foreground() -> None:
    chosen = np.arange(30) % 10 == 0  # 3 of 30
    visits = np.zeros(30, np.int64)
    for epoch in range(20):
        order = balanced_order(7, epoch, chosen, 0.4)
        assert len(order) == 30
        assert chosen[order].sum() == 12
        assert np.array_equal(order, balanced_order(7, epoch, chosen, 0.4))
        visits += np.bincount(order, minlength=30)
    assert visits[chosen].tolist() == [80, 80, 80]
    assert set(visits[~chosen]) <= {13, 14}  # 18 * 20 visits of 27 samples
    assert chosen[balanced_order(7, 0, chosen, 1.0)].all()
    alike = balanced_order(7, 0, np.zeros(30, bool), 0.4)
    assert sorted(alike) == list(range(30))
    assert len(set(balanced_order(7, 0, chosen, 0.4)[:10] % 10 == 0)) == 2  # mixed, not in blocks


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--folds", "9"], "folds 9: are more than the 4 groups with labels"),
        (["--fold", "1"], "fold 1: does not exist without folds"),
        (["--labelled-groups", "7"], "labelled_groups 7: are more than the 4 groups"),
        (["--foreground", "1.5"], "foreground 1.5: is outside of 0 to 1"),
        (["--deep-supervision"], "deep_supervision: needs a head with levels"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(
    store: Path,
    encoder: Path,
    tmp_path: Path,
    options: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["finetune", "--model", str(encoder), "--data", str(store)]
    assert main([*words, "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
