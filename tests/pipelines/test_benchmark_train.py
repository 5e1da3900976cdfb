"""Engines side by side: the same step, whoever makes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig
from mimkit.pipelines import cli
from mimkit.pipelines.benchmarks import compare, train
from mimkit.pipelines.benchmarks.steps import Ours, Workload

ENCODER = EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2)
METHOD = MAEConfig(encoder=ENCODER, decoder=DecoderConfig(dim=32, depth=1, num_heads=2))

pytestmark = [pytest.mark.xdist_group("ranks"), pytest.mark.timeout(600)]


def test_every_engine_makes_the_same_steps() -> None:
    work = Workload(batch_size=2, image_size=32, patch_size=8)
    plain = Ours("plain", METHOD)
    steps = [plain.build(work)]
    steps += [replace(plain, stage=stage).build(work) for stage in train.STAGES]
    losses = torch.stack([torch.stack([step.run() for _ in range(3)]) for step in steps])
    torch.testing.assert_close(losses, losses[:1].expand_as(losses), rtol=1e-5, atol=1e-6)
    assert losses[0, 0] != losses[0, 2], "weights are updated"


def test_engines_are_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compare, "peak_growth", lambda sides, place, work: 5_000_000)
    monkeypatch.setattr(train, "SMALL", ENCODER)
    monkeypatch.setattr(train, "IMAGE_SIZE", 32)
    monkeypatch.setattr(train, "MAEConfig", lambda encoder: replace(METHOD, encoder=encoder))
    words = ["benchmark", "train", "--seconds", "0.1", "--batch-size", "2"]
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    part = json.loads((tmp_path / "benchmark.json").read_text())["parts"]["train"]
    names = [row["side"] for row in part["rows"]]
    assert names == ["plain, compiled", *(f"DeepSpeed, ZeRO {n}" for n in range(4)), "plain"]
    assert all(row["times as fast"] > 0 for row in part["rows"][:-1])
    assert len({row["GFLOP per image"] for row in part["rows"]}) == 1
