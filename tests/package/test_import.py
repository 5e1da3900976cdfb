"""Importing: where the parts come from, what the face loads, and that its table is right."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest

import mimkit

PARTS = ("core", "datasets", "domains", "pipelines")
HEAVY = {
    *("torch", "timm", "monai", "rasterio", "deepspeed", "albumentations", "zarr", "numpy"),
    *("scipy", "skimage", "sklearn", "pyarrow", "duckdb", "dask", "distributed", "matplotlib"),
    *("tyro", "rich", "yaml", "safetensors", "torchmetrics", "nibabel", "jaxtyping"),
}

MEASURE = """
import json, sys, time
before = set(sys.modules)
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
print("RESULT" + json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


def loaded_by(statement: str) -> tuple[float, list[str]]:
    """Return the seconds of a statement in a fresh interpreter, and the modules it loads."""
    code = MEASURE.format(statement=statement)
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    seconds, modules = json.loads(printed.rpartition("RESULT")[2])
    return seconds, modules


@pytest.mark.parametrize("part", PARTS)
def test_the_editable_install_is_the_checkout(part: str, repository: Path) -> None:
    file = import_module(f"mimkit.{part}").__file__
    assert file is not None
    assert Path(file).resolve() == repository / part / "__init__.py"


def test_the_editable_install_has_the_face_and_the_command(repository: Path) -> None:
    assert mimkit.__file__ is not None
    assert Path(mimkit.__file__).resolve() == repository / "mimkit" / "__init__.py"
    (command,) = metadata.entry_points(group="console_scripts", name="mimkit")
    assert command.value == "mimkit.__main__:main"
    assert Path(sys.executable).with_name("mimkit").is_file()


def test_the_two_places_of_the_version_agree() -> None:
    assert metadata.version("mimkit") == mimkit.__version__


@pytest.mark.parametrize(
    "statement",
    [
        "import mimkit",
        "import mimkit.__main__",
        "import mimkit.pipelines.cli as c; assert c.main(['--help']) == 0",
        "import mimkit.pipelines.cli as c; assert c.main(['--version']) == 0",
    ],
)
def test_the_face_is_light(statement: str) -> None:
    # The fastest of three: a busy machine may stall one of them for any time.
    measured = [loaded_by(statement) for _ in range(3)]
    modules = measured[0][1]
    assert not HEAVY & {name.partition(".")[0] for name in modules}
    assert len(modules) < 100
    assert min(seconds for seconds, _ in measured) < 1


def test_public_names_are_those_that_type_checkers_see(repository: Path) -> None:
    tree = ast.parse((repository / "mimkit" / "__init__.py").read_text())
    (guarded,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imports = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.asname or alias.name: node.module for node in imports for alias in node.names}
    assert seen == mimkit._HOMES


def test_public_names_exist_and_are_listed() -> None:
    for name in mimkit.__all__:
        assert getattr(mimkit, name) is not None
    assert set(mimkit.__all__) <= set(dir(mimkit))
    with pytest.raises(AttributeError, match="nonsense"):
        mimkit.nonsense  # noqa: B018
