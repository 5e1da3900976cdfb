"""The wheel: whole, without tests, and usable in an environment that has no developers' tools."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOTS = ("core", "datasets", "domains", "pipelines")
FOLDERS = ("mimkit", *ROOTS, "tests", "docs")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "constraints.txt", "Makefile")
# The developers' tools and what is optional must not be needed to import the package.
OPTIONAL = ("lightly", "basedpyright", "beartype", "build", "hypothesis", "importlinter", "onnx")
OPTIONAL += ("onnxruntime", "pytest", "ruff", "wheel", "xdist")

IMPORT_ALL = """
import json, pkgutil, sys, traceback
from importlib import import_module
for name in {optional!r}:
    sys.modules[name] = None  # importing it fails, as where it is not installed
import mimkit
failed, files = {{}}, {{"mimkit": mimkit.__file__}}
def note(name):
    failed[name] = traceback.format_exc()
for module in pkgutil.walk_packages(mimkit.__path__, "mimkit.", onerror=note):
    try:
        files[module.name] = import_module(module.name).__file__
    except BaseException:
        note(module.name)
print("RESULT" + json.dumps([failed, files]))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it printed; its complaints become the test's."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def python_of(environment: Path) -> Path:
    return environment / "bin" / "python"


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that nothing of an older build slips in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in FOLDERS:
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / name, source / name, ignore=unwanted)
    for name in FILES:
        shutil.copy(repository / name, source / name)
    options = ("--wheel", "--no-isolation", "--outdir", folder)
    run(sys.executable, "-m", "build", *options, source, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment with the wheel that borrows everything else from this one.

    Folders that a .pth file names are searched, but their own .pth files do not run, so the
    editable install of this environment stays out.
    """
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", str(python_of(folder)))
    options = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    run(*pip, "install", *options, wheel, cwd=folder)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder


def modules_of(repository: Path) -> set[str]:
    """Return the names of all modules of the checkout, as they are called when installed."""
    found = set()
    for root in ("mimkit", *ROOTS):
        prefix = () if root == "mimkit" else ("mimkit",)
        for path in (repository / root).rglob("*.py"):
            parts = (*prefix, *path.relative_to(repository).with_suffix("").parts)
            found.add(".".join(parts).removesuffix(".__init__"))
    return found


def test_the_wheel_holds_every_module_and_all_data(wheel: Path, repository: Path) -> None:
    names = {PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()}
    packed = {name for name in names if not name.parts[0].endswith(".dist-info")}
    expected = set()
    for root in ("mimkit", *ROOTS):
        home = PurePosixPath("mimkit") if root == "mimkit" else PurePosixPath("mimkit") / root
        for path in (repository / root).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add(home / path.relative_to(repository / root).as_posix())
    assert packed == expected
    assert any(name.suffix == ".yaml" for name in packed)
    assert PurePosixPath("mimkit/py.typed") in packed


def test_the_wheel_holds_no_tests_and_states_its_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if "test" in PurePosixPath(name).name.split("_")[0]]
    assert {PurePosixPath(name).parts[0].split("-")[0] for name in names} == {"mimkit"}
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_every_module_imports_from_the_wheel(environment: Path, repository: Path) -> None:
    code = IMPORT_ALL.format(optional=OPTIONAL)
    printed = run(python_of(environment), "-I", "-c", code, cwd=environment)
    failed, files = json.loads(printed.rpartition("RESULT")[2])
    assert not failed, "\n".join(f"{name}: {trace}" for name, trace in failed.items())
    assert set(files) == modules_of(repository)
    assert [f for f in files.values() if not Path(f).is_relative_to(environment)] == []


def test_the_installed_command_runs(environment: Path, repository: Path) -> None:
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    for command in ([environment / "bin" / "mimkit"], [python_of(environment), "-m", "mimkit"]):
        assert run(*command, "--version", cwd=environment) == f"mimkit {version}\n"
