"""Reading tensors from files that are not trusted: weights only, never code."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import WeightsError

State = dict[str, Tensor]
_WRAPPERS = ("model", "state_dict", "module")
_PREFIXES = ("module.", "_orig_mod.")


def read_tensors(path: str | Path) -> State:
    """Read a safetensors file or a torch checkpoint, without executing code from it.

    Nested wrappers (`{"model": ...}`) and distributed prefixes (`module.`) are removed.

    Raises:
        WeightsError: when the file is missing, broken, holds code, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(path, "is not a file", "check the path")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        # Training scripts store their command line beside the weights; a Namespace is only data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            path,
            "holds more than tensors, and code from a file is never run",
            "ask its author for a safetensors file, or save only its tensors with torch.save",
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise WeightsError(
            path, f"cannot be read as weights ({_first_line(error)})", "copy or download it again"
        ) from error
    return flatten_state(content, path)


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return flatten_state(load_file(path), path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            path,
            f"is not a whole safetensors file ({_first_line(error)})",
            "copy or download it again",
        ) from error


def flatten_state(content: object, path: str | Path) -> State:
    """Unwrap a loaded checkpoint into named tensors.

    Raises:
        WeightsError: when there are none.
    """
    for _ in range(len(_WRAPPERS)):
        if isinstance(content, Mapping):
            inner = [content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)]
            content = inner[0] if inner else content
    tensors = content if isinstance(content, Mapping) else {}
    state = {str(k): v for k, v in tensors.items() if isinstance(v, Tensor)}
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): v for name, v in state.items()}
    if not state:
        raise WeightsError(path, "holds no named tensors", "point to a checkpoint of a model")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:160]
