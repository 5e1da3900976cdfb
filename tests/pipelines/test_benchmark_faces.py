"""The benchmark of curating faces runs from the command line and times every stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mimkit.pipelines.cli import main


def test_stages_are_timed(tmp_path: Path) -> None:
    pytest.importorskip("facenet_pytorch")
    words = ["benchmark", "faces", "--seconds", "0.1", "--num-threads", "1"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    table = json.loads((tmp_path / "benchmark.json").read_text())["parts"]["faces"]
    rates = {row["stage"]: row["faces per second and core"] for row in table["rows"]}
    assert list(rates)[:3] == ["decode", "detect", "crop"]
    assert rates["all"] == pytest.approx(1 / sum(1 / v for k, v in rates.items() if k != "all"))
    assert rates["all"] < min(rate for name, rate in rates.items() if name != "all")
