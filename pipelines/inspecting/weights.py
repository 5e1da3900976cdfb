"""Weight files and states of runs: names, shapes and sizes; no code from a file is run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from ...core.checkpoints.model_dir import CONFIG_FILE, sha256
from ...core.checkpoints.reading import read_tensors
from ...core.checkpoints.run_state import META_FILE, STATE_FILE
from ...core.errors import UserError, WeightsError
from .description import Description, Table

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")


@dataclass(frozen=True)
class TensorFact:
    """A tensor as its file describes it.

    Attributes:
        name: its name.
        shape: its shape.
        dtype: its number type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_shapes(path: Path) -> list[TensorFact]:
    """Return names and shapes of the tensors in a file; of safetensors only the head is read.

    Raises:
        WeightsError: when the file is broken, holds code, or holds no tensors.
    """
    if path.suffix != ".safetensors":
        tensors = read_tensors(path)
        return [
            TensorFact(name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
            for name, value in tensors.items()
        ]
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.offset_keys()}
            return [
                TensorFact(name, tuple(part.get_shape()), part.get_dtype())
                for name, part in parts.items()
            ]
    except (SafetensorError, OSError, ValueError) as error:
        reason = f"is not a whole safetensors file ({' '.join(str(error).split())})"
        raise WeightsError(path, reason, "copy or download it again") from error


def tensor_table(tensors: list[TensorFact]) -> Table:
    """Return one row per tensor."""
    rows = tuple((t.name, " x ".join(map(str, t.shape)), t.dtype, t.size) for t in tensors)
    return Table("tensors", ("name", "shape", "dtype", "numbers"), rows)


def describe_weights(path: Path) -> Description:
    """Describe a file of weights.

    Raises:
        WeightsError: when it is broken, holds code, or holds no tensors.
    """
    tensors = read_shapes(path)
    total = sum(tensor.size for tensor in tensors)
    facts = {
        "tensors": len(tensors),
        "millions of numbers": total / 1e6,
        "number types": sorted({tensor.dtype for tensor in tensors}),
        "MB on disk": round(path.stat().st_size / 1e6, 3),
    }
    summary = f"{path}: a file of weights, {len(tensors)} tensors of {total / 1e6:.1f} M numbers."
    notes = []
    if (path.parent / CONFIG_FILE).exists():
        notes.append(f"it is a part of a model: `mimkit inspect {path.parent}` tells more")
    elif fitting := published(tensors):
        names = " or ".join(fitting)
        notes.append(f"it fits published {names}: `mimkit import` turns it into a model")
    return Description("weights", path, summary, facts, (tensor_table(tensors),), tuple(notes))


def published(tensors: list[TensorFact]) -> list[str]:
    """Return the methods whose published checkpoints have these names and shapes.

    Those that a file fills completely hide those of which it is only the encoder: many methods
    have the same one.
    """
    import torch

    from ...core.checkpoints.published import fresh_parts, import_published
    from ...core.methods import METHODS

    whole, encoder = [], []
    with torch.device("meta"):  # shapes are compared, nothing is loaded
        state = {tensor.name: torch.empty(tensor.shape) for tensor in tensors}
        for name in METHODS:
            try:
                imported = import_published(state, name, allow_partial=True)
            except UserError:
                continue
            (encoder if fresh_parts(imported.fates) else whole).append(name)
    return whole or encoder


def is_state(path: Path) -> bool:
    """Return whether a folder is a saved state of a run."""
    return (path / STATE_FILE).exists() and (path / META_FILE).exists()


def describe_state(path: Path) -> Description:
    """Describe a saved state of a run.

    Raises:
        WeightsError: when its description or its tensors cannot be read.
    """
    try:
        content = json.loads((path / META_FILE).read_text("utf-8"))
        step, meta, checksum = content["step"], content["meta"], content["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"cannot be read ({error!r})"
        raise WeightsError(path / META_FILE, reason, "use an older state of the run") from error
    problems = []
    if sha256(path / STATE_FILE) != checksum:
        problems.append(f"{STATE_FILE} is damaged: a run that continues uses an older state")
    tensors = [] if problems else read_shapes(path / STATE_FILE)
    summary = f"{path}: a saved state of a run, after {step} steps."
    facts = {"steps": step, "tensors": len(tensors)}
    facts |= {f"meta: {key}": value for key, value in meta.items()}
    return Description(
        "state", path, summary, facts, (tensor_table(tensors),), problems=tuple(problems)
    )
