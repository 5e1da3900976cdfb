"""A 3-D encoder opens in MONAI's ViT and UNETR; everything else is told what works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import normaliser_dict, spread

from mimkit.core.checkpoints import exporters, to_monai
from mimkit.core.checkpoints.exporters import export_onnx, export_timm, timm_arguments
from mimkit.core.checkpoints.model_dir import load_encoder, save_model
from mimkit.core.checkpoints.to_monai import export_monai, set_norm_eps
from mimkit.core.encoders.contract import Encoder
from mimkit.core.encoders.vit import ViT
from mimkit.core.errors import UsageError, WeightsError
from mimkit.core.grid import Grid
from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig, build
from mimkit.pipelines.cli import main


def write_volume(folder: Path, *, token: bool, depth: int = 2, patch: int = 8) -> Path:
    """Write a model of volumes that are not cubes, with random weights of a size that shows."""
    torch.manual_seed(0)
    encoder = EncoderConfig(
        embed_dim=24, depth=depth, num_heads=2, patch_size=patch, mlp_ratio=2.0, class_token=token
    )
    config = MAEConfig(encoder=encoder, decoder=DecoderConfig(dim=16, depth=1, num_heads=2))
    method = build(config, Grid.for_image((2 * patch, patch, 3 * patch), patch, 1))
    spread(method, 0.1)
    plain = normaliser_dict(("B2",))
    save_model(folder, method.eval(), config, normaliser=plain, recipe="seed: 0\n", data={})
    return folder


def sizes(content: dict) -> dict:
    """Return arguments with tuples where JSON has lists."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}


@pytest.mark.parametrize("token", [True, False], ids=["token", "no-token"])
def test_monai_takes_the_weights_strictly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], token: bool
) -> None:
    from monai.networks.nets.vit import ViT as Theirs

    model = write_volume(tmp_path / "model", token=token)
    out = tmp_path / "monai"
    assert main(["export", str(model), "--to", "monai", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "weights for MONAI's ViT, features equal on noise" in said
    assert "with MONAI's norms features differ by up to" in said
    content = json.loads((out / "config.json").read_text())
    assert content["normaliser"]["bands"] == ["B2"]
    assert "unetr" not in content, "UNETR has 12 blocks and patches of 16"
    theirs = Theirs(**sizes(content["monai"])).eval()
    theirs.load_state_dict(load_file(out / "model.safetensors"), strict=True)
    encoder = load_encoder(model)
    images = torch.randn(2, 1, *encoder.grid.image_size)
    with torch.no_grad():
        wanted = encoder(images)
        apart = (theirs.norm(theirs(images)[1][-1]) - wanted).abs().max() / wanted.abs().max()
        set_norm_eps(theirs, content["norm_eps"])
        answer, hidden = theirs(images)
    torch.testing.assert_close(theirs.norm(hidden[-1]), wanted, rtol=1e-4, atol=1e-4)
    # A classifier answers with its class token, the others with all tokens.
    torch.testing.assert_close(answer, wanted[:, 0] if token else wanted, rtol=1e-4, atol=1e-4)
    assert wanted.std() > 0.1
    assert 0 < apart < 1e-2


@pytest.mark.parametrize("token", [True, False], ids=["token", "no-token"])
def test_unetr_takes_the_weights_strictly(tmp_path: Path, token: bool) -> None:
    from monai.networks.nets.unetr import UNETR

    model = write_volume(tmp_path / "model", token=token, depth=12, patch=16)
    export_monai(model, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    file, arguments = content["unetr"]["file"], sizes(content["unetr"]["arguments"])
    assert file == ("unetr.safetensors" if token else "model.safetensors")
    unetr = UNETR(out_channels=3, feature_size=2, **arguments).eval()
    unetr.vit.load_state_dict(load_file(tmp_path / "out" / file), strict=True)
    set_norm_eps(unetr.vit, content["norm_eps"])
    encoder = load_encoder(model)
    images = torch.randn(1, 1, *encoder.grid.image_size)
    with torch.no_grad():
        features, _ = unetr.vit(images)
        wanted = encoder(images)
        assert unetr(images).shape == (1, 3, *encoder.grid.image_size)
    if token:
        # Nothing can stand in for a token that all others read; the folder says what it costs.
        apart = content["difference"]["without the class token"]
        assert 0 < apart < 1
        assert not torch.allclose(features, wanted[:, 1:], rtol=1e-4, atol=1e-4)
    else:
        torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-4)
        assert "without the class token" not in content["difference"]


def test_nothing_is_written_when_features_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_volume(tmp_path / "model", token=False)
    monkeypatch.setattr(to_monai, "NORM_EPS", 1.0)
    with pytest.raises(WeightsError, match="MONAI's ViT: computes other features"):
        export_monai(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class OtherViT(ViT):
    """An encoder that only looks like a plain ViT."""


def test_other_encoders_and_ranks_are_told_what_works(tmp_path: Path) -> None:
    volume = write_volume(tmp_path / "volume", token=True)
    with pytest.raises(UsageError, match=r"rank 3: does not fit timm's ViT.*use --to monai"):
        export_timm(volume, tmp_path / "out")
    flat = OtherViT(Grid.for_image((16, 16), 8, 1), 24, 1, 2)
    for library, rank in (("timm", 2), ("MONAI", 3)):
        with pytest.raises(UsageError, match=f"OtherViT: is not a plain ViT.*{library}.*--to onnx"):
            exporters.plain_vit(flat, rank, library)
    line = ViT(Grid((4,), (8,), 1), 24, 1, 2)
    with pytest.raises(UsageError, match=r"of rank 1.*use --to onnx or --to hub"):
        timm_arguments(cast("Encoder", line))
    assert not (tmp_path / "out").exists()


def test_volumes_become_a_graph_too(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = write_volume(tmp_path / "model", token=True)
    export_onnx(model, tmp_path / "out")
    session = onnxruntime.InferenceSession(
        str(tmp_path / "out" / "encoder.onnx"), providers=["CPUExecutionProvider"]
    )
    encoder = load_encoder(model)
    images = torch.randn(3, 1, *encoder.grid.image_size)
    (got,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(got), encoder(images), rtol=1e-4, atol=1e-4)


def test_an_operation_that_a_graph_cannot_hold_is_one_sentence(tmp_path: Path) -> None:
    class Sorting(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(images)

    with pytest.raises(UsageError, match=r"ONNX 17 cannot say.*use --to hub") as caught:
        exporters.write_onnx(Sorting(), torch.randn(2, 3, 3), tmp_path / "x.onnx")
    assert "\n" not in str(caught.value)
