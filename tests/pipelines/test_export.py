"""Every export is opened again by what it is made for, and gives the features of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_models import normaliser_dict, write_model

from mimkit.core.checkpoints.model_dir import load_encoder, load_model
from mimkit.core.heads.task import load_task
from mimkit.domains.domain import get_domain
from mimkit.pipelines.cli import main
from mimkit.pipelines.export import nearest
from mimkit.pipelines.stores import open_group


def export(model: Path, kind: str, out: Path, *words: object) -> int:
    return main(["export", str(model), "--to", kind, "--out", str(out), *map(str, words)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "segment")


def stored(store: Path) -> np.ndarray:
    return open_group(store).store.read(np.arange(6)).pixels


def run_onnx(folder: Path, pixels: np.ndarray) -> np.ndarray:
    """Return what the exported graph gives for stored numbers."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / "encoder.onnx"), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"images": pixels.astype(np.float32)})[0])


def wanted(model: Path, pixels: np.ndarray) -> torch.Tensor:
    """Return what the encoder gives for stored numbers."""
    loaded = load_model(model)
    normaliser = get_domain("satellite").normaliser(loaded.normaliser)
    with torch.no_grad():
        return load_encoder(model)(normaliser(pixels))


def test_timm_takes_the_weights_strictly(
    model: Path, class_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from timm.models.vision_transformer import VisionTransformer

    out = tmp_path / "timm"
    assert export(model, "timm", out, "--samples", class_store) == 0
    assert f"features equal on 4 samples of {class_store}" in capsys.readouterr().out
    content = json.loads((out / "config.json").read_text())
    arguments: dict[str, Any] = content["timm"]
    arguments |= {name: tuple(arguments[name]) for name in ("img_size", "patch_size")}
    theirs = VisionTransformer(**arguments).eval()
    theirs.load_state_dict(load_file(out / "model.safetensors"), strict=True)
    normaliser = get_domain("satellite").normaliser(content["normaliser"])
    with torch.no_grad():
        got = theirs.forward_features(normaliser(stored(class_store)))
    torch.testing.assert_close(got, wanted(model, stored(class_store)), rtol=1e-4, atol=1e-4)
    assert got.std() > 0.1


@pytest.mark.parametrize("kind", ["timm", "hub"])
def test_timm_opens_the_folder_by_itself(
    model: Path, class_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import timm

    assert export(model, kind, tmp_path / "out") == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    theirs: Any = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    pixels = stored(class_store)
    images = get_domain("satellite").normaliser(load_model(model).normaliser)(pixels)
    with torch.no_grad():
        got = theirs.forward_features(images)
    torch.testing.assert_close(got, wanted(model, pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("real", [True, False], ids=["samples", "noise"])
def test_onnx_reads_the_numbers_of_files(
    model: Path, class_store: Path, tmp_path: Path, real: bool
) -> None:
    words = ["--samples", class_store, "--num-samples", 3] if real else []
    assert export(model, "onnx", tmp_path / "onnx", *words) == 0
    assert json.loads((tmp_path / "onnx" / "config.json").read_text())["normaliser_inside"]
    pixels = stored(class_store)
    got = run_onnx(tmp_path / "onnx", pixels)
    np.testing.assert_allclose(got, wanted(model, pixels).numpy(), rtol=1e-4, atol=1e-4)
    # Without data a pixel is the mean, whatever number says so.
    empty, holes = pixels.copy(), pixels.astype(np.float32)
    empty[:, :, :5], holes[:, :, :5] = 0, np.nan
    first = run_onnx(tmp_path / "onnx", empty)
    np.testing.assert_array_equal(first, run_onnx(tmp_path / "onnx", holes))
    assert np.isfinite(first).all()
    assert not np.allclose(first, got)


def test_a_hub_folder_is_a_model(model: Path, tmp_path: Path) -> None:
    assert export(model, "hub", tmp_path / "hub") == 0
    names = {path.name for path in model.iterdir()}
    assert {path.name for path in (tmp_path / "hub").iterdir()} == names
    assert {"model.safetensors", "config.json", "README.md", "recipe.yaml", "data.json"} <= names
    card = (tmp_path / "hub" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["tags"] == ["mimkit", "masked-image-modeling", "mae"]
    assert (model / "README.md").read_text().rstrip() in body
    assert export(tmp_path / "hub", "hub", tmp_path / "again") == 0
    assert (tmp_path / "again" / "README.md").read_text() == card
    ours, theirs = load_task(model), load_task(tmp_path / "hub")
    assert ours.config == theirs.config
    state = theirs.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in ours.model.state_dict().items())


def test_an_earlier_export_is_replaced_but_never_a_model(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_model(tmp_path / "other", task=None, size=64)
    before = {path: path.read_bytes() for folder in (model, other) for path in folder.iterdir()}
    for kind in ("timm", "monai", "onnx", "hub"):
        assert export(model, kind, model) == 2
        assert export(model, kind, other) == 2
        assert "holds a model; give another folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert export(model, "onnx", tmp_path / "out") == 0
    assert export(other, "onnx", tmp_path / "out") == 0


@pytest.mark.parametrize(
    ("kind", "words", "code", "reason"),
    [
        ("hub", ["--samples", "{store}"], 2, "a copy has nothing to compare"),
        ("timm", ["--samples", "{folder}"], 1, "there is no store"),
        ("monai", [], 2, "encoder of rank 2: does not fit MONAI's ViT, which is written for 3-D"),
        ("onnx", ["--samples", "{store}", "--num-samples", "0"], 2, "is below 1"),
        ("onnx", ["--samples", "{store}", "--group", "no"], 2, "choose one of"),
    ],
)
def test_what_cannot_be_exported_gets_one_sentence(
    model: Path,
    class_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    words: list[str],
    code: int,
    reason: str,
) -> None:
    filled = [word.format(store=class_store, folder=tmp_path) for word in words]
    assert export(model, kind, tmp_path / "out", *filled) == code
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_read_say_why(
    class_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert export(tmp_path, "timm", out) == 1
    assert "is not a model directory" in capsys.readouterr().err
    assert export(write_model(tmp_path / "bare", {}, task=None), "onnx", out) == 1
    assert "holds no normaliser" in capsys.readouterr().err
    turned = write_model(tmp_path / "turned", normaliser_dict(("B4", "B3", "B2")), task=None)
    assert export(turned, "onnx", out, "--samples", class_store) == 2
    assert "has its bands in another order" in capsys.readouterr().err
    weights = tmp_path / "turned" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    for kind in ("timm", "onnx", "hub"):
        assert export(turned, kind, out) == 1
        assert "is not the file that config.json was written for" in capsys.readouterr().err
    assert not out.exists()


def test_samples_take_the_size_of_the_encoder() -> None:
    images = np.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    assert nearest(images, (4, 6)) is not None
    np.testing.assert_array_equal(nearest(images, (4, 6)), images)
    np.testing.assert_array_equal(nearest(images, (8, 12))[:, :, ::2, ::2], images)
    np.testing.assert_array_equal(nearest(images, (2, 3)), images[:, :, ::2, ::2])
