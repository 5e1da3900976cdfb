"""A fine-tuned UNETR opens in MONAI and gives the same scores; other networks are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_ct import CLASSES, normaliser, write_threshold_model
from tiny_models import spread

from mimkit.core.batch import Batch
from mimkit.core.checkpoints.model_dir import save_model
from mimkit.core.checkpoints.to_unetr import NETWORK_FILE, PLAN_FILE
from mimkit.core.grid import Grid
from mimkit.core.heads.task import HEAD_PART, TaskConfig, TaskModel, load_task
from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig, build
from mimkit.pipelines.cli import main

SIZE = (32, 16, 48)


def write_unetr(folder: Path, *, token: bool) -> Path:
    torch.manual_seed(0)
    encoder = EncoderConfig(
        embed_dim=24, depth=12, num_heads=2, patch_size=16, mlp_ratio=2.0, class_token=token
    )
    config = MAEConfig(encoder=encoder, decoder=DecoderConfig(dim=16, depth=1, num_heads=2))
    method = build(config, Grid.for_image(SIZE, 16, 1))
    spread(method, 0.1)
    task = TaskConfig(
        task="segment",
        classes=CLASSES,
        image_size=SIZE,
        taps=(3, 6, 9, -1),
        head="unetr",
        stem_dim=4,
        deep_supervision=True,
    )
    save_model(
        folder,
        method.eval(),
        config,
        normaliser=normaliser().to_dict(),
        recipe="seed: 0\n",
        data={},
        extra={"task": task},
        parts={HEAD_PART: TaskModel(method.encoder, task).head},
    )
    return folder


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
    images = torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(3))
    ours = load_task(model).model
    with torch.no_grad():
        wanted = ours(Batch(images, None, torch.arange(1)))
        apart = float((theirs(images) - wanted).abs().max() / wanted.abs().max())
    # The epsilon of MONAI's norms matters little; a class token that is missing does.
    assert (apart > 1e-3) == token
    assert content["difference"]["with MONAI's norms"] == pytest.approx(apart, rel=3, abs=1e-3)
    plan = json.loads((out / PLAN_FILE).read_text())
    assert plan["patch_size"] == list(SIZE)
    assert plan["spacing"] == list(normaliser().spacing or ())
    weights = load_file(model / plan["weights_file"])
    parts = [plan["key_to_stem"], plan["key_to_norm"], *plan["keys_to_blocks"]]
    assert all(any(name.startswith(f"{part}.") for name in weights) for part in parts)


def test_another_network_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_threshold_model(tmp_path / "model")
    words = ["export", str(model), "--to", "monai", "--answers", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "is not MONAI's UNETR" in capsys.readouterr().err
