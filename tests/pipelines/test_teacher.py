"""`mimkit pretrain --teacher`: features of a model that is trained already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_store import pretrain_tiny

from mimkit.core.checkpoints.model_dir import load_model
from mimkit.core.frozen import FrozenTeacher
from mimkit.pipelines.cli import main

TINY = [
    *("--recipe", "itpn-clip/tiny", "--image-size", "32", "32", "--epochs", "2"),
    *("--batch-size", "4", "--optim.warmup-epochs", "1", "--efficiency.num-threads", "1"),
    *("--method.encoder.embed-dim", "32", "--method.encoder.num-heads", "2"),
]


def test_a_model_of_an_earlier_run_teaches(dense_store: Path, tmp_path: Path) -> None:
    earlier = pretrain_tiny(dense_store, tmp_path / "earlier") / "model"
    out, words = tmp_path / "run", ["pretrain", "--data", str(dense_store), *TINY]
    assert main([*words, "--out", str(out), "--teacher", str(earlier)]) == 0
    taught, given = load_model(out / "model"), load_model(earlier)
    teacher = taught.method.teacher
    assert isinstance(teacher, FrozenTeacher)
    # The table of positions is that of a grid of 4 x 4 now.
    for name, value in given.method.encoder.named_parameters():
        assert torch.equal(teacher.encoder.state_dict()[name], value), name
    lines = (out / "metrics.jsonl").read_text().splitlines()
    first = next(line["terms"] for line in map(json.loads, lines) if "terms" in line)
    assert set(first) == {"pyramid", "auxiliary"}
    assert min(first.values()) > 0
    # Another teacher is another run.
    assert main([*words, "--out", str(out)]) == 2


def test_methods_without_a_teacher_refuse_one(
    dense_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", "--recipe", "mff/tiny", "--data", str(dense_store)]
    assert main([*words, "--out", str(tmp_path / "run"), "--teacher", str(tmp_path)]) == 2
    assert "method mff: learns from no frozen teacher" in capsys.readouterr().err
