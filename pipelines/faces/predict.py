"""`mimkit predict faces`: scores of every face in photographs and videos, and of every video."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Float

from ...core.config_tree import to_plain
from ...core.errors import UsageError
from ...core.files import write_text
from ...core.heads.curves import Reduce
from ...datasets.errors import DataError
from ...domains.faces.curate.records import Picture, PictureRef, Sampling, frame_uri, pictures
from ...domains.faces.curate.scan import ScanParams, scan_sources
from ...domains.faces.detect import Detector, Face, Which, choose
from ..progress import say, track
from .annotate import annotate
from .results import as_csv
from .serving import Server, open_detector, open_server

Status = Literal["scored", "no face", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class PredictFacesConfig:
    """Score the faces in photographs and videos with a fine-tuned model.

    Faces are found, cropped and coded exactly as the model's training data were; what the model
    says of its crop is used and cannot be changed here.
    """

    sources: tyro.conf.Positional[tuple[Path, ...]]
    """Photographs, videos, and folders of them."""
    model: Path
    """Fine-tuned model directory (`RUN/model` of `mimkit finetune`)."""
    out: Path
    """Folder for faces.csv, videos.csv, predictions.json and annotated pictures."""
    frame_folders: bool = False
    """Photographs in one folder are frames of one video."""
    detector: str = "mtcnn"
    """mtcnn finds faces; a CSV or JSON file lists faces that another detector found; whole takes
    each picture for one face that was cropped before."""
    cropped_as: str | None = None
    """With `whole`: name of the crop that the pictures have, such as none-1.3-224-bicubic-v1; it
    must be the model's."""
    min_score: float = 0.9
    """Least score of a face that is found."""
    which: Which = "all"
    """Which faces of a picture are scored."""
    num_frames: int = 32
    """Frames of a video, spread evenly."""
    seconds: float | None = None
    """Take a frame every so many seconds instead."""
    combine: Reduce = "mean"
    """How scores of frames become the score of a video."""
    threshold: float = 0.5
    """Scores at or above it are called fake; choose it on development data (`mimkit evaluate
    faces`), not on what is judged."""
    annotated: int = 50
    """Pictures that are written with boxes and scores; 0 writes none."""
    batch_size: int = 32
    """Faces per forward pass; changes no result."""
    device: str = "auto"
    """`cpu`, `cuda` or `auto` (cuda when there is one)."""
    num_threads: int | None = None
    """CPU threads; torch's own choice when not given."""

    def __post_init__(self) -> None:
        """Check that the numbers make sense.

        Raises:
            UsageError: naming field, value and fix.
        """
        for name, least in {"num_frames": 1, "annotated": 0, "batch_size": 1}.items():
            if getattr(self, name) < least:
                value = f"{name} {getattr(self, name)}"
                raise UsageError(value, "is too small", f"use {least} or more")
        if self.seconds is not None and not self.seconds > 0:
            raise UsageError(f"seconds {self.seconds}", "is no time", "use a number above 0")


@dataclass(frozen=True, kw_only=True)
class FaceScore:
    """One line of faces.csv: a face, or a picture that has none, or a file that is broken.

    Args:
        file: photograph, video or folder of frames.
        uri: picture: the file, and "#" with the frame.
        frame: number of the frame; None of a photograph.
        status: "scored", "no face" or "unreadable".
        reason: why there is no score.
        box: left, top, right, bottom in pixels of the picture.
        detector_score: of the face.
        probabilities: by class.
        score: probability of a fake or an attack; None when the model tells other classes apart.
        called: class with the largest probability, or "fake" and "genuine" by the threshold.
    """

    file: str
    uri: str
    frame: int | None
    status: Status
    reason: str | None = None
    box: tuple[float, float, float, float] | None = None
    detector_score: float | None = None
    probabilities: dict[str, float] | None = None
    score: float | None = None
    called: str | None = None


@dataclass(frozen=True, kw_only=True)
class VideoScore:
    """One line of videos.csv.

    Args:
        file: the video.
        num_frames: frames that were read.
        num_faces: faces that were scored.
        score: of all faces together; None without any.
        called: by the threshold.
    """

    file: str
    num_frames: int
    num_faces: int
    score: float | None
    called: str | None


