"""`mimkit evaluate ct`: a fine-tuned model on whole volumes, per case and patient."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from jaxtyping import UInt8

from ...core.config_tree import to_plain
from ...core.errors import UsageError, UserError
from ...core.files import write_text
from ...core.objectives.labels import IGNORED
from ...datasets.errors import DataError
from ...datasets.label_map import label_problems
from ...datasets.readers.volume import read_labels
from ...datasets.volume_geometry import VolumeGeometry
from ...domains.ct.curate.cut import pseudonym
from ...domains.ct.curate.records import VolumeRef
from ...domains.ct.curate.scan import Found, ScanParams, scan_sources
from ...domains.ct.curate.volumes import IGNORE
from ...domains.curation.tables import FileTable, read_table
from ..benchmarks.table import table_lines
from ..curate.ct_config import named_numbers
from ..progress import say
from .metrics import COLUMNS, StructureScore, Summary, cases_in_order, score_case, summarise
from .segment import SlidingConfig, VolumeModel, check_sliding, open_model, read_volume, segment

UNLABELLED, FAILED = "unlabelled", "failed"


@dataclass(frozen=True, kw_only=True)
class EvaluateCtConfig(SlidingConfig):
    """Segment labelled CT volumes and compare with their labels, on the grid of their files.

    Writes OUT/cases.csv with Dice, HD95 and surface Dice (NSD) of every structure of every case,
    and OUT/evaluation.json and .md with means and their intervals by patient.
    """

    volumes: tyro.conf.Positional[tuple[Path, ...]]
    """Files and folders with volumes and their labels, as `mimkit curate ct` takes them."""
    model: Path
    """Model directory that was fine-tuned on CT (`RUN/model` of `mimkit finetune`)."""
    out: Path
    """Folder for the results."""
    cases: Literal["all", "held-out"] = "all"
    """`held-out`: only patients that the model did not see, for models of `finetune --folds`."""
    masks: tuple[str, ...] = ()
    """Glob patterns of label files; left out: *mask*, *seg*, *label* and what nnU-Net and
    Decathlon folders hold."""
    mask_classes: tuple[str, ...] = ()
    """NUMBER=NAME for each label; left out: what dataset.json, labels.json or the file says."""
    segments: tuple[str, ...] = ()
    """Names of the segments wanted from RTSTRUCT, SEG and .seg.nrrd, where segments overlap."""
    patients: Path | None = None
    """CSV table with columns file and patient; left out: the header's patient, else the folder,
    else the file."""
    tolerance: float = 2.0
    """mm within which surfaces count as the same in NSD."""
    draws: int = 1000
    """Draws of patients behind the 95% intervals."""
    seed: int = 0
    """Of the draws."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A volume or file that was not scored.

    Args:
        case: its name.
        uri: its file or series.
        status: why, in one word.
        reason: why, in words.
    """

    case: str
    uri: str
    status: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class VolumeEvaluation:
    """What was found.

    Args:
        model: its directory.
        scores: of every structure of every case.
        summaries: means over cases with intervals.
        left_out: what was not scored, and why.
        order: (case, mean Dice), the worst first.
        tolerance: mm, of NSD.
    """

    model: str
    scores: tuple[StructureScore, ...]
    summaries: tuple[Summary, ...]
    left_out: tuple[LeftOut, ...]
    order: tuple[tuple[str, float], ...]
    tolerance: float


def run(config: EvaluateCtConfig) -> VolumeEvaluation:
    """Evaluate and write all results below `out`.

    Raises:
        UsageError: for settings that cannot work, a model that segments no volumes, or when
            nothing is labelled.
        DataError: when cases could not be scored; all others have been written by then.
    """
    check(config)
    model = open_model(config.model, config.device)
    check_sliding(config, model)
    labels = ScanParams(pattern=None, exclude=(), masks=config.masks, labels=True)
    found = scan_sources(config.volumes, labels)
    evaluation = evaluate(config, model, found)
    write(config.out, evaluation)
    say(markdown(evaluation))
    say(f"written to {config.out}")
    failed = [row for row in evaluation.left_out if row.status == FAILED]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(found.refs)} volumes",
            f"could not be scored, the first because {failed[0].reason.rstrip('.')}",
            f"see {config.out / 'cases.csv'}; what was written for the others is complete",
        )
    return evaluation


def check(config: EvaluateCtConfig) -> None:
    """Raise UsageError for a number that cannot be used, naming field, value and fix."""
    if not 0 <= config.tolerance < 1000:
        raise UsageError(f"tolerance {config.tolerance}", "is no distance in mm", "use 2")
    if config.draws < 100:
        raise UsageError(f"draws {config.draws}", "are too few for an interval", "use 1000")
    named_numbers(config.mask_classes)


def evaluate(config: EvaluateCtConfig, model: VolumeModel, found: Found) -> VolumeEvaluation:
    """Score all labelled volumes that were found.

    Raises:
        UsageError: when none can be scored.
    """
    patients = None
    if config.patients is not None:
        patients = read_table(config.patients, "patient", field="patients")
    wanted = held_out(model) if config.cases == "held-out" else None
    scores: list[StructureScore] = []
    others = [
        LeftOut(case=row.id, uri=row.uri, status=row.status, reason=row.reason or "")
        for row in found.rows
    ]
    for ref in found.refs:
        try:
            scores += score_volume(config, model, ref, patients, wanted)
        except NotScoredError as error:
            others.append(
                LeftOut(case=ref.id, uri=ref.uri, status=error.status, reason=error.reason)
            )
        except (UserError, DataError) as error:
            say(f"left out: {error}")
            others.append(LeftOut(case=ref.id, uri=ref.uri, status=FAILED, reason=str(error)))
    if not scores and not any(row.status == FAILED for row in others):
        reason = "hold no labelled volume that is wanted"
        remedy = "check --masks, --cases and --patients"
        raise UsageError(", ".join(map(str, config.volumes)), reason, remedy)
    return VolumeEvaluation(
        model=str(config.model),
        scores=tuple(scores),
        summaries=tuple(summarise(scores, num_draws=config.draws, seed=config.seed)),
        left_out=tuple(others),
        order=tuple(cases_in_order(scores)),
        tolerance=config.tolerance,
    )


class NotScoredError(Exception):
    """A volume that is not scored though nothing is wrong with it: status and reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason


