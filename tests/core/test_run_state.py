"""States of a run: whole or not there, whatever happens while they are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mimkit.core.checkpoints.run_state import list_states, load_latest, read_state, save_state
from mimkit.core.errors import WeightsError


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"model/a": torch.full((2, 3), value), "updates": torch.tensor(value)}


def test_the_newest_state_comes_back_and_old_ones_go(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "none") is None
    for step in (1, 2, 30):
        save_state(tmp_path, step, tensors(step), {"epoch": step}, keep=2)
    assert [path.name for path in list_states(tmp_path)] == ["step-00000002", "step-00000030"]
    state = load_latest(tmp_path)
    assert state is not None
    assert (state.step, state.meta) == (30, {"epoch": 30})
    assert torch.equal(state.tensors["model/a"], torch.full((2, 3), 30.0))


def test_a_state_may_be_written_again(tmp_path: Path) -> None:
    save_state(tmp_path, 5, tensors(1.0), {})
    save_state(tmp_path, 5, tensors(2.0), {})
    state = load_latest(tmp_path)
    assert state is not None
    assert float(state.tensors["updates"]) == 2.0


@pytest.mark.parametrize("damage", ["cut", "changed", "no_meta", "not_json"])
def test_a_damaged_state_is_passed_over(tmp_path: Path, damage: str) -> None:
    save_state(tmp_path, 1, tensors(1.0), {})
    newest = save_state(tmp_path, 2, tensors(2.0), {})
    content = (newest / "state.safetensors").read_bytes()
    if damage == "cut":
        (newest / "state.safetensors").write_bytes(content[:-4])
    elif damage == "changed":
        (newest / "state.safetensors").write_bytes(content[:-1] + b"\x01")
    elif damage == "no_meta":
        (newest / "meta.json").unlink()
    else:
        (newest / "meta.json").write_text("{")
    assert read_state(newest) is None
    state = load_latest(tmp_path)
    assert state is not None
    assert state.step == 1


def test_when_all_are_damaged_it_says_so(tmp_path: Path) -> None:
    path = save_state(tmp_path, 1, tensors(1.0), {})
    (path / "meta.json").write_text(json.dumps({"step": 1}))
    with pytest.raises(WeightsError, match="every one is damaged"):
        load_latest(tmp_path)


def test_what_a_kill_left_is_never_read_and_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".writing-00000009-123"
    leftover.mkdir()
    (leftover / "state.safetensors").write_bytes(b"half")
    assert load_latest(tmp_path) is None
    save_state(tmp_path, 1, tensors(1.0), {})
    assert not leftover.exists()


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    save_state(tmp_path, 1, {"a": base[:3], "b": base[3:], "whole": base}, {})
    state = load_latest(tmp_path)
    assert state is not None
    assert torch.equal(state.tensors["whole"], base)
