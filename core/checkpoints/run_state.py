"""States of a run: written whole or not at all, found again after any kind of death.

<directory>/step-00001200/state.safetensors    tensors by name
<directory>/step-00001200/meta.json            plain values and the checksum of the tensors

A state is written under a hidden name and renamed; what a kill left behind is never looked at.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import WeightsError
from ..files import sync
from .model_dir import sha256
from .reading import read_tensors

STATE_FILE, META_FILE = "state.safetensors", "meta.json"
_NAME = re.compile(r"step-(\d{8,})")
_HIDDEN = ".writing-"


@dataclass(frozen=True)
class RunState:
    """A state that was read and whose checksum was right.

    Args:
        path: folder it came from.
        step: updates that were done.
        tensors: by name, on the CPU.
        meta: plain values.
    """

    path: Path
    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save_state(
    directory: str | Path,
    step: int,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Write a state and remove the oldest ones.

    Args:
        directory: folder of all states of a run.
        step: updates that were done.
        tensors: by name, on any device.
        meta: values that JSON can hold.
        keep: how many states stay, at least 1.

    Returns:
        the folder of the state.
    """
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob(f"{_HIDDEN}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    hidden = directory / f"{_HIDDEN}{step:08d}-{os.getpid()}"
    hidden.mkdir()
    save_file(_separate(tensors), hidden / STATE_FILE, metadata={"format": "pt"})
    content = {"step": step, "sha256": sha256(hidden / STATE_FILE), "meta": dict(meta)}
    (hidden / META_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for path in (hidden / STATE_FILE, hidden / META_FILE, hidden):
        sync(path)
    final = directory / f"step-{step:08d}"
    if final.exists():  # a run that repeats this step after it could not read the state
        shutil.rmtree(final)
    hidden.replace(final)
    sync(directory)
    for old in list_states(directory)[: -max(keep, 1)]:
        shutil.rmtree(old)
    return final


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU of which no two share memory, which the file format refuses."""
    ready, seen = {}, set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        ready[name] = value.clone() if place in seen else value
        seen.add(place)
    return ready


def list_states(directory: str | Path) -> list[Path]:
    """Return the folders of all states, oldest first, readable or not."""
    directory = Path(directory)
    found = (p for p in directory.glob("step-*") if _NAME.fullmatch(p.name))
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def load_latest(directory: str | Path) -> RunState | None:
    """Return the newest state that is whole; None when there is none at all.

    Raises:
        WeightsError: when there are states but every one is damaged.
    """
    states = list_states(directory)
    for path in reversed(states):
        state = read_state(path)
        if state is not None:
            return state
    if states:
        raise WeightsError(
            directory, "holds states, but every one is damaged", "remove it to start this run again"
        )
    return None


def read_state(path: str | Path) -> RunState | None:
    """Return a state, or None when it is damaged."""
    path = Path(path)
    try:
        content = json.loads((path / META_FILE).read_text(encoding="utf-8"))
        if sha256(path / STATE_FILE) != content["sha256"]:
            return None
        tensors = read_tensors(path / STATE_FILE)
        return RunState(path, int(content["step"]), tensors, content["meta"])
    except (OSError, ValueError, KeyError, TypeError, WeightsError):
        return None
