"""Inspect describes models, runs, states and weights, and what is wrong with them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from inspected import META, Look, Refused
from safetensors.torch import save_file

from mimkit.core.checkpoints.model_dir import save_model
from mimkit.core.checkpoints.run_state import save_state
from mimkit.core.config_tree import to_plain
from mimkit.core.grid import Grid
from mimkit.core.heads.task import TaskConfig
from mimkit.core.methods import (
    METHODS,
    DecoderConfig,
    EncoderConfig,
    MAEConfig,
    MethodConfig,
    SelectiveMAEConfig,
    build,
)
from mimkit.core.methods.config import TINY
from mimkit.core.methods.spec import VIT_NAMES
from mimkit.domains.domain import get_domain
from mimkit.pipelines.inspecting.weights import TensorFact, published
from mimkit.pipelines.recipe import Recipe, recipe_grid, recipe_yaml
from mimkit.pipelines.run_folder import claimed_run

RECIPE = Recipe(
    method=MAEConfig(
        encoder=EncoderConfig(embed_dim=16, depth=1, num_heads=2, patch_size=4),
        decoder=DecoderConfig(dim=8, depth=1, num_heads=2),
    ),
    image_size=(8, 8),
    epochs=10,
)


def model(path: Path, task: TaskConfig | None = None) -> Path:
    """Write a model directory of the tiny recipe."""
    method = build(RECIPE.method, recipe_grid(RECIPE, 2))
    pixels = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(1, 2, 8, 8)
    save_model(
        path,
        method,
        RECIPE.method,
        normaliser=get_domain("satellite").fit(META, [(pixels, None)]).to_dict(),
        recipe=recipe_yaml(RECIPE),
        data={"store": "a", "num_samples": 4},
        extra=None if task is None else {"task": to_plain(task)},
        parts=None if task is None else {"head": torch.nn.Linear(2, 2)},
    )
    return path


def test_a_model_says_what_it_takes_and_answers(look: Look, tmp_path: Path) -> None:
    code, found = look(model(tmp_path / "model"))
    facts = found["facts"]
    assert code == 0
    assert found["kind"] == "model"
    assert facts["method"] == "mae (He et al., CVPR 2022)"
    assert facts["encoder"] == "ViT, 16 wide, 1 blocks, 2 heads"
    assert facts["images"] == "8 x 8 pixels, 2 channels"
    assert facts["tokens"] == 4
    assert "toy, 2 bands (red, nir)" in facts["input"]
    assert facts["task"] == "none: pre-trained only"
    assert facts["trained on: num_samples"] == 4
    assert {row["state"] for row in found["tables"]["weights"]} == {"whole"}
    task = TaskConfig(task="segment", classes=("sea", "land"), image_size=(8, 8), taps=(0,))
    facts = look(model(tmp_path / "tuned", task))[1]["facts"]
    assert (facts["task"], facts["classes"]) == ("segment", ["sea", "land"])
    assert set(facts["millions of numbers"]) == {
        *("model.safetensors", "decoder.safetensors", "head.safetensors"),
    }


def test_changed_and_missing_weights_are_found(look: Look, tmp_path: Path) -> None:
    path = model(tmp_path)
    weights = path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    (path / "decoder.safetensors").unlink()
    code, found = look(path)
    assert code == 1
    assert found["problems"] == [
        "model.safetensors is changed since it was written",
        "decoder.safetensors is missing",
    ]


def test_weights_of_another_architecture_are_found(look: Look, tmp_path: Path) -> None:
    path = model(tmp_path)
    content = json.loads((path / "config.json").read_text())
    content["method"]["encoder"]["depth"] = 2
    (path / "config.json").write_text(json.dumps(content))
    code, found = look(path)
    assert code == 1
    assert "'encoder.blocks.1." in found["problems"][0]
    assert "is missing for this architecture" in found["problems"][0]


def test_a_model_without_its_description_is_refused(refused: Refused, tmp_path: Path) -> None:
    path = model(tmp_path)
    content = json.loads((path / "config.json").read_text())
    del content["grid"]
    (path / "config.json").write_text(json.dumps(content))
    assert "does not describe a method" in refused(path)
    (path / "config.json").unlink()
    assert "is not a model directory (no config.json)" in refused(path)


def test_a_run_says_where_it_stands(look: Look, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with claimed_run(
        out, "pretrain", to_plain(RECIPE), {"group": "a", "split": "train"}, {}
    ) as run:
        for step in (1, 20):
            line = {"step": step, "epoch": step / 4, "loss": 2 / step, "terms": {"pixels": 1.0}}
            run.log({**line, "lr": 0.1, "images_per_s": 9.0, "seconds": 36.0})
        run.log({"step": 20, "epoch": 5.0, "val": {"loss": 0.5}})
        save_state(run.checkpoints, 20, {"model/a": torch.ones(2)}, {"epoch": 5})
    code, found = look(out)
    facts = found["facts"]
    assert code == 0
    assert found["summary"] == f"{out}: a pretrain run, at epoch 5 of 10."
    assert (facts["epochs"], facts["steps"], facts["method"]) == ("5 of 10", 20, "mae")
    assert facts["hours of training"] == pytest.approx(0.02)
    assert facts["states"] == ["step-00000020"]
    log = {row["number"]: (row["first"], row["last"]) for row in found["tables"]["log"]}
    assert log["loss"] == (2.0, 0.1)
    assert log["held out: loss"] == (0.5, 0.5)
    assert log["mfu"] == (None, None)
    assert "continues it" in found["notes"][0]
    model(out / "model")
    assert look(out)[1]["facts"]["state"] == "finished"
    (out / "nonfinite.json").write_text('{"step": 3}')
    assert look(out)[0] == 1


def test_a_state_is_checked(look: Look, refused: Refused, tmp_path: Path) -> None:
    tensors = {"model/a": torch.ones(2, 3), "updates": torch.zeros(())}
    state = save_state(tmp_path, 7, tensors, {"epoch": 2})
    code, found = look(state)
    assert code == 0
    assert found["facts"] == {"steps": 7, "tensors": 2, "meta: epoch": 2}
    shapes = {row["name"]: row["shape"] for row in found["tables"]["tensors"]}
    assert shapes == {"model/a": "2 x 3", "updates": ""}
    (state / "state.safetensors").write_bytes(b"cut off")
    code, found = look(state)
    assert code == 1
    assert "is damaged" in found["problems"][0]
    (state / "meta.json").write_text("{")
    assert "meta.json: cannot be read" in refused(state)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights_are_listed(name: str, look: Look, tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    if name.endswith("safetensors"):
        save_file(tensors, tmp_path / name)
    else:
        torch.save({"model": tensors}, tmp_path / name)
    code, found = look(tmp_path / name)
    assert code == 0
    assert found["facts"]["tensors"] == 2
    assert sorted((row["name"], row["numbers"]) for row in found["tables"]["tensors"]) == [
        ("a", 6),
        ("b", 4),
    ]
    assert found["notes"] == []


def published_names(config: MethodConfig) -> list[TensorFact]:
    """Return what a published checkpoint of a method holds."""
    theirs = {ours: name for name, ours in METHODS[config.name].names.items()}
    found = []
    with torch.device("meta"):
        method = build(config, Grid.for_image((64, 64), 16, 3))
    for name, value in method.state_dict().items():
        prefix = next(ours for ours in theirs if name == ours or name.startswith(f"{ours}."))
        name = theirs[prefix] + name.removeprefix(prefix)
        found.append(TensorFact(name, tuple(value.shape), "F32"))
    return found


def test_published_checkpoints_are_recognised(look: Look, tmp_path: Path) -> None:
    decoder = DecoderConfig(dim=256, depth=1, num_heads=8)
    for kind in (MAEConfig, SelectiveMAEConfig):
        config = kind(encoder=TINY, decoder=decoder)
        names = published_names(config)
        assert config.name in published(names)
        assert not {"mae", "selectivemae"} <= set(published(names))
        # Without its decoder a checkpoint could be of either, and of others with this encoder.
        encoder = [t for t in names if t.name.startswith(tuple(VIT_NAMES))]
        assert {"mae", "selectivemae"} <= set(published(encoder))
    assert published([TensorFact("conv1.weight", (3, 3), "F32")]) == []
    tensors = {t.name: torch.zeros(t.shape) for t in published_names(MAEConfig(encoder=TINY))}
    save_file(tensors, tmp_path / "w.safetensors")
    assert (
        "it fits published mae: `mimkit import`" in look(tmp_path / "w.safetensors")[1]["notes"][0]
    )


class Harmful:
    """What a file from the network may hold: unpickling it would run a function."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("harm-was-done"),)  # type: ignore[return-value]


def test_code_in_a_file_is_never_run(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"model": Harmful()}))
    assert "w.pt" in refused(tmp_path / "w.pt")
    assert not (tmp_path / "harm-was-done").exists()
