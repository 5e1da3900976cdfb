"""Fine-tuning through the command line: labels of pixels and of samples, few labels, continuing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_store import curate_tiny, finetune_tiny, pretrain_tiny

from mimkit.core.checkpoints.model_dir import load_model, save_model
from mimkit.core.heads.task import load_task
from mimkit.domains.domain import get_domain
from mimkit.pipelines.cli import main
from mimkit.pipelines.labelled import Choice, open_task_data
from mimkit.pipelines.stores import open_group


def scores(run: Path) -> dict[str, Any]:
    return json.loads((run / "scores.json").read_text())


def task_data(store: Path, model: Path, **options: Any) -> Any:
    group, loaded = open_group(store), load_model(model)
    normaliser = get_domain("satellite").normaliser(loaded.normaliser)
    splits = {name: name for name in ("train", "val", "test")}
    settings = {"image_size": None, "splits": splits, **options}
    return open_task_data(group, normaliser, "auto", loaded.method.grid, **settings)


@pytest.fixture(scope="module")
def segmented(
    dense_store: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("segmented") / "run"
    rate = ("--optim.base-lr", "0.5", "--epochs", "30")  # batches of 4 divide it by 64
    return finetune_tiny(pretrained / "model", dense_store, out, *rate)


def test_a_class_per_pixel_is_learned(segmented: Path, pretrained: Path) -> None:
    found = scores(segmented)
    assert found["task"] == "segment"
    assert found["classes"] == ["dark", "bright"]
    assert found["num_samples"] == 4
    assert sum(map(sum, found["confusion"])) == sum(found["count"])
    assert found["balanced_accuracy"] > 0.7  # brightness is what the classes are made of
    task = load_task(segmented / "model")
    assert task.config.image_size == (32, 32)
    before = load_model(pretrained / "model").method.encoder.state_dict()
    after = task.model.encoder.state_dict()
    assert not torch.equal(before["blocks.0.mlp.fc1.weight"], after["blocks.0.mlp.fc1.weight"])
    assert torch.equal(before["pos_embed"], after["pos_embed"])
    assert task.normaliser == load_model(pretrained / "model").normaliser


def test_a_class_per_sample_is_learned(class_store: Path, tmp_path: Path) -> None:
    model = pretrain_tiny(class_store, tmp_path / "pre") / "model"
    out = finetune_tiny(model, class_store, tmp_path / "run", "--epochs", "25")
    found = scores(out)
    assert found["task"] == "classify"
    assert found["classes"] == ["even", "odd"]
    assert found["accuracy"] > 0.8  # one class is darker
    assert load_task(out / "model").config.taps == ()


def test_frozen_encoders_stay_as_they_were(
    dense_store: Path, pretrained: Path, tmp_path: Path
) -> None:
    model = pretrained / "model"
    out = finetune_tiny(model, dense_store, tmp_path / "run", "--freeze")
    before = load_model(model).method.encoder.state_dict()
    after = load_task(out / "model").model.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_an_import_left_untrained_stays_recorded(
    dense_store: Path, pretrained: Path, tmp_path: Path
) -> None:
    loaded = load_model(pretrained / "model")
    save_model(
        tmp_path / "model",
        loaded.method,
        loaded.config,
        normaliser=loaded.normaliser,
        recipe="",
        data=loaded.data,
        extra={"fresh": ["heads.pixels"]},
    )
    finetune_tiny(
        tmp_path / "model",
        dense_store,
        tmp_path / "run",
        "--epochs",
        "1",
        "--optim.warmup-epochs",
        "0",
    )
    assert load_model(tmp_path / "run" / "model").extra["fresh"] == ["heads.pixels"]


def test_from_scratch_nothing_of_the_model_is_used_but_its_shape(
    dense_store: Path, pretrained: Path, tmp_path: Path
) -> None:
    model = pretrained / "model"
    options = ("--scratch", "--freeze")
    first = finetune_tiny(model, dense_store, tmp_path / "a", *options)
    second = finetune_tiny(model, dense_store, tmp_path / "b", *options, "--seed", "1")
    weights = [load_task(run / "model").model.encoder.state_dict() for run in (first, second)]
    weights.append(load_model(model).method.encoder.state_dict())
    name = "blocks.0.attn.qkv.weight"
    assert not torch.equal(weights[0][name], weights[1][name])
    assert not torch.equal(weights[0][name], weights[2][name])


def test_a_run_continues_with_the_same_bits(
    dense_store: Path, pretrained: Path, tmp_path: Path
) -> None:
    options = ("--drop-path", "0.5", "--efficiency.checkpoint-every", "1")
    options = (*options, "--efficiency.keep", "50")
    model = pretrained / "model"
    whole = finetune_tiny(model, dense_store, tmp_path / "whole", *options)
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    shutil.rmtree(part / "model")
    (part / "scores.json").unlink()
    for state in sorted((part / "checkpoints").iterdir())[3:]:
        shutil.rmtree(state)
    finetune_tiny(model, dense_store, part, *options)
    assert scores(part) == scores(whole)
    other = load_task(part / "model").model.state_dict()
    for name, value in load_task(whole / "model").model.state_dict().items():
        assert torch.equal(value, other[name]), name


def test_the_mean_loss_of_equal_scores_is_that_of_a_guess(
    dense_store: Path, pretrained: Path
) -> None:
    data = task_data(dense_store, pretrained / "model")
    weight = torch.tensor([1.0, 3.0])
    pixels = data.places.sum(dim=0)
    assert data.mean_weight(weight) == pytest.approx(float(pixels @ weight) / len(data.places))
    labels = open_group(dense_store).store.read(data.rows["train"], labels=True).labels
    assert labels is not None
    assert pixels.tolist() == [float((labels == k).sum()) for k in range(2)]


def test_few_labels_are_drawn_by_the_seed(class_store: Path, tmp_path: Path) -> None:
    model = pretrain_tiny(class_store, tmp_path / "pre") / "model"
    rows = [
        task_data(class_store, model, choice=Choice(labels_per_class=2, seed=seed)).rows["train"]
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])
    index = open_group(class_store).tile_labels.index[rows[0]]
    assert np.bincount(index).tolist() == [2, 2]
    everything = task_data(class_store, model)
    assert len(everything.rows["train"]) == 8
    assert np.array_equal(
        task_data(class_store, model, choice=Choice(labels_per_class=2)).rows["test"],
        everything.rows["test"],
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "classify"], "has no labels for classify; curate with --labels"),
        (["--image-size", "30", "30"], "is not a multiple of the patch (4, 4)"),
        (["--drop-path", "2"], "drop_path 2.0: is outside of 0 to 0.99"),
        (["--train", "elsewhere"], "split 'elsewhere': is not known"),
        (["--optim.warmup-epochs", "9"], "optim.warmup_epochs 9.0: must lie in [0, 3)"),
        (["--drop-path", "0.1", "--efficiency.micro-batch", "2"], "changes the draws of drop_path"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(
    dense_store: Path,
    pretrained: Path,
    tmp_path: Path,
    options: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["finetune", "--model", str(pretrained / "model"), "--data", str(dense_store)]
    words += ["--out", str(tmp_path / "run"), "--epochs", "3", "--optim.warmup-epochs", "1"]
    assert main([*words, *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_a_store_without_labels_and_one_of_other_bands(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = curate_tiny(tmp_path / "bare", num_scenes=2)
    words = ["finetune", "--model", str(pretrained / "model"), "--out", str(tmp_path / "run")]
    assert main([*words, "--data", str(bare)]) == 2
    assert "has no labels; curate with --labels" in capsys.readouterr().err
    out = tmp_path / "two"
    curate = ["curate", str(tmp_path / "bare" / "scenes"), "--out", str(out), "--size", "32"]
    assert main([*curate, "--sensor", "landsat8-oli", "--bands", "B2", "B3"]) == 0
    capsys.readouterr()
    assert main([*words, "--data", str(out)]) == 2
    assert "lacks B4" in capsys.readouterr().err


def test_a_model_that_was_changed_is_not_read(
    dense_store: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(pretrained / "model", model)
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(bytes(content))
    words = ["finetune", "--model", str(model), "--data", str(dense_store)]
    assert main([*words, "--out", str(tmp_path / "run")]) == 1
    assert "is not the file that config.json was written for" in capsys.readouterr().err
