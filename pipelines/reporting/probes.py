"""The probe table of a report: measured now, or read from `mimkit evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...core.config_tree import from_plain
from ...core.errors import UsageError
from ...datasets.errors import DataError
from ..evaluate import RANDOM, EvaluateConfig, Evaluation, evaluate, reconstruction_text
from ..probing import ProbeScore
from .blocks import Block, Cell, Table, Text

MODEL = "model"
_SMALL = 0.005  # differences below this say nothing, whatever the spread


def read_evaluation(path: Path) -> Evaluation:
    """Read what `mimkit evaluate` wrote.

    Raises:
        DataError: when it is missing or something else.
    """
    file = path / "evaluation.json" if path.is_dir() else path
    try:
        return from_plain(Evaluation, json.loads(file.read_text(encoding="utf-8")), str(file))
    except (OSError, ValueError, UsageError) as error:
        reason = f"is not what `mimkit evaluate` writes ({error})"
        raise DataError(file, reason, "give OUT/evaluation.json") from error


def measure(
    model: Path, data: Path, group: str | None, device: str, seed: int, *, reconstruct: int = 16
) -> Evaluation:
    """Measure a model with small settings: enough to see whether it learned something.

    Raises:
        UsageError: without labelled samples in the splits train and test.
    """
    config = EvaluateConfig(
        model=model,
        data=data,
        out=Path(),
        group=group,
        draws=3,
        random_seeds=2,
        max_tokens=4000,
        reconstruct=reconstruct,
        seed=seed,
        device=device,
    )
    return evaluate(config)


def line_of(
    probes: Sequence[ProbeScore], features: str, probe: str = "linear"
) -> ProbeScore | None:
    """Return the line of one kind of features with all labels."""
    chosen = (p for p in probes if (p.features, p.probe, p.labels) == (features, probe, None))
    return next(chosen, None)


def others(found: Evaluation, probe: str) -> list[ProbeScore]:
    """Return the lines that a model is compared with, all labels."""
    names = dict.fromkeys(p.features for p in found.probes if p.features != MODEL)
    lines = (line_of(found.probes, name, probe) for name in names)
    return [line for line in lines if line is not None]


def difference(model: ProbeScore, other: ProbeScore) -> tuple[float, int]:
    """Return by how much the model's balanced accuracy is higher, and whether that says something.

    Returns:
        the difference; and 1 for better, -1 for worse, 0 within the spread of both.
    """
    found = model.balanced - other.balanced
    spread = max(_SMALL, model.balanced_std + other.balanced_std)
    return found, 0 if abs(found) <= spread else (1 if found > 0 else -1)


def in_words(model: ProbeScore, other: ProbeScore) -> str:
    """Say in words how the model compares with other features."""
    found, sign = difference(model, other)
    word = {1: "better than", 0: "about the same as", -1: "worse than"}[sign]
    return f"{word} {other.features} ({other.balanced:.3f}, difference {found:+.3f})"


def against_random(found: Evaluation) -> dict[str, int]:
    """Return per probe whether the model is better (1), the same (0) or worse (-1) than random."""
    signs = {}
    for probe in dict.fromkeys(p.probe for p in found.probes):
        model, random = (line_of(found.probes, name, probe) for name in (MODEL, RANDOM))
        if model is not None and random is not None:
            signs[probe] = difference(model, random)[1]
    return signs


def probe_blocks(found: Evaluation) -> tuple[Block, ...]:
    """Return the table and what it is about."""
    blocks: list[Block] = []
    if found.probes:
        text = (
            f"Frozen encoder, {found.num_train} labelled {found.unit}s to learn from and "
            f"{found.num_test} to test on ({', '.join(found.classes)}). Balanced accuracy is the "
            "mean over classes of the share that was found. The network with random weights and "
            "the band means show what the task gives away for free."
        )
        blocks += [Text(text), _table(found)]
    else:
        blocks.append(Text("The store has no labels, so there are no probes."))
    if found.reconstruction is not None:
        blocks.append(Text(reconstruction_text(found.reconstruction)))
    return tuple(blocks)


def _table(found: Evaluation) -> Table:
    amounts = dict.fromkeys(p.labels for p in found.probes)
    columns = [
        (probe, labels)
        for labels in sorted(amounts, key=lambda n: (n is not None, n or 0))
        for probe in dict.fromkeys(p.probe for p in found.probes)
    ]
    scores = {(p.features, p.probe, p.labels): p for p in found.probes}
    names = list(dict.fromkeys(p.features for p in found.probes))
    best = {
        column: max(scores[name, *column].balanced for name in names if (name, *column) in scores)
        for column in columns
    }
    rows = []
    for name in names:
        cells = [_cell(scores.get((name, *column)), best[column]) for column in columns]
        rows.append((Cell(name, strong=name == MODEL), *cells))
    head = [f"{probe}, {'all labels' if n is None else f'{n} a class'}" for probe, n in columns]
    return Table(
        ("features", *head), tuple(rows), "Balanced accuracy on the test split; best in bold"
    )


def _cell(score: ProbeScore | None, best: float) -> Cell:
    if score is None:
        return Cell("–")
    spread = f" ± {score.balanced_std:.3f}" if score.num_draws > 1 else ""
    return Cell(f"{score.balanced:.3f}{spread}", strong=score.balanced == best)
