"""A fine-tuned UNETR opens in MONAI and gives the same scores; other networks are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_ct import CLASSES, UNETR_SIZE, normaliser, write_threshold_model, write_unetr

from mimkit.core.batch import Batch
from mimkit.core.checkpoints.to_unetr import NETWORK_FILE, PLAN_FILE
from mimkit.core.heads.task import load_task
from mimkit.pipelines.cli import main


@pytest.mark.parametrize("token", [True, False], ids=["token", "no-token"])
def test_monais_unetr_takes_the_network_strictly(
    tmp_path: Path, token: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    from monai.networks.nets.unetr import UNETR

    model, out = write_unetr(tmp_path / "model", token=token), tmp_path / "out"
    assert main(["export", str(model), "--to", "monai", "--answers", "--out", str(out)]) == 0
    assert "weights for MONAI's UNETR, scores equal on noise" in capsys.readouterr().out
    content: dict[str, Any] = json.loads((out / "config.json").read_text())
    assert content["classes"] == list(CLASSES)
    theirs = UNETR(**content["unetr"]["arguments"]).eval()
    theirs.load_state_dict(load_file(out / NETWORK_FILE), strict=True)
    images = torch.rand(1, 1, *UNETR_SIZE, generator=torch.Generator().manual_seed(3))
    ours = load_task(model).model
    with torch.no_grad():
        wanted = ours(Batch(images, None, torch.arange(1)))
        apart = float((theirs(images) - wanted).abs().max() / wanted.abs().max())
    # The epsilon of MONAI's norms matters little; a class token that is missing does.
    assert (apart > 1e-3) == token
    assert content["difference"]["with MONAI's norms"] == pytest.approx(apart, rel=3, abs=1e-3)
    plan = json.loads((out / PLAN_FILE).read_text())
    assert plan["patch_size"] == list(UNETR_SIZE)
    assert plan["spacing"] == list(normaliser().spacing or ())
    weights = load_file(model / plan["weights_file"])
    parts = [plan["key_to_stem"], plan["key_to_norm"], *plan["keys_to_blocks"]]
    assert all(any(name.startswith(f"{part}.") for name in weights) for part in parts)


def test_another_network_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_threshold_model(tmp_path / "model")
    words = ["export", str(model), "--to", "monai", "--answers", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "is not MONAI's UNETR" in capsys.readouterr().err
