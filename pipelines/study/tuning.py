"""Fine-tuning runs of a study: plain data in, test scores out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...core.config_tree import from_plain, to_plain
from ...core.heads.task import Task
from ..efficiency import Efficiency
from ..finetune import FinetuneConfig
from ..finetune import run as finetune
from .units import Numbers, Unit, run_path

Start = Literal["pre-trained", "scratch"]
STARTS: tuple[Start, ...] = ("pre-trained", "scratch")
RATES = (2e-3, 8e-3)
"""Learning rates per 256 samples that each side chooses from, on validation rows."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A fine-tuning run.

    Args:
        data: store, below the study's folder.
        model: model directory of pre-training, below the study's folder; a run from scratch takes
            network and normaliser from it, and nothing else.
        task: what the labels belong to.
        start: where the weights come from.
        labels: labelled samples a class, None for all.
        epochs: times that the samples are visited.
        batch_size: samples per update.
        rate: learning rate per 256 samples.
        seed: of everything random.
        judge: split that is scored.
    """

    data: str
    model: str
    task: Task
    start: Start
    labels: int | None
    epochs: int
    batch_size: int
    rate: float
    seed: int
    judge: Literal["val", "test"] = "test"

    def unit(self, part: str, name: str) -> Unit:
        """Return the run as a piece of the study."""
        return Unit(part, name, "tuning:tune", {"tuning": to_plain(self)})

    def folder(self, work: Path) -> Path:
        """Return the folder of the run."""
        return run_path(work, f"tuned-{self.data}-{self.start}-{self.seed}", to_plain(self))


def tune(work: Path, tuning: Mapping[str, Any]) -> Numbers:
    """Fine-tune once and return the scores of the judged split.

    From scratch all layers learn at one rate; a pre-trained encoder has layer decay, as published.
    """
    wanted: Tuning = from_plain(Tuning, tuning)
    scratch = wanted.start == "scratch"
    base = FinetuneConfig(
        model=work / wanted.model,
        data=work / wanted.data,
        out=wanted.folder(work),
        task=wanted.task,
        test=wanted.judge,
        scratch=scratch,
        labels_per_class=wanted.labels,
        epochs=wanted.epochs,
        batch_size=wanted.batch_size,
        seed=wanted.seed,
        efficiency=Efficiency(
            num_threads=1, log_every=50, device="cpu", validate_samples=0, keep=1
        ),
    )
    decay = None if scratch else base.optim.layer_decay
    warmup = wanted.epochs / 10
    optim = replace(base.optim, base_lr=wanted.rate, warmup_epochs=warmup, layer_decay=decay)
    finetune(replace(base, optim=optim))
    return json.loads((base.out / "scores.json").read_text(encoding="utf-8"))


def candidates(wanted: Tuning) -> list[Tuning]:
    """Return the runs of all learning rates, judged on validation rows."""
    return [replace(wanted, rate=rate, judge="val") for rate in RATES]


def best_rate(scores: Mapping[float, float]) -> float:
    """Return the learning rate with the best validation score, the smaller one of equals."""
    return max(sorted(scores), key=lambda rate: scores[rate])
