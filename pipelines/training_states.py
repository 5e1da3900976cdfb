"""When a run saves its state, what is in it, and how it goes on from one."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..core.checkpoints.run_state import (
    RunState,
    UnsavedStateError,
    list_states,
    load_latest,
    read_state,
)
from ..core.errors import UsageError, WeightsError
from .progress import say

if TYPE_CHECKING:
    from .training import Job


def due(job: Job) -> bool:
    """Whether it is time to save a state; the first process decides for all."""
    if not job.ranks.first or job.writer.busy:
        return False
    every = job.efficiency.checkpoint_every
    if every is not None:
        return job.position.total % every == 0
    return time.monotonic() - job.saved_at > 60 * job.efficiency.checkpoint_minutes


def save(job: Job, *, wait: bool = False) -> None:
    """Write a state from which the run can go on; all processes take part, the first one writes.

    Training goes on while it is written. One that cannot be written is said aloud and tried again
    when the next one is due; whoever waits for it gets the error.

    Args:
        job: the run.
        wait: come back when it is on disk.

    Raises:
        UnsavedStateError: when it cannot be written, and somebody waits for it.
    """
    job.engine.check()  # never save what a bad step has touched
    tensors = job.engine.state() | (job.pruning.state() if job.pruning else {})
    where = job.position
    meta: dict[str, Any] = {"epoch": where.epoch, "step": where.step, "total": where.total}
    meta |= {"identity": job.folder.identity, "log_size": job.folder.log_size()}
    meta |= {"engine": job.efficiency.engine, "world": job.ranks.world, "best": job.best}
    job.saved_at = time.monotonic()
    if not job.ranks.first:
        return
    complain(job)
    job.writer.write(where.total, tensors, meta, job.score)
    if wait:
        job.writer.wait()


def complain(job: Job) -> None:
    """Wait for the state before and say if it could not be written, without ending the run."""
    try:
        job.writer.wait()
    except UnsavedStateError as error:
        say(f"warning: {error}")
        job.folder.log({"step": job.position.total, "unsaved": str(error)})


def resume(job: Job) -> None:
    """Continue from the newest whole state, if there is one.

    Raises:
        UsageError: when the state belongs to another run.
        WeightsError: when it does not fit the model, or another process cannot see it.
    """
    state = find_state(job)
    if state is None:
        job.folder.cut_log(0)
        return
    meta = state.meta
    if meta.get("identity") != job.folder.identity:
        raise UsageError(state.path, "is the state of another run", "choose another --out")
    for path in state.damaged:
        say(f"warning: {path} is damaged and passed over")
    job.engine.load_state(state.tensors, state.path)
    _load_pruning(job, state)
    job.position = replace(
        job.position, epoch=meta["epoch"], step=meta["step"], total=meta["total"]
    )
    job.best = meta.get("best")
    job.folder.cut_log(meta["log_size"])
    say(f"continues after step {job.position.total} ({state.path})")


def find_state(job: Job) -> RunState | None:
    """Return the newest whole state; the first process chooses, so that all take the same.

    Raises:
        WeightsError: when all are damaged, or this process cannot read the chosen one.
    """
    folder = job.folder.checkpoints
    state, problem = None, None
    if job.ranks.first:
        try:
            state = load_latest(folder)
        except WeightsError as error:
            problem = error
    chosen = job.ranks.tell(None if state is None else state.path.name)
    broken = job.ranks.tell(problem is not None)
    if problem is not None:
        raise problem
    if broken:
        raise SystemExit(WeightsError.exit_code)
    if chosen is None or job.ranks.first:
        return state
    state = read_state(folder / chosen)
    if state is None:
        seen = ", ".join(path.name for path in list_states(folder)) or "none"
        raise WeightsError(
            folder / chosen,
            f"cannot be read by process {job.ranks.rank}, which sees {seen}",
            "put --out on a disk that all machines share",
        )
    return state


def _load_pruning(job: Job, state: RunState) -> None:
    if job.pruning is None:
        return
    try:
        job.pruning.load_state(state.tensors)
    except KeyError as error:
        raise WeightsError(state.path, f"lacks {error}", "start a new run") from error
