"""The graph of a fine-tuned model of faces gives the probabilities that the model gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import write_model
from tiny_served import CROP, NORMALISER

from mimkit.core.heads.task import load_task
from mimkit.pipelines.cli import main
from mimkit.pipelines.faces.serving import open_server


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(
        tmp_path / "model", NORMALISER, task="classify", classes=("fake", "real"), size=CROP.size
    )


def test_graph_holds_normaliser_and_head_and_says_the_crop(model: Path, tmp_path: Path) -> None:
    import onnxruntime

    words = ["export", str(model), "--to", "onnx", "--answers", "--out"]
    assert main([*words, str(tmp_path / "onnx")]) == 0
    content = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert content["classes"] == ["fake", "real"]
    assert content["image_size"] == [CROP.size, CROP.size]
    assert content["normaliser"]["crop"] == CROP.to_dict()
    crops = np.random.default_rng(0).integers(0, 256, (3, 3, CROP.size, CROP.size), np.uint8)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "onnx" / "answers.onnx"), providers=["CPUExecutionProvider"]
    )
    got = np.asarray(session.run(None, {"images": crops.astype(np.float32)})[0])
    valid = np.ones((3, CROP.size, CROP.size), bool)
    wanted = open_server(model, "cpu").score(list(crops), list(valid))
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert np.ptp(wanted[:, 0]) > 1e-3


def test_what_has_no_answers_is_refused(model: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert main(["export", str(model), "--to", "timm", "--answers", "--out", out]) == 2
    bare = write_model(tmp_path / "bare", NORMALISER, task=None)
    assert main(["export", str(bare), "--to", "onnx", "--answers", "--out", out]) == 2


def test_a_pickle_in_place_of_weights_is_never_opened(model: Path) -> None:
    ran = model / "ran"

    class Trap:
        def __reduce__(self):
            return ran.touch, ()

    for name in ("model.safetensors", "head.safetensors"):
        kept = (model / name).read_bytes()
        torch.save({"weights": Trap()}, model / name)
        with pytest.raises(Exception, match=name):  # the checksum differs, whatever is in it
            load_task(model)
        (model / name).write_bytes(kept)
    # Also not with a checksum that fits: whoever made the file wrote that as well.
    from mimkit.core.checkpoints.model_dir import sha256

    torch.save({"weights": Trap()}, model / "head.safetensors")
    config = json.loads((model / "config.json").read_text())
    config["sha256"]["head.safetensors"] = sha256(model / "head.safetensors")
    (model / "config.json").write_text(json.dumps(config))
    assert main(["predict", "faces", str(model), "--model", str(model), "--out", str(model)]) == 1
    assert not ran.exists()
