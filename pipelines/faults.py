"""What can go wrong in a run, and what is said and kept then."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from ..core.errors import UserError
from ..core.files import write_text
from ..core.training.engine_parts import NonFiniteLossError
from ..core.training.ranges import readable, recording_ranges
from .training_states import save

if TYPE_CHECKING:
    from .training import Job


class SharedError(UserError):
    """An error that every process of a run finds in the same moment, so that one may say it."""


class StoppedRunError(SharedError):
    """A run that was asked to stop and saved its state first."""

    def __init__(self, step: int, signum: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name}",
            f"the state after step {step} is saved",
            "give the same command again to continue",
        )
        # A scheduler that preempts a job expects a clean end; a person who presses Ctrl-C does not.
        self.exit_code = 0 if signum == signal.SIGTERM else 130


@contextmanager
def catching_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying from them; a second SIGINT is deadly.

    A second SIGTERM is not: a launcher and the scheduler above it may both send one, while the
    state is being saved.
    """
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(signum: int, frame: FrameType | None) -> None:
        del frame
        received.append(signum)
        if signum == signal.SIGINT:
            signal.signal(signum, before[signum])

    try:
        for signum in (signal.SIGTERM, signal.SIGINT):
            before[signum] = signal.getsignal(signum)
            signal.signal(signum, note)
    except ValueError:  # signals belong to the main thread; elsewhere they stay as they are
        before.clear()
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def described(job: Job, error: NonFiniteLossError) -> SharedError:
    """Write down what is known about a step that is not finite, save the state before it, say so.

    All processes of a run call it. nonfinite.json names the step, the rows of its samples, the loss
    of each head, and what every transformer block puts out for the samples, by process.
    """
    where = job.before if error.late else job.position
    step = next(taken for taken in job.recent if taken.where == where)
    job.position = step.where
    content = {
        "step": step.where.total,
        "rows": job.ranks.gather(error.ids.to(job.engine.device)).tolist(),
        "loss": error.terms,
        "blocks": block_ranges(job, step),
    }
    path = job.folder.path / "nonfinite.json"
    if job.ranks.first:
        write_text(path, json.dumps(plain(content), indent=1, allow_nan=False) + "\n")
    try:
        save(job, wait=True)
        kept = f"the state before it is saved in {job.folder.checkpoints}"
    except UserError as unsaved:
        kept = f"the last saved state is untouched, but {unsaved}"
    return SharedError(
        error.subject,
        f"{error.reason} at step {step.where.total}",
        f"its samples and the ranges in every block are in {path}; {kept}; {error.remedy}",
    )


@torch.no_grad()
def block_ranges(job: Job, step: Any) -> dict[str, dict[str, Any]]:
    """Compute a step again, in evaluation mode, and return what each block puts out."""
    engine = job.engine
    engine.model.eval()
    with recording_ranges(engine.model) as ranges, engine.arithmetic():
        for batch, noise in job.repeat(step):
            engine.model(batch, step.progress, noise)
    engine.model.train()
    if not ranges:
        return {}
    found = torch.stack(list(ranges.values()))
    parts = job.ranks.gather(found[None])
    low, high = parts[:, :, 0].amin(dim=0), parts[:, :, 1].amax(dim=0)
    merged = torch.stack([low, high, parts[:, :, 2].sum(dim=0)], dim=1)
    return readable(dict(zip(ranges, merged, strict=True)))


def plain(value: Any) -> Any:
    """Return plain data in which numbers that JSON does not know are words."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return str(value)
    return value
