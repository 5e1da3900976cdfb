"""Tumours of the CT study: one network from three starts, scored on whole volumes of the tested.

Volumes of the sarcoma patients were cut 5 cm around the drawn tumour, so that where a tumour lies
can be told without looking. `by_place` scores just that, as a yardstick.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8

from ...core.config_tree import from_plain, to_plain
from ...core.training.optim import OptimConfig
from ...datasets.readers.volume import open_volume, read_labels
from ..efficiency import Efficiency
from ..finetune import FinetuneConfig
from ..finetune import run as finetune
from ..finetune_recipe import usual_views
from ..volumes.evaluate import EvaluateCtConfig
from ..volumes.evaluate import run as evaluate
from ..volumes.metrics import METRICS, StructureScore, score_case
from .ct_data import CLASS, IMAGE, MASK, patient_table
from .units import Numbers, run_path

RATES = (0.192, 0.384)
"""Learning rates per 256 samples that each start chooses from."""

TAPS = (1, 3, 4, -1)
"""Encoder blocks that head and probe read: those of Hi-End-MAE's decoder and the last."""

BATCH = 4
MARGIN = 51.0  # mm between a tumour and the border of its volume
_TOLERANCE = 2.0  # mm, of NSD


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A fine-tuning run and who judges it.

    Args:
        data: store, below the study's folder.
        model: model directory of pre-training, below the study's folder; a run from scratch takes
            network and normaliser from it, and nothing else.
        scratch: start from random weights.
        split: samples that teach.
        epochs: times that the samples are visited.
        rate: learning rate per 256 samples.
        seed: of everything random.
        judged: patients that are scored.
    """

    data: str
    model: str
    scratch: bool
    split: Literal["train", "all"]
    epochs: int
    rate: float
    seed: int
    judged: tuple[str, ...]


def tune(work: Path, samples: str, tuning: Mapping[str, Any]) -> Numbers:
    """Fine-tune once and return Dice, HD95 and NSD: means and by patient, and CPU minutes."""
    import time

    wanted: Tuning = from_plain(Tuning, tuning)
    out = run_path(work, f"ct-tuned-{wanted.seed}", to_plain(wanted))
    started = time.process_time()
    model = finetune(settings(wanted, work, out))
    minutes = (time.process_time() - started) / 60
    found = evaluate(
        EvaluateCtConfig(
            volumes=tuple(Path(samples) / name for name in wanted.judged),
            model=model,
            out=out / "evaluation",
            mask_classes=(CLASS,),
            patients=work / patient_table(wanted.seed),
            tolerance=_TOLERANCE,
            device="cpu",
            num_threads=1,
        )
    )
    return {"cpu_minutes": minutes, **summary(found.scores)}


def settings(wanted: Tuning, work: Path, out: Path) -> FinetuneConfig:
    """Return the settings of a run: short runs want a high rate and no layer decay."""
    return FinetuneConfig(
        model=work / wanted.model,
        data=work / wanted.data,
        out=out,
        task="segment",
        train=wanted.split,
        scratch=wanted.scratch,
        epochs=wanted.epochs,
        batch_size=BATCH,
        seed=wanted.seed,
        loss="dice-ce",
        # Dice is in the loss; more weight for the tumour made it several times too large.
        class_weight=0.0,
        head="simple",
        dim=32,
        stem_dim=8,
        taps=TAPS,
        augment=usual_views("ct"),
        optim=OptimConfig(
            base_lr=wanted.rate,
            betas=(0.9, 0.999),
            warmup_epochs=wanted.epochs / 10,
            layer_decay=None,
            clip_grad=1.0,
        ),
        efficiency=Efficiency(
            num_threads=1, log_every=50, device="cpu", validate_samples=0, keep=1
        ),
    )


def summary(scores: Sequence[StructureScore]) -> Numbers:
    """Return the mean of every metric over patients, and each patient's values."""
    return {
        **{name: statistics.fmean(getattr(score, name) for score in scores) for name in METRICS},
        "patients": {
            score.group: {
                **{name: getattr(score, name) for name in METRICS},
                "truth_ml": score.truth_ml,
                "predicted_ml": score.predicted_ml,
            }
            for score in scores
        },
    }


def by_place(work: Path, samples: str, judged: Sequence[str]) -> Numbers:
    """Score an ellipsoid that touches the box 5 cm inside of a volume; no voxel is read."""
    scores = []
    for name in judged:
        folder = Path(samples) / name
        grid = open_volume(folder / IMAGE).geometry
        truth: UInt8[np.ndarray, "i j k"] = read_labels(folder / MASK, grid=grid).volume.array
        guess = ellipsoid(grid.shape, grid.spacing).astype(np.uint8)
        scores += score_case(
            guess,
            truth,
            grid.spacing,
            ("background", "tumour"),
            case=f"{name}/{IMAGE}",
            group=name,
            tolerance=_TOLERANCE,
        )
    return summary(scores)


def ellipsoid(shape: Sequence[int], spacing: Sequence[float]) -> Bool[np.ndarray, "i j k"]:
    """Return the ellipsoid whose ends are `MARGIN` mm inside of the borders of a volume."""
    axes = []
    for count, step in zip(shape, spacing, strict=True):
        radius = max(count * step / 2 - MARGIN, step)
        axes.append((np.arange(count) - (count - 1) / 2) * step / radius)
    squares = np.ix_(*(axis**2 for axis in axes))
    return sum(squares[1:], squares[0]) <= 1.0
