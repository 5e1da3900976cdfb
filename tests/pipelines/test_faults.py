"""What a run does when something breaks: nothing that was saved is lost, and the reason is said."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank_jobs import ends, only_job, pretrain_words, start, torchrun
from tiny_store import pretrain_tiny

from mimkit.core.checkpoints.run_state import (
    StateWriter,
    UnsavedStateError,
    best_state,
    list_states,
    load_latest,
    save_state,
)
from mimkit.datasets.samples import Samples
from mimkit.datasets.store import Store
from mimkit.pipelines.cli import main

pytestmark = [pytest.mark.xdist_group("ranks"), pytest.mark.timeout(900)]

LONG = ("--epochs", "2000", "--efficiency.validate-every", "1000")


def wait_for(condition: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def two_ranks(words: list[str]) -> list[subprocess.Popen[str]]:
    """Start two processes of a run without a launcher that would look after them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    shared["MASTER_PORT"] = port
    command = [sys.executable, "-m", "mimkit", *words]
    return [start(command, {**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]


def num_states(run: Path) -> int:
    return len(list_states(run / "checkpoints"))


def test_a_lost_process_ends_the_other_with_a_reason(dense_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = pretrain_words(dense_store, out, *LONG, "--efficiency.checkpoint-every", "5")
    with only_job():
        first, second = two_ranks(words)
        wait_for(lambda: num_states(out) > 0, first, second)
        second.kill()
        said = ends(first, 60)
        second.communicate()
    assert first.returncode == 1, said
    assert "rank 0 of 2: another rank ended or does not answer" in said
    assert "continues from the last saved state" in said
    assert "Traceback" not in said
    assert load_latest(out / "checkpoints") is not None


def test_sigterm_to_one_process_stops_all_well(dense_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with only_job():
        first, second = two_ranks(pretrain_words(dense_store, out, *LONG))
        wait_for(lambda: (out / "metrics.jsonl").exists(), first, second)
        second.send_signal(signal.SIGTERM)
        said, silent = ends(first, 120), ends(second, 120)
    assert (first.returncode, second.returncode) == (0, 0), (said, silent)
    assert "give the same command again to continue" in said
    assert "mimkit" not in silent  # one process speaks for all
    assert num_states(out) == 1


@pytest.mark.slow
def test_torchrun_starts_a_killed_run_again(dense_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--efficiency.checkpoint-every", "2", "--epochs", "40")
    words = ["--module", "mimkit", *pretrain_words(dense_store, out, *options)]
    with only_job():
        job = start(torchrun(words, "--max-restarts", "1"))
        wait_for(lambda: num_states(out) > 1, job)
        victim = next(pid for pid in children(job.pid) if environment(pid).get("RANK") == "1")
        os.kill(victim, signal.SIGKILL)
        said = ends(job, 600)
    assert job.returncode == 0, said[-3000:]
    assert "another rank ended" in said
    whole = pretrain_tiny(dense_store, tmp_path / "whole", *options)
    losses = [[x["loss"] for x in lines(run) if "loss" in x] for run in (out, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def children(parent: int) -> list[int]:
    """Return the processes that a process started."""
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in listed]


def environment(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_last_state_and_says_so(
    dense_store: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(pretrained, out)
    shutil.rmtree(out / "model")
    good = list_states(out / "checkpoints")[-1]
    for state in list_states(out / "checkpoints")[:-1]:
        shutil.rmtree(state)
    content = (good / "state.safetensors").read_bytes()
    # The run has ended but for its model; the last state is to be written again.
    with full_disk(len(content) // 2):
        code = main(pretrain_words(dense_store, out))
    said = capsys.readouterr().err
    assert code == 1
    assert "cannot be written" in said
    assert f"the last whole state is {good.name}" in said
    assert not (out / "model").exists()
    assert (good / "state.safetensors").read_bytes() == content
    assert not list((out / "checkpoints").glob(".writing-*"))
    pretrain_tiny(dense_store, out)
    assert (out / "model" / "config.json").exists()


def test_a_run_goes_on_while_the_disk_is_full(
    dense_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with full_disk(20_000):
        options = ("--efficiency.checkpoint-every", "1", "--efficiency.log-every", "1")
        assert main(pretrain_words(dense_store, out, *options)) == 1
    said = capsys.readouterr()
    assert "warning: state after step 1" in said.out
    assert "state after step 9" in said.err  # whoever waits for the last one gets the error
    assert "no state is there yet" in said.err
    assert [line["step"] for line in lines(out) if "loss" in line] == list(range(1, 10))


def test_a_state_is_written_while_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    may_write, save = threading.Event(), safetensors.torch.save_file

    def slow(*args: Any, **options: Any) -> None:
        assert may_write.wait(60)
        save(*args, **options)

    monkeypatch.setattr(safetensors.torch, "save_file", slow)
    weights = torch.zeros(3)
    writer = StateWriter(tmp_path, keep=2)
    writer.write(1, {"a": weights}, {})
    assert writer.busy
    weights += 1  # the state is a copy
    may_write.set()
    writer.wait()
    state = load_latest(tmp_path)
    assert state is not None
    assert state.tensors["a"].tolist() == [0, 0, 0]

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    writer.write(2, {"a": weights}, {})
    with pytest.raises(
        UnsavedStateError, match=r"No space left.*last whole state is step-00000001"
    ):
        writer.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_the_best_state_stays(tmp_path: Path) -> None:
    for step, score in enumerate([3.0, 1.0, 2.0, None, None], start=1):
        save_state(tmp_path, step, {"a": torch.zeros(1)}, {}, keep=2, score=score)
    assert [int(path.name[-1]) for path in list_states(tmp_path)] == [2, 4, 5]
    assert best_state(tmp_path) == tmp_path / "step-00000002"


def test_the_best_validation_loss_is_kept(dense_store: Path, tmp_path: Path) -> None:
    out = pretrain_tiny(
        dense_store, tmp_path / "run", "--epochs", "6", "--efficiency.keep-best",
        "--efficiency.keep", "1",
    )  # fmt: skip
    losses = {line["step"]: line["val"]["loss"] for line in lines(out) if "val" in line}
    del losses[0]  # nothing was trained yet
    best = best_state(out / "checkpoints")
    assert best is not None
    assert int(best.name.removeprefix("step-")) == min(losses, key=losses.__getitem__)


def test_a_loss_that_is_not_finite_is_explained(
    dense_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = pretrain_words(dense_store, out, "--method.no-norm-pix", "--epochs", "20")
    words += ["--optim.base-lr", "1e30"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "is not finite at step" in said
    assert "the state before it is saved" in said
    dump = json.loads((out / "nonfinite.json").read_text())
    assert len(dump["rows"]) == 4
    assert "encoder.blocks.0" in dump["blocks"]
    assert any(block["num_not_finite"] > 0 for block in dump["blocks"].values()) or any(
        abs(float(block["largest"])) > 1e6 for block in dump["blocks"].values()
    )
    state = load_latest(out / "checkpoints")
    assert state is not None
    assert state.step == dump["step"]
    assert all(torch.isfinite(value).all() for value in state.tensors.values())
    assert main(words) == 1  # the same step again, from the state before it
    assert f"at step {dump['step']}" in capsys.readouterr().err


def test_a_stuck_thread_is_named(
    dense_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    release, read = threading.Event(), Store.read

    def stuck(self: Store, rows: np.ndarray, **options: Any) -> Samples:
        if threading.current_thread().name.startswith("mimkit-loader"):
            release.wait(60)
        return read(self, rows, **options)

    monkeypatch.setattr(Store, "read", stuck)
    words = pretrain_words(dense_store, tmp_path / "run", "--efficiency.data-timeout", "1")
    assert main(words) == 1
    release.set()
    said = capsys.readouterr().err
    assert re.search(r"mimkit-loader-\d has been reading for more than 1 seconds", said)
    assert "check that the disk or network folder answers" in said
