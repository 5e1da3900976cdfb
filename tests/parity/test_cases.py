"""Published implementations, as far as their methods are implemented here."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
METHODS = tuple(importlib.import_module("adapters").ADAPTERS)


@pytest.fixture(scope="module")
def cases(samples: Path) -> Path:
    return samples.parent / "parity" / "cases"


def run_cases(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "run.py"), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_all_cases_of_implemented_methods_agree(cases: Path) -> None:
    every = sorted(cases.glob("*.json"))
    ours = [p for p in every if json.loads(p.read_text())["method"] in METHODS]
    assert len(ours) >= len(METHODS)
    result = run_cases(*ours)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", METHODS)
def test_a_wrong_number_is_found(cases: Path, name: str, tmp_path: Path) -> None:
    every = map(json.loads, (path.read_text() for path in sorted(cases.glob("*.json"))))
    case = next(case for case in every if case["method"] == name)
    spoiled = copy.deepcopy(case)
    numbers = [k for k, value in case["outputs"].items() if isinstance(value, float)]
    key = next(k for k in numbers if "loss" in k)
    spoiled["outputs"][key] *= 1.001
    norms = [k for k in numbers if "grad_norm" in k]
    grad = max(norms, key=lambda name: case["outputs"][name])  # far above the absolute tolerance
    spoiled["outputs"][grad] *= 1.001
    path = tmp_path / "spoiled.json"
    path.write_text(json.dumps(spoiled))
    result = run_cases(path)
    assert result.returncode == 1
    assert key in result.stdout
    assert grad in result.stdout
    assert result.stdout.count("expected") == 2


def test_an_unknown_method_is_a_failure(cases: Path, tmp_path: Path) -> None:
    case = json.loads((cases / "mae.a.json").read_text()) | {"method": "no-such-method"}
    path = tmp_path / "unknown.json"
    path.write_text(json.dumps(case))
    result = run_cases(path)
    assert result.returncode == 1
    assert "not implemented" in result.stdout
