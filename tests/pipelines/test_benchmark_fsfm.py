"""Masks by region beside a loop, FSFM beside separate encoder passes: equal work, same losses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_methods import tiny
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mimkit.core.batch import Batch, Progress
from mimkit.core.grid import Grid
from mimkit.core.methods import FSFMConfig, build
from mimkit.core.noise import Noise
from mimkit.pipelines import cli
from mimkit.pipelines.benchmarks import compare, fsfm, region_masks
from mimkit.pipelines.benchmarks.steps import Workload

WORK = Workload(batch_size=8, image_size=32, patch_size=4)


def small() -> FSFMConfig:
    config = tiny("fsfm")
    assert isinstance(config, FSFMConfig)
    return config


def test_separate_passes_give_the_same_losses_and_gradients() -> None:
    torch.manual_seed(0)
    method = build(small(), Grid.for_image((32, 32), 4, 3))
    images, maps = torch.randn(4, 3, 32, 32), region_masks.face_maps(4, 32)
    batch, gradients = Batch(images, None, torch.arange(4), regions=maps), []
    for model in (method, fsfm.SeparatePasses(method)):
        method.zero_grad()
        output = model(batch, Progress(0.0, 1), Noise(0))
        output.loss.backward()
        learnt = [p.grad.clone() for p in method.parameters() if p.grad is not None]
        gradients.append((output.loss.detach(), output.terms["region"].detach(), learnt))
    (loss, region, one), (other_loss, other_region, three) = gradients
    torch.testing.assert_close(loss, other_loss)
    torch.testing.assert_close(region, other_region)
    torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("separate", [False, True])
def test_the_formula_of_a_step_equals_the_counter(separate: bool) -> None:
    step = fsfm.FSFMSide("side", small(), separate).build(replace(WORK, batch_size=64))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step.run()
    assert counter.get_total_flops() / 64 == pytest.approx(step.flops, rel=0.01)
    # The class token of each pass, a quarter of the 64 tokens, and all of them for the teacher.
    passes = 3 if separate else 1
    assert fsfm.encoded_tokens(step) == passes * (1 + 16) + 1 + 64


def test_both_parts_are_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compare, "peak_growth", lambda sides, place, work: 5_000_000)
    for module in (compare, region_masks):
        monkeypatch.setattr(module, "IMAGE_SIZE", 32)
        monkeypatch.setattr(module, "PATCH_SIZE", 4)
    monkeypatch.setattr(region_masks, "BATCH_SIZE", 4)
    monkeypatch.setattr(fsfm, "METHOD", small())
    words = ["benchmark", "region-masks", "fsfm", "--seconds", "0.1", "--batch-size", "2"]
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    parts = json.loads((tmp_path / "benchmark.json").read_text())["parts"]
    masks, step = parts["region-masks"], parts["fsfm"]
    assert [row["times as fast"] is None for row in masks["rows"]] == [False, False, True]
    assert "48 of 64 tokens hidden" in masks["notes"][0]
    ratios = [row["times as fast"] for row in masks["rows"][:2]]
    assert masks["goals"][0]["measured"] == " and ".join(f"{ratio:.1f}" for ratio in ratios)
    assert masks["goals"][0]["met"] == (min(ratios) >= 20)
    encoded, speed = step["goals"]
    assert encoded["met"] is True
    assert encoded["measured"] == "82"
    assert speed["measured"] == f"{step['rows'][0]['times as fast']:.2f} times"
