"""States of a run: written whole or not at all, found again after any kind of death.

<directory>/step-00001200/state.safetensors    tensors by name
<directory>/step-00001200/meta.json            plain values and the checksum of the tensors

A state is written under a hidden name and renamed; what a kill left behind is never looked at, and
older states go only after a newer one is there. It belongs to no engine and no number of processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

from torch import Tensor

from ..errors import UserError, WeightsError
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
        damaged: newer states that had to be passed over.
    """

    path: Path
    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    damaged: tuple[Path, ...] = ()


class UnsavedStateError(UserError):
    """A state that could not be written; older ones are untouched."""

    def __init__(self, directory: Path, step: int, reason: str) -> None:
        states = list_states(directory)
        last = f"the last whole state is {states[-1].name}" if states else "no state is there yet"
        super().__init__(
            f"state after step {step} in {directory}",
            f"cannot be written ({reason}); {last}",
            "free some space or check the disk, then give the same command again",
        )


def save_state(
    directory: str | Path,
    step: int,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    *,
    keep: int = 2,
    score: float | None = None,
) -> Path:
    """Write a state and remove the oldest ones.

    Args:
        directory: folder of all states of a run.
        step: updates that were done.
        tensors: by name, on any device.
        meta: values that JSON can hold.
        keep: how many states stay, at least 1; the one of the lowest score stays too.
        score: how good the state is, lower is better; None where nobody looked.

    Returns:
        the folder of the state.

    Raises:
        UnsavedStateError: when it cannot be written; what was there before stays.
    """
    directory = Path(directory)
    hidden = directory / f"{_HIDDEN}{step:08d}-{os.getpid()}"
    final = directory / f"step-{step:08d}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.glob(f"{_HIDDEN}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        hidden.mkdir()
        _write(hidden, step, tensors, dict(meta), score)
        if final.exists():  # a run that repeats this step after it could not read the state
            final.replace(directory / f"{_HIDDEN}old-{step:08d}")
        hidden.replace(final)
        sync(directory)
    except Exception as error:  # libraries wrap a full disk in errors of their own
        shutil.rmtree(hidden, ignore_errors=True)
        raise UnsavedStateError(directory, step, " ".join(str(error).split())) from error
    shutil.rmtree(directory / f"{_HIDDEN}old-{step:08d}", ignore_errors=True)
    states = list_states(directory)
    best = best_state(directory)
    for old in states[: -max(keep, 1)]:
        if old != best:
            shutil.rmtree(old)
    return final


def _write(
    folder: Path, step: int, tensors: Mapping[str, Tensor], meta: dict[str, Any], score: Any
) -> None:
    from safetensors.torch import save_file

    save_file(_separate(tensors), folder / STATE_FILE, metadata={"format": "pt"})
    content = {"step": step, "score": score, "sha256": sha256(folder / STATE_FILE), "meta": meta}
    content["checksum"] = _digest(content)
    (folder / META_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for path in (folder / STATE_FILE, folder / META_FILE, folder):
        sync(path)


def _digest(content: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


class StateWriter:
    """Writes states on a thread of its own; whoever trains waits for the copy in memory only.

    Args:
        directory: folder of all states of a run.
        keep: how many states stay.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory, self.keep = directory, keep
        self._thread: Thread | None = None
        self._error: Exception | None = None

    @property
    def busy(self) -> bool:
        """Whether a state is being written."""
        return self._thread is not None and self._thread.is_alive()

    def write(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        score: float | None = None,
    ) -> None:
        """Copy a state and have it written; waits for the one before, if it is still at work.

        Raises:
            UnsavedStateError: of the state before.
        """
        self.wait()
        copies = {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
        self._thread = Thread(
            target=self._work, args=(step, copies, dict(meta), score), name="mimkit-state-writer"
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until the state is on disk.

        Raises:
            UnsavedStateError: when it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise what went wrong with a state that is no longer being written, once."""
        if self._error is not None and not self.busy:
            error, self._error = self._error, None
            raise error

    def _work(
        self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any], score: float | None
    ) -> None:
        try:
            save_state(self.directory, step, tensors, meta, keep=self.keep, score=score)
        except Exception as error:
            self._error = error


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


def best_state(directory: str | Path) -> Path | None:
    """Return the folder of the state with the lowest score; None when none has one."""
    scored = []
    for path in list_states(directory):
        try:
            score = json.loads((path / META_FILE).read_text(encoding="utf-8")).get("score")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(score, int | float):
            scored.append((score, path))
    return min(scored, default=(0, None), key=lambda pair: pair[0])[1]


def load_latest(directory: str | Path) -> RunState | None:
    """Return the newest state that is whole; None when there is none at all.

    Raises:
        WeightsError: when there are states but every one is damaged.
    """
    states = list_states(directory)
    damaged: list[Path] = []
    for path in reversed(states):
        state = read_state(path)
        if state is not None:
            return replace(state, damaged=tuple(damaged))
        damaged.append(path)
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
        if content["checksum"] != _digest(content):
            return None
        if sha256(path / STATE_FILE) != content["sha256"]:
            return None
        tensors = read_tensors(path / STATE_FILE)
        return RunState(path, int(content["step"]), tensors, content["meta"])
    except (OSError, ValueError, KeyError, TypeError, WeightsError):
        return None
