"""Pre-training through the command line: the same weights however it is interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_store import TINY, pretrain_tiny

from mimkit.core.batch import Batch
from mimkit.core.checkpoints.model_dir import load_model
from mimkit.core.method import Method, Output
from mimkit.pipelines.cli import main
from mimkit.pipelines.recipe import load_recipe, recipe_names

FAST = {"images_per_s", "tokens_per_s", "mfu", "data_wait", "memory_mb", "seconds"}


def log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of the log without what depends on the machine."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in FAST} for line in lines]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_model(run / "model").method.state_dict()


def same(first: Path, second: Path) -> None:
    """Assert that two runs ended with the same bits and said the same."""
    assert log(first) == log(second)
    other = weights(second)
    for name, value in weights(first).items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(("recipe", "twice"), [("lut/tiny", True), ("dmjd/tiny", False)])
def test_a_method_of_two_views_is_given_a_second_crop_unless_it_wants_one(
    recipe: str, twice: bool, dense_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Batch] = []
    forward = Method.forward

    def recording(self: Method, batch: Batch, *rest: Any) -> Output:
        if self.training and torch.is_grad_enabled():
            seen.append(batch)
        return forward(self, batch, *rest)

    monkeypatch.setattr(Method, "forward", recording)
    words = ["pretrain", "--recipe", recipe, "--data", str(dense_store), "--out", str(tmp_path)]
    words += ["--image-size", "32", "32", "--epochs", "1", "--optim.warmup-epochs", "0"]
    words += ["--batch-size", "4", "--method.encoder.patch-size", "4"]
    assert main([*words, "--efficiency.num-threads", "1"]) == 0
    assert seen
    for batch in seen:
        assert (batch.second is not None) is twice
        assert batch.second is None or not torch.equal(batch.second, batch.images)


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.endswith("/tiny")])
def test_every_small_recipe_trains_and_can_be_opened(
    name: str, dense_store: Path, tmp_path: Path
) -> None:
    words = ["pretrain", "--recipe", name, "--data", str(dense_store), "--out", str(tmp_path)]
    words += ["--epochs", "1", "--optim.warmup-epochs", "0", "--batch-size", "8"]
    assert main([*words, "--efficiency.num-threads", "1"]) == 0
    loaded = load_model(tmp_path / "model")
    assert loaded.config == load_recipe(name).method
    lines = [line for line in log(tmp_path) if "loss" in line]
    assert lines
    assert all(0 < line["loss"] < 100 for line in lines)


def test_a_run_leaves_log_states_and_a_model(pretrained: Path) -> None:
    lines = log(pretrained)
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, 10))  # 12 samples in batches of 4, three epochs
    assert [line["step"] for line in lines if "val" in line] == [0, 3, 6, 9]
    first = lines[1]
    assert first["loss"] == pytest.approx(first["terms"]["pixels"])
    assert first["lr"] == 0.0  # the warm-up begins at zero
    assert max(line.get("lr", 0.0) for line in lines) > 0
    model = load_model(pretrained / "model")
    assert model.method.encoder.embed_dim == 16
    assert model.normaliser["bands"] == ["B2", "B3", "B4"]
    assert model.data["num_samples"] == 12
    recipe = load_recipe(pretrained / "recipe.yaml")
    assert recipe.method == model.config
    assert (pretrained / "model" / "recipe.yaml").read_text() == (
        pretrained / "recipe.yaml"
    ).read_text()


def test_features_are_watched_and_change_nothing(
    dense_store: Path, pretrained: Path, tmp_path: Path
) -> None:
    pretrain_tiny(dense_store, tmp_path, "--efficiency.probe-every", "1")
    looks = [line["val"] for line in log(tmp_path) if "val" in line]
    names = {"effective_rank", "spread", "linear_probe", "knn_probe"}
    assert all(names <= look.keys() for look in looks)
    for look in looks:
        assert look["effective_rank"] >= 1
        assert look["spread"] > 0
        assert 0 <= look["linear_probe"] <= 1
    first, last = (next(iter(part)) for part in (looks, reversed(looks)))
    assert first["effective_rank"] != last["effective_rank"]
    other = weights(pretrained)
    assert all(torch.equal(value, other[name]) for name, value in weights(tmp_path).items())


def test_the_same_command_twice_gives_the_same_bits(
    dense_store: Path, pretrained: Path, tmp_path: Path
) -> None:
    again = pretrain_tiny(
        dense_store,
        tmp_path / "again",
        *("--efficiency.loader-threads", "1", "--efficiency.prefetch", "1"),
        *("--efficiency.checkpoint-every", "2"),
    )
    same(pretrained, again)
    before = (again / "metrics.jsonl").read_bytes()
    pretrain_tiny(dense_store, again)  # finished: nothing to do
    assert (again / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("pruning", [False, True])
def test_a_state_from_any_step_continues_exactly(
    dense_store: Path, tmp_path: Path, pruning: bool
) -> None:
    options = ("--pruning.prob", "0.5", "--batch-size", "2") if pruning else ()
    options = (*options, "--efficiency.checkpoint-every", "1", "--efficiency.keep", "100")
    whole = pretrain_tiny(dense_store, tmp_path / "whole", *options)
    states = sorted((whole / "checkpoints").iterdir())
    assert len(states) >= 5  # of 9 steps: one is passed over while a slow disk takes the one before
    for place in (0, 1, len(states) // 2, len(states) - 2):
        part = tmp_path / f"from{place}"
        shutil.copytree(whole, part)
        shutil.rmtree(part / "model")
        for state in (part / "checkpoints").iterdir():
            if state.name > states[place].name:
                shutil.rmtree(state)
        pretrain_tiny(dense_store, part, *options)
        same(whole, part)


def start(store: Path, out: Path, *options: str, epochs: int = 2000) -> subprocess.Popen[str]:
    words = ["pretrain", "--data", str(store), "--out", str(out), *TINY, "--epochs", str(epochs)]
    return subprocess.Popen(
        [sys.executable, "-m", "mimkit", *words, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_kill_9_loses_nothing_but_time(dense_store: Path, tmp_path: Path) -> None:
    options = ("--efficiency.checkpoint-every", "4", "--efficiency.validate-every", "1000")
    out = tmp_path / "killed"
    process = start(dense_store, out, *options, epochs=60)
    states = out / "checkpoints"
    wait_for(lambda: len(list(states.glob("step-*"))) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "model").exists()
    done = max(int(p.name.removeprefix("step-")) for p in states.glob("step-*"))
    assert 4 < done < 180
    pretrain_tiny(dense_store, out, "--epochs", "60", *options)
    same(pretrain_tiny(dense_store, tmp_path / "whole", "--epochs", "60", *options), out)


def test_sigterm_saves_and_ends_well(dense_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    process = start(dense_store, out)
    wait_for(lambda: (out / "metrics.jsonl").exists() and len(log(out)) > 3, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "give the same command again to continue" in said
    assert "Traceback" not in said
    assert len(list((out / "checkpoints").glob("step-*"))) == 1


def test_other_settings_are_another_run(
    dense_store: Path, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", "--data", str(dense_store), "--out", str(pretrained), *TINY]
    assert main([*words, "--optim.base-lr", "0.5", "--seed", "4"]) == 2
    said = capsys.readouterr().err
    assert "recipe.optim.base_lr 0.0272 -> 0.5" in said
    assert "recipe.seed 3 -> 4" in said
    assert "choose another --out" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--recipe", "satellite/selectivemae-tini"], "did you mean 'satellite/selectivemae-tiny'"),
        (
            ["--batch-size", "999"],
            "is more than the 12 samples of split 'train'; use --batch-size 12",
        ),
        (["--image-size", "30", "30"], "is not a multiple of the patch (4, 4); crop to 28"),
        (["--method.mask-ratio", "0.999"], "mask_ratio"),
        (["--optim.warmup-epochs", "50"], "optim.warmup_epochs 50.0: must lie in [0, 3)"),
        (["--efficiency.micro-batch", "0"], "efficiency.micro_batch 0: is below 1; use 1 or more"),
        (["--split", "nowhere"], "split 'nowhere': is not known; use all, "),
        (["--group", "other"], "group 'other': is not in"),
        (["--epochs", "0"], "epochs 0: is below 1"),
        (["--efficiency.device", "cuda:99"], "device cuda:99"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(
    dense_store: Path,
    tmp_path: Path,
    options: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["pretrain", "--data", str(dense_store), "--out", str(tmp_path / "run"), *TINY]
    assert main([*words, *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "model").exists()


def test_an_option_misspelt_is_explained(
    dense_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", "--data", str(dense_store), "--out", str(tmp_path / "run")]
    assert main([*words, "--method.mask-ration", "0.5"]) == 2
    error = capsys.readouterr().err
    assert "mask-ratio" in error
    assert "Traceback" not in error


def test_a_recipe_file_with_a_misspelt_key_is_explained(
    dense_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 3\noptim: {base_lrr: 0.1}\n")
    words = ["pretrain", "--recipe", str(path), "--data", str(dense_store), "--out", "x"]
    assert main(words) == 2
    assert (
        "optim.base_lrr: is not a known field; did you mean 'base_lr'?" in capsys.readouterr().err
    )


@pytest.mark.parametrize("what", ["nothing", "half", "file"])
def test_data_that_is_no_store(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    if what == "half":
        (data / "stages").mkdir(parents=True)
    elif what == "file":
        data.write_text("no store")
    assert main(["pretrain", "--data", str(data), "--out", str(tmp_path / "run"), *TINY]) == 1
    error = capsys.readouterr().err
    wanted = {"nothing": "there is no such folder", "half": "half written", "file": "no store"}
    assert wanted[what] in error


def test_a_run_may_start_from_weights(
    dense_store: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(pretrained / "model")
    out = pretrain_tiny(dense_store, tmp_path / "more", "--init", model)
    losses = [line["loss"] for line in log(out) if "loss" in line]
    assert losses[0] < next(line["loss"] for line in log(pretrained) if "loss" in line)
    words = ["pretrain", "--data", str(dense_store), "--out", str(tmp_path / "x"), *TINY]
    assert main([*words, "--init", model, "--method.encoder.depth", "1"]) == 2
    assert "has encoder" in capsys.readouterr().err
    assert main([*words, "--init", model, "--image-size", "48", "48"]) == 2
    assert "set --image-size to that of the model" in capsys.readouterr().err


def test_a_state_of_another_run_is_refused(
    dense_store: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mixed"
    pretrain_tiny(dense_store, out, "--seed", "8")
    shutil.rmtree(out / "model")
    shutil.rmtree(out / "checkpoints")
    shutil.copytree(pretrained / "checkpoints", out / "checkpoints")
    words = ["pretrain", "--data", str(dense_store), "--out", str(out), *TINY, "--seed", "8"]
    assert main(words) == 2
    assert "is the state of another run" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run(
    dense_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "burst"
    words = ["pretrain", "--data", str(dense_store), "--out", str(out), *TINY]
    words += ["--method.no-norm-pix", "--efficiency.checkpoint-every", "1"]
    assert main([*words, "--optim.base-lr", "1e30", "--epochs", "20"]) == 1
    error = capsys.readouterr().err
    assert "is not finite at step" in error
    dump = json.loads((out / "nonfinite.json").read_text())
    assert len(dump["rows"]) == 4
    assert not (out / "model").exists()
    newest = max((out / "checkpoints").iterdir())
    assert int(newest.name.removeprefix("step-")) == dump["step"]


def test_a_second_process_is_told_to_wait(
    dense_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "busy"
    process = start(dense_store, out)
    try:
        wait_for(lambda: (out / "metrics.jsonl").exists(), process)
        words = ["pretrain", "--data", str(dense_store), "--out", str(out), *TINY]
        assert main([*words, "--epochs", "2000"]) == 2
        assert "another run is at work here" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()


def test_a_dry_run_tells_all_and_writes_nothing(
    dense_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain_tiny(dense_store, tmp_path / "run", "--dry-run")
    said = capsys.readouterr().out
    assert "embed_dim: 16" in said
    assert "recipe: time: about" in said
    assert "recipe: memory: about" in said
    assert not (tmp_path / "run").exists()