def run(config: PredictFacesConfig) -> list[FaceScore]:
    """Score all sources; a broken file is a line with its reason, and the others are still done.

    Raises:
        UsageError: for settings that cannot work, or a model that was not fine-tuned on faces.
        WeightsError: when the model does not say how faces were cropped.
        DataError: when sources are missing, crops are of another transform, or files were broken;
            what was written for the others is complete.
    """
    if config.num_threads is not None:
        torch.set_num_threads(max(config.num_threads, 1))
    server = open_server(config.model, config.device)
    detector = open_detector(config.detector, config.cropped_as, server.crop)
    refs = scan_sources(config.sources, ScanParams(frame_folders=config.frame_folders)).refs
    rows: list[FaceScore] = []
    left = config.annotated
    for ref in track(refs, "predict", len(refs)):
        made = score_file(ref, server, detector, config, left)
        rows += made.rows
        left -= made.num_shown
    videos = [video_score(ref, rows, config) for ref in refs if ref.video or ref.kind != "photo"]
    write_results(config, server, rows, videos)
    announce(config, rows, videos)
    broken = [row for row in rows if row.status == "unreadable"]
    if broken:
        raise DataError(
            f"{len(broken)} of {len(refs)} files",
            f"could not be read to their end, the first: {str(broken[0].reason).rstrip('.')}",
            "repair or leave them out; what was written for the others is complete",
        )
    return rows


@dataclass(frozen=True)
class FileScores:
    """What was made of a file.

    Args:
        rows: lines of faces.csv.
        num_shown: pictures that were written with their faces marked.
    """

    rows: list[FaceScore]
    num_shown: int


def score_file(
    ref: PictureRef, server: Server, detector: Detector, config: PredictFacesConfig, most: int
) -> FileScores:
    """Find, crop and score the faces of a file; what cannot be read becomes a line that says so.

    Args:
        ref: photograph, video or folder of frames.
        server: the model.
        detector: finds faces.
        config: settings.
        most: pictures that may be written with their faces marked.
    """
    rows: list[FaceScore] = []
    num_shown = 0
    sampling = Sampling(num=config.num_frames, seconds=config.seconds, animated=True)
    problems: list[str] = []
    for part in chunks(pictures(ref, sampling), config.batch_size, problems):
        scored = score_pictures(part, ref, server, detector, config)
        for picture, faces in zip(part, scored, strict=True):
            rows += faces
            if num_shown < most:
                annotate(picture.photo.pixels, faces, config.out / "annotated")
                num_shown += 1
    for reason in problems:
        lost = FaceScore(
            file=ref.path, uri=ref.path, frame=None, status="unreadable", reason=reason
        )
        rows.append(lost)
    return FileScores(rows, num_shown)


def chunks(found: Iterator[Picture], size: int, problems: list[str]) -> Iterator[list[Picture]]:
    """Yield pictures in groups; those before a broken place are yielded, and the reason is kept.

    Args:
        found: pictures.
        size: pictures of a group.
        problems: where the reason goes.
    """
    part: list[Picture] = []
    try:
        for picture in found:
            part.append(picture)
            if len(part) == size:
                yield part
                part = []
    except DataError as error:
        problems.append(str(error))
    if part:
        yield part


def score_pictures(
    part: Sequence[Picture],
    ref: PictureRef,
    server: Server,
    detector: Detector,
    config: PredictFacesConfig,
) -> list[list[FaceScore]]:
    """Return the lines of some pictures of a file: one per face, or one that says "no face"."""
    found: list[list[Face]] = []
    prepared = []
    for picture in part:
        image = picture.photo.pixels
        seen = detector(image, frame_uri(ref, picture.frame))
        sure = [face for face in seen if face.score >= config.min_score]
        found.append(choose(sure, config.which, image.shape[:2]))
        prepared += [server.prepare(image, face) for face in found[-1]]
    scores: list[np.ndarray] = []
    for start in range(0, len(prepared), config.batch_size):
        crops, valid = zip(*prepared[start : start + config.batch_size], strict=True)
        scores += list(server.score(crops, valid))
    left = iter(scores)
    lines = []
    for picture, faces in zip(part, found, strict=True):
        place = {"file": ref.path, "uri": frame_uri(ref, picture.frame), "frame": picture.frame}
        none = f"no face of score {config.min_score:g} or more was chosen"
        lines.append(
            [face_score(place, face, next(left), server, config) for face in faces]
            or [FaceScore(**place, status="no face", reason=none)]
        )
    return lines


