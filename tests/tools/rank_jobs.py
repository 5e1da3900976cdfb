"""Runs of several processes in tests: one such run at a time, whatever starts the tests."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tiny_store import TINY


@contextmanager
def only_job() -> Iterator[None]:
    """Wait until no other test on this machine runs several processes."""
    with (Path(tempfile.gettempdir()) / "mimkit-tests-ranks.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pretrain_words(store: Path, out: Path, *options: str) -> list[str]:
    """Return the words of a tiny pre-training run."""
    return ["pretrain", "--data", str(store), "--out", str(out), *TINY, *options]


def torchrun(words: Sequence[str], *options: str, num: int = 2) -> list[str]:
    """Return the command that starts processes of one machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *options]
    return [*launcher, "--nproc-per-node", str(num), *words]


def start(command: Sequence[str], more: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command whose output can be read."""
    return subprocess.Popen(
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(more or {})},
    )


def ends(process: subprocess.Popen[str], seconds: float) -> str:
    """Wait for the end of a process and return what it said on stderr."""
    try:
        return process.communicate(timeout=seconds)[1]
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