def held_out(model: VolumeModel) -> frozenset[str]:
    """Return the patients that a model of a fold did not see.

    Raises:
        UsageError: when the model does not say.
    """
    names = model.task.loaded.data.get("held_out")
    if not names:
        reason = "does not say which patients it did not see"
        raise UsageError(model.path, reason, "fine-tune with --folds, or use --cases all")
    return frozenset(names)


def score_volume(
    config: EvaluateCtConfig,
    model: VolumeModel,
    ref: VolumeRef,
    patients: FileTable | None,
    wanted: frozenset[str] | None,
) -> list[StructureScore]:
    """Segment one volume and compare with its labels.

    Raises:
        NotScoredError: when it has no labels, or its patient is not wanted.
        DataError: when it or its labels cannot be used.
    """
    if ref.labels is None:
        raise NotScoredError(UNLABELLED, "no label file belongs to it")
    loaded = read_volume(model, ref)
    patient = loaded.opened.info.patient
    group = pseudonym(patient) if patient else ref.place
    if patients is not None:
        group = patients.labels.get(patients.key(ref.uri) or "") or group
    if wanted is not None and group not in wanted:
        raise NotScoredError("seen", f"the model was trained with patient {group}")
    grid = loaded.opened.geometry
    truth = true_classes(config, ref, grid, model.classes)
    found = segment(model, loaded, config, f"evaluate {ref.id}")
    return score_case(
        found.volume.array,
        truth,
        grid.spacing,
        model.classes,
        case=ref.id,
        group=group,
        tolerance=config.tolerance,
    )


