"""Running `mimkit inspect` in tests: the page and the JSON must say the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimkit.datasets.store import StoreMeta
from mimkit.pipelines.cli import main

Look = Callable[..., tuple[int, dict[str, Any]]]
Refused = Callable[..., str]

META = StoreMeta(
    domain="satellite",
    sensor="toy",
    bands=("red", "nir"),
    size=(8, 8),
    dtype="uint8",
    scale=(0.5, 0.5),
    offset=(0.0, 0.0),
    num_samples=4,
    shard=2,
    units="reflectance",
)


def look(capsys: pytest.CaptureFixture[str], path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Inspect a path; return exit code and JSON, after comparing it with the page."""
    code = main(["inspect", str(path), *words])
    page = capsys.readouterr().out
    assert main(["inspect", str(path), "--json", *words]) == code
    found = json.loads(capsys.readouterr().out)
    flat = "".join(page.split())
    for text in (found["summary"], *found["facts"], *found["notes"], *found["problems"]):
        assert "".join(text.split()) in flat
    return code, found


def refused(capsys: pytest.CaptureFixture[str], path: Path, *words: str, code: int = 1) -> str:
    """Inspect a path that cannot be described; return the one sentence."""
    assert main(["inspect", str(path), *words]) == code
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err
