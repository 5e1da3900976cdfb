"""An evaluation of faces as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ...core.batch import Batch
from ...core.checkpoints.model_dir import LoadedModel
from ...core.files import write_text
from ...core.heads.curves import Roc, roc, undefined
from ...core.reconstruction import pixel_heads
from ...domains.domain import get_domain
from ..features import stored_batches
from ..report import render
from ..reporting.blocks import (
    Block,
    Cell,
    Chapter,
    Figures,
    Gallery,
    Page,
    Picture,
    Section,
    Table,
    Text,
    Verdict,
)
from ..reporting.environment import environment
from ..reporting.pictures import picture_uri
from ..reporting.reconstructions import reconstruct_batch, untrained_heads
from ..reporting.regions import MAP, region_legend, region_pictures
from .charts import det_chart, reliability_chart, robustness_chart, roc_chart
from .judge import Judged
from .protocols import Fold
from .results import THRESHOLDS, FaceEvaluation, gathered, spread
from .rows import Face, classes
from .scoring import MODEL, Reading

_MASKS = ("face", MAP, "what the encoder saw", "reconstruction", "error")


@dataclass(frozen=True)
class FoldPictures:
    """What the page draws of one fold: the model's scores, face by face.

    Args:
        name: of the fold.
        curves: ROC of every test set with both classes.
        faces: judged faces, all test sets together.
        scores: of these faces.
        reading: opens their pixels; None for scores that came without them.
    """

    name: str
    curves: dict[str, Roc]
    faces: list[Face]
    scores: Float[Tensor, " n"]
    reading: Reading | None

    @classmethod
    def of(
        cls,
        fold: Fold,
        faces: Sequence[Face],
        scores: Float[Tensor, " n"],
        reading: Reading | None,
    ) -> FoldPictures:
        """Gather what the page needs of a fold."""
        curves = {}
        for name, rows in fold.tests.items():
            positive = classes([faces[row] for row in rows])
            if undefined(positive) is None:
                curves[name] = roc(scores[rows], positive)
        judged = np.unique(np.concatenate(list(fold.tests.values())))
        return cls(fold.name, curves, [faces[row] for row in judged], scores[judged], reading)


def write_report(
    path: Path,
    found: FaceEvaluation,
    folds: Sequence[FoldPictures],
    num_errors: int,
    masks: Section | None = None,
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        found: the evaluation.
        folds: what is drawn.
        num_errors: worst errors of each kind.
        masks: section on the masks of pre-training, see `mask_section`.
    """
    sections = [Section("Results", (result_table(found),))] if found.judged else []
    sections += [fold_section(fold, found, num_errors) for fold in folds]
    if found.robustness:
        names = dict.fromkeys(curve.degradation for curve in found.robustness)
        of_name = {n: [c for c in found.robustness if c.degradation == n] for n in names}
        charts = tuple(robustness_chart(name, curves[:6]) for name, curves in of_name.items())
        sections.append(Section("Robustness", (Figures(charts),)))
    if found.recognised:
        sections.append(Section("Probes", (probe_block(found),)))
    if masks is not None:
        sections.append(masks)
    chapter = Chapter(f"{found.protocol}: {found.model}", verdict(found), tuple(sections))
    page = Page(f"Faces: {found.protocol}", (chapter,))
    write_text(path, render(page, Section("Made with", (environment(),))))


def verdict(found: FaceEvaluation) -> Verdict:
    """Return what a reader who reads nothing else should know."""
    best = _last(found, MODEL)
    problems = list(found.notes)
    if best is None or best.auc is None:
        headline = "No AUC is defined for the model; see the notes"
        if found.recognised:
            headline = "Probes of a frozen encoder"
        return Verdict("warn" if not found.recognised else "plain", headline, (), tuple(problems))
    thumbnail = _last(found, "16x16 pixels")
    headline = f"AUC {best.auc:.3f} on {best.test} ({best.fold}, frames)"
    findings, tone = [], "plain"
    if best.auc_interval is not None:
        interval = best.auc_interval
        drawn = "videos or photographs" if best.resampled == "videos" else best.resampled
        findings.append(
            f"95 % interval {interval.low:.3f} to {interval.high:.3f} over {interval.num_groups} "
            f"{drawn}"
        )
    if thumbnail is not None and thumbnail.auc is not None:
        gain = best.auc - thumbnail.auc
        tone = "good" if gain > 0.01 else "bad"
        findings.append(f"{gain:+.3f} over a ridge classifier of 16x16 pixels")
    if best.from_development is not None and best.from_test_as_published is not None:
        findings.append(
            f"HTER {best.from_development.hter:.3f} at the threshold from development data; "
            f"{best.from_test_as_published.hter:.3f} at the one from the test set"
        )
    return Verdict("warn" if found.simulated else tone, headline, tuple(findings), tuple(problems))


def _last(found: FaceEvaluation, features: str) -> Judged | None:
    """Return the frame result on the last test set, which is the pooled one where there are two."""
    mine = [j for j in found.judged if j.features == features and j.level == "frame"]
    return mine[-1] if mine else None


def result_table(found: FaceEvaluation) -> Table:
    """Return AUC, EER and both HTERs of all detectors; the other numbers are in results.csv."""
    head = ("test set", "scores", "detector reads", "AUC", "EER", "HTER, development")
    several = len(found.folds) > 1
    rows = []
    for members in gathered([one for one in found.judged if one.level != "video median"]):
        first = members[0]
        value = first.auc or 0.0
        honest = [one.from_development and one.from_development.hter for one in members]
        published = [m.from_test_as_published and m.from_test_as_published.hter for m in members]
        rows.append(
            (
                f"{first.fold}: {first.test}" if several else first.test,
                *(first.level, first.features),
                Cell(spread([one.auc for one in members]), shade=max(0.0, 1.2 * value - 0.6)),
                *(spread(values) for values in ([m.eer for m in members], honest, published)),
            )
        )
    caption = f"Seeds of a random initialisation are one line. {THRESHOLDS}"
    return Table((*head, "HTER, test set"), tuple(rows), caption)


