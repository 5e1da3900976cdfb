"""Files of faces as they pass between the stages of curation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ....datasets.readers.photo import Photo, count_frames, read_photo
from ....datasets.readers.video import choose_frames, probe_video, read_frames

Kind = Literal["photo", "video", "animation", "folder"]
_FRAME = "#"


@dataclass(frozen=True, kw_only=True)
class PictureRef:
    """A photograph, a video, or a folder of frames that was found.

    Attributes:
        id: unique name, stable between runs; holds no "#".
        path: the file, or the folder of the frames.
        relative: path relative to its source.
        kind: how it is read.
        stamp: size and time of change; another stamp is another input.
        files: of a folder of frames, in order.
        map: map of regions that a parser made of it.
        label: class.
        split: official part.
        identities: pseudonyms of everybody in it.
        video: name of the video it belongs to.
        facts: further things known about it, such as method or consent.
    """

    id: str
    path: str
    relative: str
    kind: Kind
    stamp: tuple[int, int]
    files: tuple[str, ...] = ()
    map: str | None = None
    label: str | None = None
    split: str | None = None
    identities: tuple[str, ...] = ()
    video: str | None = None
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames are taken.

    Attributes:
        num: of a video, evenly spread.
        seconds: between frames instead of a number.
        animated: whether animations are videos; otherwise their first frame is a photograph.
    """

    num: int
    seconds: float | None
    animated: bool


@dataclass(frozen=True)
class Picture:
    """A photograph or a frame.

    Attributes:
        frame: number in its video, None for a photograph.
        photo: pixels and what was changed.
        measures: numbers of the file, such as its JPEG quality.
        facts: codec.
    """

    frame: int | None
    photo: Photo
    measures: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


def pseudonym(name: str) -> str:
    """Return a name for a person that stays the same between runs and tells nothing by itself.

    Whoever knows the names can still compare; it is for splits and removal, not for publication.
    """
    return f"id-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def frame_uri(ref: PictureRef, frame: int | None) -> str:
    """Return what names a picture: the file, with the number of the frame in a video."""
    if ref.kind == "folder" and frame is not None:
        return ref.files[frame]
    return ref.path if frame is None else f"{ref.path}{_FRAME}{frame}"


def face_id(ref: PictureRef, frame: int | None, number: int, several: bool) -> str:
    """Return the id of a face: that of its file where it is the only one."""
    parts = [] if frame is None else [f"frame{frame:06d}"]
    parts += [f"face{number}"] if several else []
    return _FRAME.join([ref.id, *parts])


def ref_id(row_id: str) -> str:
    """Return the id of the file that a face is from."""
    return row_id.partition(_FRAME)[0]


def pictures(
    ref: PictureRef, sampling: Sampling, frames: Sequence[int] | None = None
) -> Iterator[Picture]:
    """Read the pictures of a file.

    Args:
        ref: which file.
        sampling: which frames of a video are wanted.
        frames: numbers of the wanted frames, ascending, when they are known already.

    Raises:
        DataError: when it cannot be read.
    """
    if ref.kind == "video":
        yield from _video(ref, sampling, frames)
        return
    if ref.kind == "photo" or (ref.kind == "animation" and not sampling.animated):
        yield _still(None, read_photo(ref.path))
        return
    total = len(ref.files) if ref.kind == "folder" else count_frames(ref.path)
    if frames is None:
        frames = choose_frames(total, num=sampling.num, seconds=sampling.seconds)
    for frame in frames:
        if ref.kind == "folder":
            yield _still(frame, read_photo(ref.files[frame]))
        else:
            yield _still(frame, read_photo(ref.path, frame))


def _still(frame: int | None, photo: Photo) -> Picture:
    measures = {} if photo.quality is None else {"jpeg_quality": photo.quality}
    return Picture(frame, photo, measures, {"format": photo.format.lower()})


def _video(ref: PictureRef, sampling: Sampling, frames: Sequence[int] | None) -> Iterator[Picture]:
    measures: dict[str, float] = {}
    facts = {"format": Path(ref.path).suffix.lstrip(".").lower()}
    if frames is None:
        found = probe_video(ref.path)
        frames = choose_frames(
            found.num_frames, num=sampling.num, seconds=sampling.seconds, rate=found.rate
        )
        measures = {"video_kilobits": found.kilobits, "video_rate": found.rate}
        facts["codec"] = found.codec
    for frame, pixels in read_frames(ref.path, frames):
        yield Picture(frame, Photo(pixels, "video", False), measures, facts)