def face_score(
    place: Mapping[str, Any],
    face: Face,
    probabilities: Float[np.ndarray, " k"],
    server: Server,
    config: PredictFacesConfig,
) -> FaceScore:
    """Return the line of a face at a place: file, uri and frame."""
    score = None if server.positive is None else float(probabilities[server.positive].sum())
    best = server.classes[int(probabilities.argmax())]
    return FaceScore(
        **place,
        status="scored",
        box=face.box,
        detector_score=face.score,
        probabilities=dict(zip(server.classes, map(float, probabilities), strict=True)),
        score=score,
        called=best if score is None else called(score, config.threshold),
    )


def called(score: float, threshold: float) -> str:
    """Return what a score is called."""
    return "fake" if score >= threshold else "genuine"


def video_score(
    ref: PictureRef, rows: Sequence[FaceScore], config: PredictFacesConfig
) -> VideoScore:
    """Return the score of a video: mean or median over all its faces."""
    own = [row for row in rows if row.file == ref.path and row.status != "unreadable"]
    scores = [row.score for row in own if row.score is not None]
    reduce = np.mean if config.combine == "mean" else np.median
    score = float(reduce(scores)) if scores else None
    return VideoScore(
        file=ref.path,
        num_frames=len({row.uri for row in own}),
        num_faces=sum(row.status == "scored" for row in own),
        score=score,
        called=None if score is None else called(score, config.threshold),
    )


def write_results(
    config: PredictFacesConfig,
    server: Server,
    rows: Sequence[FaceScore],
    videos: Sequence[VideoScore],
) -> None:
    """Write faces.csv, videos.csv and predictions.json."""
    columns = ("file", "uri", "frame", "status", "score", "called", "left", "top", "right")
    names = tuple(f"probability_{name}" for name in server.classes)
    lines = [
        (
            *(row.file, row.uri, row.frame, row.status, row.score, row.called),
            *(row.box or (None,) * 4),
            *(row.detector_score, row.reason),
            *((row.probabilities or {}).get(name) for name in server.classes),
        )
        for row in rows
    ]
    head = (*columns, "bottom", "detector_score", "reason", *names)
    write_text(config.out / "faces.csv", as_csv(head, lines))
    fields = ("file", "num_frames", "num_faces", "score", "called")
    table = [[getattr(video, name) for name in fields] for video in videos]
    write_text(config.out / "videos.csv", as_csv(fields, table))
    content = {
        "model": str(config.model),
        "crop": server.crop.to_dict() | {"name": server.crop.name},
        "threshold": config.threshold,
        "classes": server.classes,
        "faces": rows,
        "videos": videos,
    }
    text = json.dumps(to_plain(content), indent=1, allow_nan=False)
    write_text(config.out / "predictions.json", text + "\n")


def announce(
    config: PredictFacesConfig, rows: Sequence[FaceScore], videos: Sequence[VideoScore]
) -> None:
    """Say what was found."""
    count = Counter(row.status for row in rows)
    fakes = sum(row.called == "fake" for row in rows)
    parts = [f"{count['scored']} faces scored, {fakes} called fake at {config.threshold:g}"]
    parts += [f"{count[name]} {noun}" for name, noun in _LEFT.items() if count[name]]
    say(f"{config.out}: {'; '.join(parts)}")
    for video in videos:
        text = "no face" if video.score is None else f"{video.score:.3f}, {video.called}"
        say(f"{video.file}: {text} ({video.num_faces} faces in {video.num_frames} frames)")


_LEFT = {"no face": "pictures without a face", "unreadable": "files that are broken"}
