"""Reading foreign checkpoints: safely, completely, or not at all."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from published import DECODER, ENCODER, PLAIN, encoder_only, published_state
from safetensors.torch import save_file

from mimkit.core.checkpoints.published import (
    import_published,
    infer_config,
    infer_grid,
    load_into,
    rename,
)
from mimkit.core.checkpoints.reading import read_tensors
from mimkit.core.errors import UsageError, UserError, WeightsError
from mimkit.core.grid import Grid
from mimkit.core.methods import METHODS, build


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    marker, file = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"model": published_state(), "x": Attack(marker)}, file)
    with pytest.raises(WeightsError, match="code from a file is never run"):
        read_tensors(file)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_broken_files_are_named(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights.{suffix}"
    with pytest.raises(WeightsError, match="is not a file"):
        read_tensors(file)
    state = published_state()
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(WeightsError, match=r"weights.*(cannot be read|not a whole)") as caught:
        read_tensors(file)
    assert "\n" not in str(caught.value)


def test_wrappers_prefixes_and_command_lines_are_unwrapped(tmp_path: Path) -> None:
    state = published_state()
    wrapped = {f"module.{k}": v for k, v in state.items()}
    torch.save(
        {"model": wrapped, "epoch": 3, "args": argparse.Namespace(lr=1.0)}, tmp_path / "a.pth"
    )
    assert read_tensors(tmp_path / "a.pth").keys() == state.keys()
    torch.save({"epoch": 3}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="holds no named tensors"):
        read_tensors(tmp_path / "b.pth")


@pytest.mark.parametrize("name", PLAIN)
def test_shapes_tell_the_configuration(name: str) -> None:
    state = published_state(name)
    config = infer_config(state, name)
    assert config.encoder == ENCODER
    assert getattr(config, "decoder", None) == DECODER
    tensors, ignored = rename(state, name)
    assert not ignored
    assert infer_grid(tensors, config) == Grid.for_image((32, 32), 8, 3)
    assert infer_grid(tensors, config, 48).shape == (6, 6)
    imported = import_published(state, name)
    assert {row.fate for row in imported.fates} == {"loaded"}
    ours = imported.method.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in tensors.items())
    assert ours.keys() == tensors.keys()


def test_volumes_are_told_from_images() -> None:
    state = published_state(size=(16, 16, 16), channels=1)
    imported = import_published(state, "mae")
    assert imported.method.grid == Grid.for_image((16, 16, 16), 8, 1)
    del state["pos_embed"]
    with pytest.raises(UsageError, match="give --image-size"):
        import_published(state, "mae")
    wide = import_published(state, "mae", image_size=24).method
    assert wide.grid.shape == (3, 3, 3)
    with pytest.raises(UsageError, match="is not a multiple of the patch"):
        import_published(state, "mae", image_size=20)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_shapes_or_says_what_to_give(name: str) -> None:
    nothing = {"unknown": torch.zeros(2)}
    if METHODS[name].reads_shapes:
        with pytest.raises((WeightsError, UsageError)):
            infer_config(nothing, name)
    else:
        with pytest.raises(UsageError, match=r"cannot be read from the shapes.*--recipe"):
            infer_config(nothing, name)
    with pytest.raises(WeightsError, match="has no place in"):
        import_published(nothing, name)


@dataclass(frozen=True, kw_only=True)
class OtherConfig:
    """Configuration of a method whose encoder is no plain ViT."""

    name: str = "mae"
    encoder: None = None


def test_an_encoder_without_a_rule_asks_for_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    state = published_state()
    row = METHODS["mae"]
    other = replace(row, config=OtherConfig)
    monkeypatch.setitem(METHODS, "mae", other)
    assert not other.reads_shapes
    with pytest.raises(UsageError, match=r"cannot be read from the shapes.*--recipe"):
        import_published(state, "mae")
    with pytest.raises(WeightsError, match="has no kernel that reads pixels"):
        infer_grid({"encoder.norm.weight": torch.zeros(3)}, row.config())


def test_an_encoder_alone_needs_a_word() -> None:
    state = encoder_only(published_state())
    with pytest.raises(WeightsError, match="allow a fresh decoder with --allow-partial"):
        import_published(state, "mae")
    imported = import_published(state, "mae", allow_partial=True)
    fresh = {row.name for row in imported.fates if row.fate == "fresh"}
    assert fresh
    assert all(name.startswith("heads.") for name in fresh)
    assert "fresh" in imported.summary()


def test_an_unknown_encoder_tensor_is_an_error() -> None:
    state = published_state()
    state["blocks.0.ls1.gamma"] = torch.ones(192)
    with pytest.raises(WeightsError, match=r"blocks\.0\.ls1\.gamma.*no counterpart"):
        import_published(state, "mae")
    del state["blocks.0.ls1.gamma"]
    del state["blocks.1.norm1.bias"]
    with pytest.raises(WeightsError, match="check depth and width of the encoder"):
        import_published(state, "mae", allow_partial=True)
    with pytest.raises(WeightsError, match="belong to another method"):
        import_published(published_state() | {"teacher.blocks.0.w": torch.ones(1)}, "mae")


def test_the_decoder_of_another_method_is_refused() -> None:
    with pytest.raises((WeightsError, UsageError)):
        import_published(published_state("selectivemae"), "mae")


@pytest.mark.parametrize("name", METHODS)
def test_a_file_of_mae_is_taken_whole_or_refused_in_a_sentence(name: str) -> None:
    for state in (published_state(), encoder_only(published_state())):
        said = ""
        try:
            fates = import_published(state, name).fates
        except UserError as error:
            said, fates = str(error), ()
        assert {row.fate for row in fates} <= {"loaded", "ignored"}
        assert said.count(";") >= 1 or fates, "a reason and a remedy"
        assert "\n" not in said


def test_nothing_is_half_loaded() -> None:
    method = build(METHODS["mae"].config(encoder=ENCODER), Grid.for_image((32, 32), 8, 3))
    before = {k: v.clone() for k, v in method.state_dict().items()}
    tensors = {k: v + 1 for k, v in before.items()}
    tensors["encoder.norm.weight"] = torch.ones(7)
    with pytest.raises(WeightsError, match="does not fit"):
        load_into(method, tensors)
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


def test_positions_of_another_size_are_resized() -> None:
    imported = import_published(published_state(side=32), "mae", image_size=64)
    fates = {row.name: row.fate for row in imported.fates}
    assert fates["encoder.pos_embed"] == "resized"
    assert imported.method.grid.shape == (8, 8)
    assert imported.method.encoder.pos_embed.shape == (1, 65, 192)


def test_heads_of_an_unpublished_width_must_be_given() -> None:
    state = published_state()
    state["patch_embed.proj.weight"] = torch.zeros(100, 3, 8, 8)
    with pytest.raises(UsageError, match="give --num-heads"):
        infer_config(state, "mae")
    encoder = infer_config(state, "mae", num_heads=5).encoder
    assert getattr(encoder, "num_heads", None) == 5
