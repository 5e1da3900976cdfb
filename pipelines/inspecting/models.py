"""Model directories and runs: what was trained, how far, on what, and whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...core.checkpoints.model_dir import (
    CONFIG_FILE,
    DECODER_FILE,
    ENCODER_FILE,
    check_fit,
    read_config,
    sha256,
)
from ...core.checkpoints.run_state import list_states
from ...core.config_tree import from_plain
from ...core.encoders.contract import Encoder
from ...core.errors import UserError, WeightsError
from ...core.grid import Grid
from ...core.methods import MethodConfig, build, spec
from ...domains.domain import get_domain
from ..reporting.facts import RunFacts, read_facts
from ..run_folder import RunFolder
from .description import Description, Table
from .stores import bands_table
from .weights import TensorFact, read_shapes

_LOGGED = (
    *("step", "epoch", "loss", "lr", "grad_norm", "images_per_s", "tokens_per_s"),
    *("mfu", "data_wait", "memory_mb"),
)


def is_model(path: Path) -> bool:
    """Return whether a folder is a model directory, or what is left of one."""
    return (path / ENCODER_FILE).exists() or _has_method(path)


def _has_method(path: Path) -> bool:
    try:
        return "method" in json.loads((path / CONFIG_FILE).read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def describe_model(path: Path) -> Description:
    """Describe a model directory; weights are compared with their checksums and the method.

    Raises:
        WeightsError: when config.json is missing or describes no method.
    """
    content = read_config(path)
    try:
        config: MethodConfig = from_plain(MethodConfig, content["method"], "method")
        grid: Grid = from_plain(Grid, content["grid"], "grid")
        checksums: dict[str, str] = dict(content["sha256"])
        row = spec(config.name)
    except (UserError, KeyError, TypeError, ValueError) as error:
        reason = f"does not describe a method ({error})"
        raise WeightsError(path / CONFIG_FILE, reason, "export the model again") from error
    weights = {name: weight_state(path / name, checksums[name]) for name in checksums}
    shapes = {name: read_shapes(path / name) for name, state in weights.items() if state == "whole"}
    problems = [f"{name} is {state}" for name, state in weights.items() if state != "whole"]
    if {ENCODER_FILE, DECODER_FILE} <= set(shapes):
        problems += _misfits(path, config, grid, shapes)
    normaliser, extra = content.get("normaliser") or {}, content.get("extra") or {}
    task = extra.get("task") or {}
    millions = {name: sum(t.size for t in tensors) / 1e6 for name, tensors in shapes.items()}
    with torch.device("meta"):
        encoder = build(config, grid).encoder
    facts: dict[str, Any] = {
        "method": f"{config.name} ({row.source})",
        "encoder": encoder_in_words(encoder),
        "images": f"{' x '.join(map(str, grid.image_size))} pixels, {grid.channels} channels",
        "patch": list(grid.patch),
        "tokens": grid.num_tokens,
        "millions of numbers": millions,
        "input": input_in_words(normaliser),
        "task": task.get("task", "none: pre-trained only"),
    }
    if task.get("classes"):
        facts["classes"] = task["classes"]
    facts |= {f"trained on: {key}": value for key, value in _data(path).items()}
    what = "a model for " + str(task["task"]) if task else "a pre-trained model"
    summary = f"{path}: {what}, {config.name}, encoder {encoder.embed_dim} wide."
    table = Table("weights", ("file", "state"), tuple(weights.items()))
    bands = bands_table("normaliser", normaliser)
    return Description("model", path, summary, facts, (table, bands), problems=tuple(problems))


def encoder_in_words(encoder: Encoder) -> str:
    """Return the kind and the size of an encoder."""
    kind, heads = type(encoder).__name__, getattr(encoder, "num_heads", None)
    more = f", {heads} heads" if isinstance(heads, int) else ""
    return f"{kind}, {encoder.embed_dim} wide, {encoder.depth} blocks{more}"


def weight_state(path: Path, checksum: str) -> str:
    """Return "whole", "missing" or "changed since it was written"."""
    if path.parent / path.name != path or not path.is_file():
        return "missing"
    return "whole" if sha256(path) == checksum else "changed since it was written"


def _misfits(
    path: Path, config: MethodConfig, grid: Grid, shapes: Mapping[str, list[TensorFact]]
) -> list[str]:
    """Return what is wrong when weights and method do not fit; nothing is loaded for it."""
    with torch.device("meta"):
        own = build(config, grid).state_dict()
        state = {f"encoder.{t.name}": torch.empty(t.shape) for t in shapes[ENCODER_FILE]}
        state |= {t.name: torch.empty(t.shape) for t in shapes[DECODER_FILE]}
    try:
        check_fit(state, own, path)
    except WeightsError as error:
        return [str(error)]
    return []


def input_in_words(normaliser: Mapping[str, Any]) -> str:
    """Return what images a model takes."""
    if not normaliser:
        return "no normaliser: pixels cannot be turned into its input"
    try:
        domain = get_domain(str(normaliser.get("domain")))
        return domain.describe(domain.normaliser(normaliser))
    except UserError as error:
        return str(error)


def _data(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads((path / "data.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return plain if isinstance(plain, dict) else {}


def is_run(path: Path) -> bool:
    """Return whether a folder is that of a run."""
    return (path / "run.json").exists()


def describe_run(path: Path) -> Description:
    """Describe the folder of a run.

    Raises:
        DataError: when run.json or the log cannot be read.
    """
    run = read_facts(path)
    facts: dict[str, Any] = {
        "kind": run.kind,
        "method": _method(run),
        "state": "finished" if run.finished else "not finished",
        "epochs": f"{run.epochs_done:g} of {run.num_epochs}",
        "steps": run.last_step,
        "hours of training": run.seconds / 3600,
        "batch": run.recipe.get("batch_size"),
        "store": run.data.get("group"),
        "split": run.data.get("split"),
        "states": [state.name for state in list_states(RunFolder(path).checkpoints)],
        "model": run.model if run.finished else None,
    }
    if run.scores is not None:
        facts["test scores"] = {k: v for k, v in run.scores.items() if isinstance(v, int | float)}
    problems = []
    if run.bad_step is not None:
        problems.append("a loss was not finite; nonfinite.json names the samples of that step")
    notes = [] if run.finished else ["the command that was writing it, given again, continues it"]
    done = "finished" if run.finished else f"at epoch {run.epochs_done:g} of {run.num_epochs}"
    summary = f"{path}: a {run.kind} run, {done}."
    table = log_table(run)
    return Description("run", path, summary, facts, (table,), tuple(notes), tuple(problems))


def _method(run: RunFacts) -> str | None:
    method = run.recipe.get("method")
    return method.get("name") if isinstance(method, Mapping) else None


def log_table(run: RunFacts) -> Table:
    """Return what the log said first and last, and the last look at held-out samples."""
    columns, rows = ("number", "first", "last"), []
    if run.steps:
        first, last = run.steps[0], run.steps[-1]
        rows = [(name, first.get(name), last.get(name)) for name in _LOGGED]
        terms = first.get("terms", {}), last.get("terms", {})
        rows += [(f"loss of {name}", terms[0].get(name), terms[1][name]) for name in terms[1]]
    if run.looks:
        first, last = run.looks[0]["val"], run.looks[-1]["val"]
        rows += [(f"held out: {name}", first.get(name), last[name]) for name in last]
    return Table("log", columns, tuple(rows))