def fold_section(fold: FoldPictures, found: FaceEvaluation, num_errors: int) -> Section:
    """Return curves and worst errors of a fold."""
    blocks: list[Block] = []
    if fold.curves:
        charts = [roc_chart(fold.curves), det_chart(fold.curves)]
        calibrated = {
            one.test: one.calibration
            for one in found.judged
            if (one.fold, one.features, one.level) == (fold.name, MODEL, "frame")
            and one.calibration is not None
        }
        if calibrated:
            charts.append(reliability_chart(calibrated))
        blocks.append(Figures(tuple(charts)))
    else:
        blocks.append(Text("No test set has both classes, so there are no curves.", "warn"))
    if fold.reading is not None and num_errors:
        blocks.append(error_gallery(fold, fold.reading, num_errors))
    return Section(f"Fold: {fold.name}", tuple(blocks))


def error_gallery(fold: FoldPictures, reading: Reading, num: int) -> Gallery:
    """Return the genuine faces with the largest and the fakes with the smallest scores."""
    positive = classes(fold.faces)
    rows = []
    for name, side, order in (
        ("genuine, largest scores", ~positive, -fold.scores),
        ("fakes, smallest scores", positive, fold.scores),
    ):
        members = side.nonzero()[:, 0]
        worst = members[order[members].argsort(stable=True)[:num]].tolist()
        if worst:
            faces = [fold.faces[place] for place in worst]
            images = pictures(reading, faces)
            cells = tuple(
                Picture(picture_uri(image), f"{name}: {face.id}", _caption(face, score))
                for image, face, score in zip(
                    images, faces, fold.scores[worst].tolist(), strict=True
                )
            )
            rows.append((name, cells))
    head = tuple(str(place + 1) for place in range(max((len(c) for _, c in rows), default=0)))
    return Gallery(head, tuple(rows), "Worst errors over all test sets of the fold.")


def _caption(face: Face, score: float) -> str:
    # A collection of one generator often has its name, which is said once.
    return " · ".join(filter(None, dict.fromkeys((f"{score:.3f}", face.collection, face.method))))


def pictures(reading: Reading, faces: Sequence[Face]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Return faces as the model sees them, simulated attacks included."""
    places = {face.id + (face.attack or ""): n for n, face in enumerate(reading.faces)}
    found = []
    for face in faces:
        place = places[face.id + (face.attack or "")]
        found.append(to_rgb(reading, next(reading.batches(np.array([place])))))
    return [image for images in found for image in images]


def to_rgb(reading: Reading, batch: Batch) -> UInt8[np.ndarray, "b h w 3"]:
    """Return a batch's images for people."""
    domain = get_domain(reading.normaliser.domain)
    physical = reading.normaliser.denormalise(batch.images)
    return domain.to_rgb(physical, domain.display_bands(reading.normaliser), batch.valid)


def probe_block(found: FaceEvaluation) -> Table:
    """Return the probes."""
    rows = [
        (one.features, one.fact, one.probe, str(one.shots), spread(one.accuracy))
        for one in found.recognised
    ]
    head = ("features", "fact", "probe", "images a class", "accuracy")
    return Table(head, tuple(rows), f"{found.recognised[0].num_classes} classes.")


@torch.no_grad()
def mask_section(loaded: LoadedModel, reading: Reading, num: int, seed: int = 0) -> Section | None:
    """Return what pre-training hid of some faces, beside the parsing map that steered it.

    None when the store has no parsing maps, or the model predicts no pixels (also when its decoder
    was never trained).

    Args:
        loaded: a pre-trained model.
        reading: faces.
        num: how many, spread evenly.
        seed: of the masks.
    """
    heads = list(pixel_heads(loaded.method))
    if not heads or heads[0] in untrained_heads(loaded):
        return None
    whole = [place for place, face in enumerate(reading.faces) if face.attack is None]
    picked = np.array(whole)[np.linspace(0, len(whole) - 1, min(num, len(whole))).astype(int)]
    store = reading.faces[int(picked[0])].store
    rows = np.array([reading.faces[p].row for p in picked if reading.faces[p].store == store])
    group = reading.groups[store]
    batch = next(
        stored_batches(group, rows, reading.normaliser, size=reading.size, batch_size=len(rows))
    ).to(reading.device)
    if batch.regions is None:
        return None
    domain = get_domain(reading.normaliser.domain)
    made = reconstruct_batch(loaded.method, batch, domain, reading.normaliser, seed)
    lines = []
    maps = region_pictures([shown.original for shown in made.shown], batch.regions)
    for row, shown, painted in zip(rows, made.shown, maps, strict=True):
        parts = (shown.original, painted, shown.visible, shown.pasted, shown.error)
        cells = tuple(
            Picture(picture_uri(part), f"{what} of row {row}")
            for what, part in zip(_MASKS, parts, strict=True)
        )
        lines.append((f"row {row}", cells))
    caption = "Hidden patches are grey. Rows are spread evenly over the first store."
    if made.leaked_statistics:
        caption += " Targets are standardised, so contrast inside hidden patches is the truth's."
    return Section("Masks by region", (Gallery(_MASKS, tuple(lines), caption, region_legend()),))
