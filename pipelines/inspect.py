"""`mimkit inspect`: say what is at a path, whatever it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..core.errors import UsageError
from ..datasets.errors import DataError
from .inspecting.description import Description, show
from .progress import say


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Describe what is at a path: scenes, volumes, a curated store, a model, a run, or weights.

    Nothing is changed and no code from a file is run. The exit code is 1 when something is wrong
    with what is there.
    """

    path: tyro.conf.Positional[Path]
    """File or folder."""
    array_spec: Path | None = None
    """JSON file that says what is in .npy and .npz files that have no such file beside them."""
    rows: int = 40
    """Rows of a table that are shown."""
    json: bool = False
    """Print everything as JSON for programs."""


def run(config: InspectConfig) -> int:
    """Describe a path.

    Returns:
        1 when something is wrong with it, else 0.

    Raises:
        UsageError: for a number of rows below 1.
        DataError: when there is nothing, or nothing that is known.
        WeightsError: for weights that cannot be read or trusted.
    """
    if config.rows < 1:
        raise UsageError(f"rows {config.rows}", "is below 1", "use 1 or more")
    description = describe(config.path, config.array_spec)
    if config.json:
        say(json.dumps(description.plain(), indent=1, allow_nan=False))
    else:
        show(description, config.rows)
    return int(bool(description.problems))


def describe(path: Path, array_spec: Path | None = None) -> Description:
    """Return what is at a path.

    Args:
        path: file or folder.
        array_spec: describes arrays that have no JSON file beside them.

    Raises:
        DataError: when there is nothing, it cannot be read, or it is nothing that is known.
        WeightsError: for weights that cannot be read or trusted.
    """
    if not path.exists():
        raise DataError(path, "does not exist", "check the path")
    found = _folder(path, array_spec) if path.is_dir() else _file(path, array_spec)
    if found is None:
        raise DataError(path, "is not something that can be described", _remedy(path))
    return found


def _remedy(path: Path) -> str:
    """Return what to do about a path that is nothing by itself."""
    from .inspecting.models import is_model, is_run
    from .inspecting.stores import is_curated
    from .inspecting.weights import is_state

    parent = path.absolute().parent
    if any(test(parent) for test in (is_run, is_state, is_model, is_curated)):
        return f"it is a part of {parent}: inspect that"
    if path.suffix in (".yaml", ".yml"):
        return "`mimkit recipe show` tells about a recipe"
    return "give a scene, a volume, a curated store, a model, a run or a file of weights"


def _folder(path: Path, array_spec: Path | None) -> Description | None:
    from .inspecting.models import describe_model, describe_run, is_model, is_run
    from .inspecting.scenes import describe_scenes
    from .inspecting.stores import describe_store, is_curated
    from .inspecting.weights import describe_state, is_state

    # A run holds a model and states, so it is looked for first.
    if is_run(path):
        return describe_run(path)
    if is_state(path):
        return describe_state(path)
    if is_model(path):
        return describe_model(path)
    if is_curated(path):
        return describe_store(path)
    return describe_scenes(path, array_spec) or _volumes(path)


def _file(path: Path, array_spec: Path | None) -> Description | None:
    from ..datasets.readers.arrays import ARRAY_SUFFIXES
    from ..datasets.readers.discover import IMAGE_SUFFIXES
    from .inspecting.weights import WEIGHT_SUFFIXES, describe_weights

    suffix = path.suffix.lower()
    if suffix in WEIGHT_SUFFIXES:
        return describe_weights(path)
    if suffix in (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES):
        from .inspecting.scenes import describe_scenes

        return describe_scenes(path, array_spec)
    return _volumes(path)


def _volumes(path: Path) -> Description | None:
    from .inspecting.volumes import describe_volumes

    return describe_volumes(path)
