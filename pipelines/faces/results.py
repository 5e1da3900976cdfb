"""What an evaluation of faces found: plain data for JSON, lines for CSV, tables for people."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from .judge import LEVELS, Judged
from .protocols import Fold
from .recognise import Recognition
from .robustness import RobustnessCurve
from .rows import Face

UNDEFINED = "undefined"
THRESHOLDS = (
    "HTER with the threshold from the TEST set is how many papers report it; it knows the answers, "
    "so use it for comparison with those papers only. Intervals resample whole people or videos."
)


@dataclass(frozen=True, kw_only=True)
class FaceEvaluation:
    """An evaluation.

    Args:
        protocol: what was asked.
        model: model directory, or the file of given scores.
        stores: folders of faces.
        simulated: whether presentation attacks were simulated: then nothing is said about real
            ones.
        num_unchecked: faces without a known identity, for which disjointness cannot be checked.
        num_faces: faces that took part.
        folds: names and sizes of the trainings: train, development, test.
        judged: results of detection, one per detector, fold, test set and level.
        recognised: results of attribute and identity probes.
        robustness: curves over degradations.
        notes: what a reader must know.
    """

    protocol: str
    model: str
    stores: tuple[str, ...]
    simulated: bool
    num_unchecked: int
    num_faces: int
    folds: tuple[FoldSize, ...] = ()
    judged: tuple[Judged, ...] = ()
    recognised: tuple[Recognition, ...] = ()
    robustness: tuple[RobustnessCurve, ...] = ()
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class FoldSize:
    """How many faces a fold has.

    Args:
        name: of the fold.
        num_train: faces that were learned from.
        num_dev: faces that chose thresholds.
        num_test: faces that were judged.
    """

    name: str
    num_train: int
    num_dev: int
    num_test: int

    @classmethod
    def of(cls, fold: Fold) -> FoldSize:
        """Return the sizes of a fold."""
        judged = {row for rows in fold.tests.values() for row in rows.tolist()}
        return cls(fold.name, len(fold.train), len(fold.dev), len(judged))


COLUMNS = (
    *("fold", "test", "features", "seed", "level", "positives", "negatives", "auc", "auc_low"),
    *("auc_high", "resampled", "eer", "tpr_at_fpr_1pct", "bona_fide_at_apcer_1pct"),
    *("hter_threshold_from_development", "hter_threshold_from_test_as_published"),
    *("apcer_threshold_from_development", "bpcer_threshold_from_development"),
    *("acer_threshold_from_development", "threshold_from_development", "ece", "undefined"),
)
"""Columns of results.csv."""


def table_csv(judged: Sequence[Judged]) -> str:
    """Return results as CSV; what is undefined is an empty cell, and the last column says why."""
    lines = []
    for found in judged:
        honest, interval = found.from_development, found.auc_interval
        flattering = found.from_test_as_published
        lines.append(
            (
                *(found.fold, found.test, found.features, found.seed, found.level),
                *(found.num_positive, found.num_negative, found.auc),
                *((interval.low, interval.high) if interval else (None, None)),
                *(found.resampled, found.eer, found.tpr_at_fpr, found.bona_fide_at_apcer),
                *(honest and honest.hter, flattering and flattering.hter),
                *(honest and honest.apcer, honest and honest.bpcer, honest and honest.acer),
                honest and honest.threshold,
                found.calibration and found.calibration.ece,
                found.undefined,
            )
        )
    return as_csv(COLUMNS, lines)


SCORE_COLUMNS = (
    *("file", "score", "label", "split", "collection", "identity", "video", "method"),
    *("fold", "test", "id"),
)
"""Columns of scores.csv, which `--scores` reads again."""


def score_lines(
    fold: str, test: str, faces: Sequence[Face], scores: Sequence[float]
) -> list[tuple[object, ...]]:
    """Return the lines of scores.csv for one test set."""
    return [
        (
            *(face.uri, score, face.label, face.split, face.collection),
            *("+".join(face.identities), face.video, face.method, fold, test, face.id),
        )
        for face, score in zip(faces, scores, strict=True)
    ]


def as_csv(columns: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """Return lines as CSV text; None is an empty cell."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(columns)
    table.writerows(["" if cell is None else cell for cell in line] for line in lines)
    return stream.getvalue()


