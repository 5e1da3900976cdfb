"""How much room a disk has and how fast files, and a store's samples, are read from it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .finding import Finding, gigabytes

LITTLE_ROOM = 10e9  # bytes
SLOW_STREAM = 100e6  # bytes per second; what a single hard disk does
SLOW_PIECES = 500  # a second; a hard disk does a hundred, a solid-state one thousands
PIECE = 1 << 17  # bytes, about one sample
_BLOCK = 1 << 23


@dataclass(frozen=True)
class DiskSpeed:
    """How fast a file is read that is not in memory.

    Attributes:
        stream: bytes per second from its start to its end.
        pieces: pieces of 128 KiB per second at random places.
    """

    stream: float
    pieces: float


def disk(folder: Path, num_bytes: int) -> list[Finding]:
    """Look at the room in a folder and measure reading from it.

    Args:
        folder: an existing folder.
        num_bytes: size of the file that is written there for a moment.
    """
    usage = shutil.disk_usage(folder)
    found = f"{gigabytes(usage.free)} free of {gigabytes(usage.total)} in {folder.resolve()}"
    room = Finding("disk", found)
    if usage.free < max(LITTLE_ROOM, 2 * num_bytes):
        remedy = "Make room: stores, checkpoints and maps of archives take many GB."
        room = Finding("disk", found, "slow", remedy)
    if usage.free < 2 * num_bytes:
        return [room]
    try:
        speed = disk_speed(folder, num_bytes)
    except OSError as error:
        remedy = "Choose a folder that can be written with --folder."
        return [room, Finding("reading files", f"cannot be tried ({error})", "missing", remedy)]
    found = f"{speed.stream / 1e6:.0f} MB/s in a row, {speed.pieces:.0f} random 128 KiB a second"
    if speed.stream >= SLOW_STREAM and speed.pieces >= SLOW_PIECES:
        return [room, Finding("reading files", found)]
    remedy = "Copy stores to a solid-state disk of this machine before you train."
    return [room, Finding("reading files", found, "slow", remedy)]


def disk_speed(folder: Path, num_bytes: int, max_pieces: int = 400) -> DiskSpeed:
    """Measure reading from a disk, past the system's memory of recent files.

    Args:
        folder: where a file of random bytes is written for a moment.
        num_bytes: its size; rounded up to whole blocks of 8 MiB.
        max_pieces: random pieces that are read.

    Raises:
        OSError: when the file cannot be written or read.
    """
    num_blocks = max(1, -(-num_bytes // _BLOCK))
    random = np.random.default_rng(0)
    with _random_file(folder, num_blocks, random) as descriptor:
        _forget(descriptor)
        start = time.perf_counter()
        for block in range(num_blocks):
            os.pread(descriptor, _BLOCK, block * _BLOCK)
        stream = num_blocks * _BLOCK / _since(start)
        _forget(descriptor)
        places = random.permutation(num_blocks * _BLOCK // PIECE)[:max_pieces]
        start = time.perf_counter()
        for place in places.tolist():
            os.pread(descriptor, PIECE, place * PIECE)
        return DiskSpeed(stream, len(places) / _since(start))


@contextmanager
def _random_file(folder: Path, num_blocks: int, random: np.random.Generator) -> Iterator[int]:
    """Open a file that is gone from its folder already, so that nothing can be left behind."""
    with tempfile.TemporaryFile(dir=folder, prefix=".mimkit-doctor-") as stream:
        for _ in range(num_blocks):
            stream.write(random.bytes(_BLOCK))
        stream.flush()
        yield stream.fileno()


def _forget(descriptor: int) -> None:
    """Ask the system to drop what it keeps of the file in memory."""
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _since(start: float) -> float:
    return max(time.perf_counter() - start, 1e-9)