def true_classes(
    config: EvaluateCtConfig, ref: VolumeRef, grid: VolumeGeometry, classes: Sequence[str]
) -> UInt8[np.ndarray, "i j k"]:
    """Return the model's class of every labelled voxel, 255 where it is to be ignored.

    Structures that the model does not know are background to it.

    Raises:
        DataError: when labels cannot be read, lie on another grid, hold unknown numbers, or none
            of the model's structures is among their names.
    """
    names = dict(named_numbers(config.mask_classes) or ref.names or ())
    path = ref.labels or ""
    labels = read_labels(path, grid=grid, names=names or None, segments=config.segments or None)
    problems = [p for p in label_problems(labels, known=sorted(labels.names)) if "unknown" in p]
    if problems:
        raise DataError(path, problems[0], "name all numbers with --mask-classes")
    if not set(labels.names.values()) & set(classes[1:]):
        have = ", ".join(labels.names.values()) or "none"
        reason = f"names {have}, and the model knows {', '.join(classes[1:])}"
        raise DataError(path, reason, "name its numbers as the model does (--mask-classes)")
    table = np.zeros(int(labels.volume.array.max()) + 1, np.uint8)
    for number, name in labels.names.items():
        if number < len(table):
            known = classes.index(name) if name in classes else 0
            table[number] = IGNORED if name == IGNORE else known
    return table[labels.volume.array]


def write(out: Path, found: VolumeEvaluation) -> None:
    """Write all results."""
    write_text(out / "cases.csv", as_csv(found))
    plain = to_plain(replace(found, scores=()))
    write_text(out / "evaluation.json", json.dumps(plain, indent=1) + "\n")
    write_text(out / "evaluation.md", markdown(found))


def as_csv(found: VolumeEvaluation) -> str:
    """Return every score, and a line for everything that has none."""
    text = io.StringIO()
    table = csv.DictWriter(text, [*COLUMNS, "status", "reason"], lineterminator="\n")
    table.writeheader()
    for score in found.scores:
        table.writerow({**_rounded(vars(score)), "status": "scored"})
    for row in found.left_out:
        table.writerow({"case": row.case, "status": row.status, "reason": row.reason})
    return text.getvalue()


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}


def markdown(found: VolumeEvaluation) -> str:
    """Return the means of every structure, and which cases are worst, median and best."""
    rows: dict[str, dict[str, str]] = {}
    for summary in found.summaries:
        row = rows.setdefault(summary.structure, {"structure": summary.structure})
        row[summary.metric] = shown(summary)
        row["cases"] = str(max(int(row.get("cases", 0)), summary.num_cases))
    lines = [f"# {found.model} on whole volumes", ""]
    lines += table_lines(list(rows.values())) if rows else ["No case was scored."]
    lines += [
        "",
        "Means over cases with 95% intervals by patient; HD95 in mm, NSD at "
        f"{found.tolerance:g} mm. Structures that neither truth nor prediction holds are not "
        "scored; where one of them is empty Dice and NSD are 0 and HD95 is the diagonal of the "
        "volume.",
        "",
    ]
    if found.order:
        places = {"worst": 0, "median": len(found.order) // 2, "best": -1}
        named = [f"{k} {found.order[i][0]} ({found.order[i][1]:.3f})" for k, i in places.items()]
        lines += [f"Mean Dice by case: {', '.join(named)}.", ""]
    if found.left_out:
        lines += [f"- {row.case}: {row.status}, {row.reason}" for row in found.left_out] + [""]
    return "\n".join(lines)


def shown(summary: Summary) -> str:
    """Return a mean with its interval as text."""
    if summary.mean is None:
        return "-"
    digits = 1 if summary.metric == "hd95" else 3
    text = f"{summary.mean:.{digits}f}"
    if summary.interval is None:
        return text
    low, high = summary.interval.low, summary.interval.high
    return f"{text} ({low:.{digits}f} to {high:.{digits}f})"
