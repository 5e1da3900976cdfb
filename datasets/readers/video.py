"""Frames of videos as RGB in 8 bits, turned as the container says.

Frames are chosen by number or by time and never at random, so that two runs see the same ones.
Needs the extra "faces" (PyAV).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..errors import DataError
from .photo import MAX_PIXELS

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"))
"""Endings, in lower case, of files that are taken for videos."""

MAX_FRAMES = 2_000_000
"""Largest number of frames, about nine hours at 60 a second."""

INSTALL = "install it with `pip install 'mimkit[faces]'`"
"""What to do without PyAV."""

_AGAIN = "copy it again from its source, or leave it out"


@dataclass(frozen=True)
class VideoFacts:
    """What a video says of itself.

    Attributes:
        num_frames: frames, counted and not taken from the header.
        rate: frames per second; 0 when the container does not say.
        height: rows as stored, before turning.
        width: columns as stored.
        codec: name of the codec, such as "h264".
        kilobits: bits per second / 1000 of the file, 0 when its length is not known.
    """

    num_frames: int
    rate: float
    height: int
    width: int
    codec: str
    kilobits: float


def choose_frames(
    num_frames: int, *, num: int | None = None, seconds: float | None = None, rate: float = 0.0
) -> list[int]:
    """Return which frames to take: evenly spread over the whole, or one every some seconds.

    Evenly spread is `linspace(0, num_frames - 1, num)`, rounded down (curation-faces.md, step 2).

    Args:
        num_frames: frames there are.
        num: frames wanted; all when there are fewer.
        seconds: time between frames, instead of a number.
        rate: frames per second; without it 25 are assumed.
    """
    if num_frames < 1:
        return []
    if seconds is not None:
        step = max(1, round(seconds * (rate or 25.0)))
        return list(range(0, num_frames, step))
    places = np.linspace(0, num_frames - 1, min(num or num_frames, num_frames))
    return sorted({int(place) for place in places})


def probe_video(path: str | Path) -> VideoFacts:
    """Count the frames of a video and return what it says of itself, without decoding.

    Raises:
        DataError: when it is missing, empty, corrupt, too large, or holds no frame; or
            without PyAV.
    """
    path = Path(path)
    with _opened(path) as (container, stream):
        count = sum(1 for packet in container.demux(stream) if packet.size)
        if not 0 < count <= MAX_FRAMES:
            reason = "holds no frame" if not count else f"holds {count} frames"
            raise DataError(path, reason, _AGAIN)
        rate = float(stream.average_rate or 0)
        seconds = count / rate if rate else 0.0
        kilobits = path.stat().st_size * 8 / 1000 / seconds if seconds else 0.0
        return VideoFacts(
            num_frames=count,
            rate=rate,
            height=stream.codec_context.height,
            width=stream.codec_context.width,
            codec=stream.codec_context.name,
            kilobits=kilobits,
        )


def read_frames(
    path: str | Path, frames: Sequence[int]
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """Decode some frames of a video.

    The video is decoded from its start, because jumping to a frame by its time is inexact in many
    containers; nothing is decoded after the last frame that is wanted.

    Args:
        path: the file.
        frames: numbers from 0, ascending.

    Yields:
        Number of the frame and its pixels, (h, w, 3) uint8.

    Raises:
        DataError: when it is missing, empty or corrupt, or ends before a frame that is wanted; or
            without PyAV.
    """
    path, wanted = Path(path), list(frames)
    with _opened(path) as (container, stream):
        found = -1
        for found, frame in enumerate(container.decode(stream)):
            if not wanted:
                return
            if found == wanted[0]:
                wanted.pop(0)
                turns = round(getattr(frame, "rotation", 0) / 90) % 4
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), turns)
                yield found, np.ascontiguousarray(pixels)
    if wanted:
        raise DataError(path, f"ends after frame {found}, before frame {wanted[0]}", _AGAIN)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video and its first stream of pictures; what goes wrong becomes a sentence."""
    try:
        import av
        import av.error
    except ImportError as error:
        raise DataError(path, "is a video, which needs the package av", INSTALL) from error
    if not path.is_file():
        raise DataError(path, "there is no such file", "check the path")
    if path.stat().st_size == 0:
        raise DataError(path, "is empty (0 bytes)", "copy it again from its source")
    try:
        # Only this file: a playlist must not make us open others or the network.
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise DataError(path, "holds no pictures", "give a video")
            stream = container.streams.video[0]
            size = stream.codec_context.width * stream.codec_context.height
            if not 0 < size <= MAX_PIXELS:
                reason = f"claims frames of {size} pixels, not 1 to {MAX_PIXELS}"
                raise DataError(path, reason, _AGAIN)
            yield container, stream
    except (av.error.FFmpegError, ValueError, EOFError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise DataError(path, f"is no video that can be decoded ({text})", _AGAIN) from error