def markdown(found: FaceEvaluation) -> str:
    """Return an evaluation as a Markdown page."""
    lines = [f"# Faces: {found.protocol}", "", f"Judged: {found.model}.", ""]
    if found.stores:
        lines += [f"Stores: {', '.join(found.stores)}; {found.num_faces} faces.", ""]
    lines += [f"- {note}" for note in found.notes]
    if found.folds:
        lines += ["", *size_table(found.folds), ""]
    for level in (one for one in LEVELS if any(j.level == one for j in found.judged)):
        lines += [f"## {level.capitalize()} scores", "", *judged_table(found.judged, level), ""]
    if found.judged:
        lines += [THRESHOLDS, ""]
    if found.recognised:
        lines += ["## Probes", "", *recognised_table(found.recognised), ""]
    if found.robustness:
        lines += ["## Robustness: AUC", "", *robustness_table(found.robustness), ""]
    if any(one.parts for one in found.judged):
        lines += ["## Parts of the test sets", "", *part_table(found.judged), ""]
    return "\n".join(lines)


def size_table(folds: Sequence[FoldSize]) -> list[str]:
    """Return the sizes of the folds."""
    rows = [(f.name, str(f.num_train), str(f.num_dev), str(f.num_test)) for f in folds]
    return as_table(("fold", "training faces", "development", "judged"), rows)


def judged_table(judged: Sequence[Judged], level: str) -> list[str]:
    """Return results of one level; seeds of a random initialisation become one line."""
    head = (
        *("fold", "test set", "detector reads", "fakes / genuine", "AUC", "95 % interval", "EER"),
        *(
            "TPR at FPR 1 %",
            "HTER, threshold from development",
            "HTER, threshold from the TEST set",
        ),
        *("ACER, development", "ECE"),
    )
    rows = []
    for members in gathered([one for one in judged if one.level == level]):
        first = members[0]
        interval = first.auc_interval if len(members) == 1 else None
        rows.append(
            (
                *(first.fold, first.test, first.features),
                f"{first.num_positive} / {first.num_negative}",
                spread([one.auc for one in members]),
                f"{interval.low:.3f} to {interval.high:.3f}" if interval else "–",
                spread([one.eer for one in members]),
                spread([one.tpr_at_fpr for one in members]),
                spread([one.from_development and one.from_development.hter for one in members]),
                spread([p and p.hter for p in (m.from_test_as_published for m in members)]),
                spread([one.from_development and one.from_development.acer for one in members]),
                spread([one.calibration and one.calibration.ece for one in members]),
            )
        )
    return as_table(head, rows)


def gathered(judged: Sequence[Judged]) -> list[list[Judged]]:
    """Return results that differ in their seed only, together."""
    found: dict[tuple[str, ...], list[Judged]] = {}
    for one in judged:
        found.setdefault((one.fold, one.test, one.features, one.level), []).append(one)
    return list(found.values())


def recognised_table(recognised: Sequence[Recognition]) -> list[str]:
    """Return the probes; draws and seeds of a random initialisation become one line."""
    found: dict[tuple[object, ...], list[Recognition]] = {}
    for one in recognised:
        found.setdefault((one.features, one.fact, one.probe, one.shots), []).append(one)
    rows = [
        (
            *(str(value) for value in key),
            str(members[0].num_classes),
            str(members[0].num_test),
            spread([value for one in members for value in one.accuracy]),
            spread([value for one in members for value in one.balanced]),
        )
        for key, members in found.items()
    ]
    head = ("features", "fact", "probe", "images a class", "classes", "judged", "accuracy")
    return as_table((*head, "balanced accuracy"), rows)


def robustness_table(curves: Sequence[RobustnessCurve]) -> list[str]:
    """Return the curves."""
    rows = [
        (
            c.degradation,
            c.unit,
            c.features,
            ", ".join(f"{s:g}: {a:.3f}" for s, a in zip(c.strengths, c.auc, strict=True)),
        )
        for c in curves
    ]
    return as_table(("degradation", "strength", "detector reads", "AUC by strength"), rows)


def part_table(judged: Sequence[Judged]) -> list[str]:
    """Return results by attack and by demographic facts, of frames."""
    rows = [
        (
            *(one.fold, one.test, one.features, part.by, part.value),
            f"{part.num_positive} / {part.num_negative}",
            *(spread([value]) for value in (part.auc, part.apcer, part.bpcer)),
        )
        for one in judged
        if one.level == "frame" and one.seed in (None, 0)
        for part in one.parts
    ]
    head = ("fold", "test set", "detector reads", "by", "value", "fakes / genuine", "AUC")
    return as_table((*head, "APCER", "BPCER"), rows)


def spread(values: Sequence[float | None]) -> str:
    """Return "0.731 ± 0.004": mean and sample deviation; "undefined" where there is no number."""
    known = [value for value in values if value is not None]
    if not known:
        return UNDEFINED
    mean = f"{statistics.fmean(known):.3f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.3f}"


def as_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    cells = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return [*lines, *(f"| {' | '.join(row)} |" for row in cells)]
