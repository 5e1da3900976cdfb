"""Model directories: what is written comes back bit by bit, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mimkit.core.checkpoints import exporters
from mimkit.core.checkpoints.model_dir import load_encoder, load_model, save_model
from mimkit.core.checkpoints.to_hub import export_hub
from mimkit.core.errors import UsageError, WeightsError
from mimkit.core.grid import Grid
from mimkit.core.methods import (
    DecoderConfig,
    EncoderConfig,
    MAEConfig,
    MethodConfig,
    SelectiveMAEConfig,
    build,
)

ENCODER = EncoderConfig(embed_dim=48, depth=2, num_heads=3, patch_size=8, mlp_ratio=2.0)
DECODER = DecoderConfig(dim=16, depth=1, num_heads=2)
CONFIGS = [
    MAEConfig(encoder=ENCODER, decoder=DECODER),
    SelectiveMAEConfig(encoder=ENCODER, decoder=DECODER, mask_ratio=0.7),
]


def written(folder: Path, config: MethodConfig, size: tuple[int, ...] = (32, 48)) -> Path:
    torch.manual_seed(3)
    method = build(config, Grid.for_image(size, 8, 5))
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_model(
        folder,
        method,
        config,
        normaliser={"bands": list("abcde"), "mean": [0.0] * 5},
        recipe="seed: 3\n",
        data={"images": 10},
    )
    return folder


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_what_is_written_comes_back(tmp_path: Path, config: MethodConfig) -> None:
    folder = written(tmp_path / "model", config)
    first, second = load_model(folder), load_model(folder)
    assert first.config == config
    assert first.normaliser["bands"] == list("abcde")
    state = first.method.state_dict()
    assert all(torch.equal(v, second.method.state_dict()[k]) for k, v in state.items())
    assert state["encoder.blocks.0.attn.qkv.weight"].std() > 0.05, "not the random start"
    written(tmp_path / "again", config)
    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert again == (folder / "model.safetensors").read_bytes()


def test_damage_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", CONFIGS[0])
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WeightsError, match="is not the file that"):
        load_model(folder)
    weights.unlink()
    with pytest.raises(WeightsError, match="is missing; copy"):
        load_model(folder)
    with pytest.raises(WeightsError, match="is not a model directory"):
        load_model(tmp_path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", CONFIGS[0])
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["method"]["encoder"]["depth"] = 3
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"blocks\.2.*missing for this architecture") as caught:
        load_model(folder)
    assert caught.value.exit_code == 1
    config["method"]["encoder"] |= {"depth": 2, "embed_dim": 24}
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"is \(.*\), not \("):
        load_model(folder)


def test_a_path_out_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", CONFIGS[0])
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["sha256"]["../evil.safetensors"] = "0"
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="points outside"):
        load_model(folder)


@pytest.mark.parametrize("token", [True, False])
def test_timm_opens_the_export_strictly(tmp_path: Path, token: bool) -> None:
    from timm.models.vision_transformer import VisionTransformer

    encoder = EncoderConfig(
        embed_dim=48, depth=2, num_heads=3, patch_size=8, mlp_ratio=2.0, class_token=token
    )
    folder = written(tmp_path / "model", MAEConfig(encoder=encoder, decoder=DECODER))
    out = exporters.export_timm(folder, tmp_path / "timm")
    arguments = json.loads((out / "config.json").read_text())["timm"]
    arguments |= {k: tuple(arguments[k]) for k in ("img_size", "patch_size")}
    theirs = VisionTransformer(**arguments).eval()
    theirs.load_state_dict(load_file(out / "model.safetensors"), strict=True)
    images = torch.rand(3, 5, 32, 48)
    with torch.no_grad():
        ours = load_encoder(folder)(images)
        torch.testing.assert_close(theirs.forward_features(images), ours, rtol=1e-4, atol=1e-4)


def test_onnx_has_the_normaliser_inside(tmp_path: Path) -> None:
    import onnxruntime

    class Halve(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images / 2 - 1

    folder = written(tmp_path / "model", CONFIGS[1])
    out = exporters.export_onnx(folder, tmp_path / "onnx", preprocess=Halve())
    session = onnxruntime.InferenceSession(
        str(out / "encoder.onnx"), providers=["CPUExecutionProvider"]
    )
    images = torch.rand(5, 5, 32, 48)
    (got,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        wanted = load_encoder(folder)(images / 2 - 1)
    torch.testing.assert_close(torch.as_tensor(got), wanted, rtol=1e-4, atol=1e-4)


def test_an_export_that_differs_is_not_written(tmp_path: Path, monkeypatch) -> None:
    folder = written(tmp_path / "model", CONFIGS[0])
    write = exporters.write_onnx

    def other(model, images, path: Path, *rest) -> None:
        with torch.no_grad():
            model.encoder.norm.bias.add_(1)
            write(model, images, path, *rest)
            model.encoder.norm.bias.sub_(1)

    monkeypatch.setattr(exporters, "write_onnx", other)
    with pytest.raises(WeightsError, match="computes other features"):
        exporters.export_onnx(folder, tmp_path / "onnx")
    assert not list((tmp_path / "onnx").iterdir())


def test_the_hub_folder_opens_as_a_model_and_checks_first(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", CONFIGS[0])
    out = export_hub(folder, tmp_path / "hub")
    assert load_model(out).config == CONFIGS[0]
    assert {p.name for p in out.iterdir()} == {p.name for p in folder.iterdir()}
    state = load_file(folder / "model.safetensors")
    save_file({k: v + 1 for k, v in state.items()}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="is not the file"):
        export_hub(folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_timm_has_no_3d(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", CONFIGS[0], size=(16, 16, 16))
    with pytest.raises(UsageError, match="rank 3: does not fit timm's ViT"):
        exporters.export_timm(folder, tmp_path / "timm")
