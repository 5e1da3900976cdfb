"""The benchmark of sliding windows gives both sides the same work and looks at both memories."""

from __future__ import annotations

import pytest
import torch

from mimkit.pipelines.benchmarks import sliding
from mimkit.pipelines.benchmarks.config import BenchmarkConfig
from mimkit.pipelines.benchmarks.sliding import MONAI, OURS, labels_by, measure


def test_both_sides_give_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding, "WINDOW", (8, 12, 12))
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, sliding.NUM_CLASSES, 3, padding=1)
    volume = torch.randn(1, 14, 20, 31)
    ours, theirs = (labels_by(side, volume, network) for side in (OURS, MONAI))
    assert len(ours.unique()) > 5
    # Rounding decides where two classes are equally likely.
    assert (ours != theirs).float().mean() < 1e-3


def test_the_table_has_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding, "Network", lambda: torch.nn.Conv3d(1, sliding.NUM_CLASSES, 1))
    monkeypatch.setattr(sliding, "TIMED", (96, 96, 100))
    seen = []

    def in_child(work, side, shape, threads):
        seen.append((work, side, shape, threads))
        return {OURS: (100, 1.0), MONAI: (400, 2.0)}[side]

    monkeypatch.setattr(sliding, "in_child", in_child)
    table = measure(BenchmarkConfig(seconds=0.1), torch.device("cpu"))
    assert [row["side"] for row in table.rows] == [OURS, MONAI]
    assert [shape for _, _, shape, _ in seen] == [(600, 512, 512)] * 2
    assert (table.goals[1].measured, table.goals[1].met) == ("0.25 of it", True)
