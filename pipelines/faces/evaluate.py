"""`mimkit evaluate faces`: detectors under protocols that leak nothing, beside cheap baselines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.config_tree import to_plain
from ...core.errors import UsageError
from ...core.files import write_text
from ..efficiency import resolve_device
from ..progress import say
from ..reporting.blocks import Section
from .config import EvaluateFacesConfig
from .judge import LEVELS, Judged, Level, Scored, judge
from .leakage import unchecked
from .protocols import (
    POOLED,
    Fold,
    cross_dataset,
    leave_one_domain_out,
    scored_only,
    unseen_generators,
)
from .recognise import IDENTITY, Recognition, fact_question, identity_question, recognise
from .report import FoldPictures, mask_section, write_report
from .results import (
    SCORE_COLUMNS,
    FaceEvaluation,
    FoldSize,
    as_csv,
    markdown,
    score_lines,
    table_csv,
)
from .robustness import RobustnessCurve, evenly, robustness
from .rows import Face, read_scores
from .scoring import MODEL, Detector, Reading, Subject, fit_detector, open_reading, open_subject


def run(config: EvaluateFacesConfig) -> FaceEvaluation:
    """Evaluate and write all results below `out`.

    Raises:
        UsageError: for a protocol that the stores or the model do not allow.
        DataError: for unreadable stores or scores, and for people on both sides.
        WeightsError: when the model cannot be read.
    """
    if config.num_threads is not None:
        torch.set_num_threads(max(config.num_threads, 1))
    work = Work(config)
    if config.scores is not None:
        found = judge_scores(config, config.scores, work)
    else:
        found = judge_model(config, work)
    write_text(config.out / "evaluation.json", json.dumps(to_plain(found), indent=1) + "\n")
    write_text(config.out / "results.csv", table_csv(found.judged))
    write_text(config.out / "scores.csv", as_csv(SCORE_COLUMNS, work.lines))
    text = markdown(found)
    write_text(config.out / "evaluation.md", text)
    write_report(config.out / "report.html", found, work.pictures, config.errors, work.masks)
    say(text)
    say(f"written to {config.out}: evaluation.json, results.csv, scores.csv, report.html")
    return found


class Work:
    """What gathers while folds are judged.

    Args:
        config: settings.
    """

    def __init__(self, config: EvaluateFacesConfig) -> None:
        self.config = config
        self.judged: list[Judged] = []
        self.lines: list[tuple[object, ...]] = []
        self.curves: list[RobustnessCurve] = []
        self.pictures: list[FoldPictures] = []
        self.masks: Section | None = None

    def judge(
        self, fold: Fold, faces: Sequence[Face], name: str, seed: int | None, given: Given
    ) -> None:
        """Judge the scores of one detector on every test set and level."""
        dev = Scored([faces[row] for row in fold.dev], given.scores[fold.dev], given.probabilities)
        for test, rows in fold.tests.items():
            scored = Scored([faces[row] for row in rows], given.scores[rows], given.probabilities)
            for level in levels(scored.faces):
                self.judged.append(
                    judge(
                        scored,
                        dev,
                        features=name,
                        fold=fold.name,
                        test=test,
                        level=level,
                        source_seed=seed,
                        breakdown=self.config.breakdown,
                        num_draws=self.config.intervals,
                        seed=self.config.seed,
                    )
                )
            if name == MODEL and (test == POOLED or len(fold.tests) == 1):
                values = scored.scores.tolist()
                self.lines += score_lines(fold.name, test, scored.faces, values)


@dataclass(frozen=True)
class Given:
    """Scores of all faces by one detector.

    Args:
        scores: one per face; NaN where it was not asked.
        probabilities: whether they are probabilities.
    """

    scores: Tensor
    probabilities: bool


def levels(faces: Sequence[Face]) -> tuple[Level, ...]:
    """Return frames and videos where there are videos, frames alone elsewhere."""
    return LEVELS if any(face.video is not None for face in faces) else LEVELS[:1]


def folds_of(config: EvaluateFacesConfig, faces: Sequence[Face]) -> list[Fold]:
    """Return the folds of a protocol, each checked for leaks."""
    if config.scores is not None:
        folds = scored_only(faces)
    elif config.protocol == "synthetic":
        folds = unseen_generators(faces)
    elif config.protocol == "antispoof":
        folds = leave_one_domain_out(faces)
    else:
        folds = cross_dataset(faces, frozenset(range(len(config.train))))
    for fold in folds:
        fold.check(faces)
    return folds


def judge_scores(config: EvaluateFacesConfig, path: Path, work: Work) -> FaceEvaluation:
    """Judge scores that some detector gave."""
    faces, scores = read_scores(path)
    likely = bool(((scores >= 0) & (scores <= 1)).all())
    folds = folds_of(config, faces)
    for fold in folds:
        work.judge(fold, faces, MODEL, None, Given(scores, likely))
        work.pictures.append(FoldPictures.of(fold, faces, scores, None))
    notes = notes_of(config, faces, folds, work)
    if likely:
        notes.append("All scores lie between 0 and 1 and were taken for probabilities (ECE).")
    return summary(config, str(path), faces, folds, work, notes)


def judge_model(config: EvaluateFacesConfig, work: Work) -> FaceEvaluation:
    """Judge a model, or probe it."""
    assert config.model is not None
    device = resolve_device(config.device)
    subject = open_subject(
        config.model, config.pooling, random_seeds=config.random_seeds, device=device
    )
    reading = open_reading(
        subject.loaded,
        config.model,
        (*config.train, *config.test),
        simulated=config.simulate_attacks,
        batch_size=config.batch_size,
        device=device,
    )
    if not subject.fine_tuned and config.errors:
        work.masks = mask_section(subject.loaded, reading, config.errors, config.seed)
    if config.protocol in ("attributes", "identity"):
        found = list(probe_faces(config, subject, reading))
        notes = [*common_notes(config, reading.faces)]
        return summary(config, str(config.model), reading.faces, [], work, notes, tuple(found))
    if subject.fine_tuned and config.protocol != "deepfake":
        raise UsageError(
            f"protocol {config.protocol!r}",
            f"trains once per fold, and {config.model} is fine-tuned already",
            "give the pre-trained encoder, or use --protocol deepfake",
        )
    folds = folds_of(config, reading.faces)
    judge_folds(config, subject, reading, folds, work)
    notes = notes_of(config, reading.faces, folds, work)
    return summary(config, str(config.model), reading.faces, folds, work, notes)


def judge_folds(
    config: EvaluateFacesConfig,
    subject: Subject,
    reading: Reading,
    folds: Sequence[Fold],
    work: Work,
) -> None:
    """Read all features once, then fit and judge every detector in every fold."""
    needed = [rows for fold in folds for rows in (fold.train, fold.dev, *fold.tests.values())]
    places = np.unique(np.concatenate(needed))
    tables = []
    for values in reading.features(subject.sources, places):
        table = values.new_full((len(reading.faces), values.shape[1]), torch.nan)
        table[torch.from_numpy(places)] = values
        tables.append(table)
    for fold in folds:
        detectors: list[Detector] = []
        for source, table in zip(subject.sources, tables, strict=True):
            own = subject.fine_tuned and source.name == MODEL
            detector, likely = answering() if own else fitted(fold, reading, table, config.seed)
            detectors.append(detector)
            given = Given(detector(table).double(), likely)
            work.judge(fold, reading.faces, source.name, source.seed, given)
            if source.name == MODEL:
                pictures = FoldPictures.of(fold, reading.faces, given.scores, reading)
                work.pictures.append(pictures)
        if config.robustness:
            test = list(fold.tests.values())[-1]
            kept = [n for n, s in enumerate(subject.sources) if s.seed in (None, 0)]
            work.curves += robustness(
                reading,
                evenly(reading, test, config.robustness),
                [subject.sources[n] for n in kept],
                [detectors[n] for n in kept],
            )


def answering() -> tuple[Detector, bool]:
    """Return the detector of a model whose features are its probabilities."""
    return (lambda values: values[:, 0]), True


def fitted(fold: Fold, reading: Reading, table: Tensor, seed: int) -> tuple[Detector, bool]:
    """Return a linear detector of a fold."""
    train = [reading.faces[row] for row in fold.train]
    dev = [reading.faces[row] for row in fold.dev]
    return fit_detector(table[fold.train], train, table[fold.dev], dev, seed)


def probe_faces(
    config: EvaluateFacesConfig, subject: Subject, reading: Reading
) -> Iterator[Recognition]:
    """Yield the lines of the probes.

    Raises:
        UsageError: for a fine-tuned model, whose features are its answers.
    """
    if subject.fine_tuned:
        reason = "is fine-tuned, and probes read the encoder"
        raise UsageError(str(config.model), reason, "give the pre-trained model")
    fact = IDENTITY if config.protocol == "identity" else config.fact
    for shots in config.shots:
        if config.protocol == "identity":
            question = identity_question(reading.faces, shots)
        else:
            question = fact_question(reading.faces, fact)
        features = reading.features(subject.sources, question.places)
        for source, values in zip(subject.sources, features, strict=True):
            yield from recognise(
                question,
                values,
                fact=fact,
                name=source.name,
                source_seed=source.seed,
                shots=shots,
                draws=config.draws,
                seed=config.seed,
            )


def common_notes(config: EvaluateFacesConfig, faces: Sequence[Face]) -> list[str]:
    """Return what is to be known about the faces of any protocol."""
    notes = []
    if config.simulate_attacks:
        notes.append(
            "Presentation attacks are SIMULATED from genuine faces: the figures show that the "
            "pipeline works and say nothing about filmed prints and screens."
        )
    if missing := unchecked(faces):
        notes.append(
            f"{missing} of {len(faces)} faces have no known identity: whether these people are on "
            "both sides could not be checked."
        )
    return notes


def notes_of(
    config: EvaluateFacesConfig, faces: Sequence[Face], folds: Sequence[Fold], work: Work
) -> list[str]:
    """Return what a reader of the detection results must know."""
    notes = common_notes(config, faces)
    left = sum(not face.judged for face in faces)
    if left:
        notes.append(f"{left} faces have no label real, fake, live or spoof and were left out.")
    reasons = {f"{j.test}: {j.undefined}." for j in work.judged if j.undefined}
    notes += sorted(reasons)
    if any(not len(fold.dev) for fold in folds):
        notes.append(
            "Some folds have no development data, so there is no honest threshold and no "
            "probability: give stores with a validation part."
        )
    return notes


def summary(
    config: EvaluateFacesConfig,
    judged: str,
    faces: Sequence[Face],
    folds: Sequence[Fold],
    work: Work,
    notes: Sequence[str],
    recognised: tuple[Recognition, ...] = (),
) -> FaceEvaluation:
    """Put an evaluation together."""
    return FaceEvaluation(
        protocol=config.protocol if config.scores is None else "given scores",
        model=judged,
        stores=tuple(str(path) for path in (*config.train, *config.test)),
        simulated=config.simulate_attacks,
        num_unchecked=unchecked(faces),
        num_faces=len(faces),
        folds=tuple(FoldSize.of(fold) for fold in folds),
        judged=tuple(work.judged),
        recognised=recognised,
        robustness=tuple(work.curves),
        notes=tuple(notes),
    )
