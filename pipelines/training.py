"""The one training loop: batches in order, a log, states to continue from, a clean end on signals.

A run is a function of its settings: order, views, masks and stochastic depth come from (seed,
step), so a run that is killed at any moment and started again ends with the same weights.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch, Progress
from ..core.checkpoints.run_state import RunState, load_latest, save_state
from ..core.errors import UsageError, UserError, WeightsError
from ..core.files import write_text
from ..core.noise import Noise
from ..core.training.engine import (
    NonFiniteLossError,
    PlainEngine,
    StepResult,
    split,
    step_seed,
)
from ..core.training.meters import Speed, SpeedMeter
from ..core.training.pruning import InfoBatch
from ..datasets.loader import Loader
from ..datasets.order import epoch_order
from ..datasets.samples import Samples
from .efficiency import Efficiency
from .progress import Bar, say
from .run_folder import RunFolder

MASKS, VIEWS, LAYERS = range(3)  # independent streams of random numbers
SLOW_DATA = 0.1  # share of waiting from which the log says so


class StoppedRunError(UserError):
    """A run that was asked to stop and saved its state first."""

    def __init__(self, step: int, signum: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signum).name}",
            f"the state after step {step} is saved",
            "give the same command again to continue",
        )
        # A scheduler that preempts a job expects a clean end; a person who presses Ctrl-C does not.
        self.exit_code = 0 if signum == signal.SIGTERM else 130


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Args:
        epoch: epochs that are done.
        step: steps that are done in the current epoch.
        total: steps that are done in the run.
    """

    epoch: int = 0
    step: int = 0
    total: int = 0


@dataclass
class Job:
    """A run ready to go.

    Args:
        folder: where log and states go.
        engine: makes updates.
        loader: hands over stored samples in the order of an epoch.
        to_batch: turns them into a batch; the generator is the source of random views.
        num_epochs: length of the run.
        seed: of everything random.
        efficiency: what changes speed, not results.
        meter: counts images and time.
        pruning: chooses the samples of an epoch by their losses, None visits all.
        validate: returns numbers about held-out samples, None when there are none.
        label: what the progress bar says.
        position: where the run stands.
        sampling: places in the loader's rows that an epoch visits, in order; None visits all. Not
            together with pruning.
    """

    folder: RunFolder
    engine: PlainEngine
    loader: Loader
    to_batch: Callable[[Samples, torch.Generator], Batch]
    num_epochs: int
    seed: int
    efficiency: Efficiency
    meter: SpeedMeter
    pruning: InfoBatch | None = None
    validate: Callable[[], Mapping[str, float]] | None = None
    label: str = "pretrain"
    position: Position = field(default_factory=Position)
    sampling: Callable[[int], np.ndarray] | None = None
    saved_at: float = field(default=0.0, init=False)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run when every epoch visits all samples."""
        return self.num_epochs * self.loader.num_steps


def fit(job: Job) -> None:
    """Train from where the run stands to its end.

    Raises:
        StoppedRunError: when SIGTERM or SIGINT arrived; the state is saved.
        NonFiniteLossError: when loss or gradient is not finite; the samples of the step are written
            to nonfinite.json and the last saved state is left alone.
        UsageError: when the saved state does not fit the model.
    """
    resume(job)
    with catching_signals() as stop, Bar(job.label, job.total_steps, job.position.total) as bar:
        job.meter.restart()
        job.saved_at = time.monotonic()
        if job.position == Position():
            _validate(job)
        while job.position.epoch < job.num_epochs:
            run_epoch(job, bar, stop)
            job.position = Position(job.position.epoch + 1, 0, job.position.total)
            last = job.position.epoch == job.num_epochs
            if last or job.position.epoch % job.efficiency.validate_every == 0:
                _validate(job)
        save(job)


def run_epoch(job: Job, bar: Bar, stop: list[int]) -> None:
    """Run the rest of the current epoch."""
    order, weight = visiting(job)
    num_steps = job.loader.num_steps if order is None else len(order) // job.loader.batch_size
    num_steps = max(num_steps, 1)
    waited = job.loader.wait_seconds
    for samples in job.loader.epoch(job.position.epoch, job.position.step, order):
        start = job.position
        progress = Progress(start.epoch + start.step / num_steps, job.num_epochs)
        result = one_step(job, samples, progress, weight)
        job.position = Position(start.epoch, start.step + 1, start.total + 1)
        job.meter.count(len(samples), job.loader.wait_seconds - waited)
        waited = job.loader.wait_seconds
        if job.position.total % job.efficiency.log_every == 0 or start.total == 0:
            bar.advance(0, write_line(job, progress, result))
        bar.advance()
        if stop:
            save(job)
            raise StoppedRunError(job.position.total, stop[0])
        if due(job):
            save(job)


def visiting(job: Job) -> tuple[np.ndarray | None, Tensor | None]:
    """Return the places in the loader's rows that the epoch visits, and the weight of each place.

    None stands for all of them in the usual order, and for equal weights.
    """
    if job.pruning is None:
        return (None if job.sampling is None else job.sampling(job.position.epoch)), None
    if job.position.step == 0:
        job.pruning.begin_epoch()
    chosen = job.pruning.select(job.position.epoch)
    everything = epoch_order(job.seed, job.position.epoch, len(job.loader.rows))
    order = everything[np.isin(everything, chosen.index.numpy())]
    if len(order) < job.loader.batch_size:  # a tiny set must still make a step
        return everything, chosen.weight
    return order, chosen.weight


def one_step(job: Job, samples: Samples, progress: Progress, weight: Tensor | None) -> StepResult:
    """Make one update from the samples of a step."""
    engine, total = job.engine, job.position.total
    views = torch.Generator().manual_seed(step_seed(job.seed, total, VIEWS))
    batch = job.to_batch(samples, views)
    torch.manual_seed(step_seed(job.seed, total, LAYERS))
    noise = Noise(step_seed(job.seed, total, MASKS), engine.device)
    micro = job.efficiency.micro_batch or len(samples)
    parts = split(batch, -(-len(samples) // micro))
    places = np.searchsorted(job.loader.rows, samples.rows)
    index = torch.from_numpy(places).to(engine.device)
    sample_weight = None if weight is None else weight.to(engine.device)[index]
    try:
        result = engine.step(parts, progress, noise, sample_weight)
    except NonFiniteLossError as error:
        raise described(job, error) from error
    if job.pruning is not None:
        job.pruning.update(index, result.per_sample)
    return result


def described(job: Job, error: NonFiniteLossError) -> UserError:
    """Write down which samples made a step that is not finite, and say where."""
    path = job.folder.path / "nonfinite.json"
    content = {"step": job.position.total, "rows": error.ids.tolist(), "loss": error.terms}
    import json

    write_text(path, json.dumps(content, indent=1) + "\n")
    return UserError(
        error.subject,
        f"{error.reason} at step {job.position.total}",
        f"the rows of its samples are in {path}; the last saved state is untouched; {error.remedy}",
    )


def write_line(job: Job, progress: Progress, result: StepResult) -> str:
    """Log a step; returns what the progress bar shows."""
    loss = float(result.loss)  # reading it waits for the device, so the speed below is honest
    speed = job.meter.read()
    job.folder.log(
        {
            "step": job.position.total,
            "epoch": progress.epoch,
            "loss": loss,
            "terms": {name: float(value) for name, value in result.terms.items()},
            "lr": result.lr,
            "grad_norm": float(result.grad_norm),
            **_speed(speed),
        }
    )
    waiting = f", waits for data {speed.data_wait:.0%}" if speed.data_wait > SLOW_DATA else ""
    return f"loss {loss:.4f}, {speed.images_per_s:.0f} images/s, MFU {speed.mfu:.0%}{waiting}"


def _speed(speed: Speed) -> dict[str, float]:
    names = ("images_per_s", "tokens_per_s", "mfu", "data_wait", "memory_mb", "seconds")
    return {name: getattr(speed, name) for name in names}


def _validate(job: Job) -> None:
    if job.validate is None:
        return
    job.engine.model.eval()
    numbers = dict(job.validate())
    job.engine.model.train()
    job.folder.log({"step": job.position.total, "epoch": job.position.epoch, "val": numbers})
    job.meter.restart()


def due(job: Job) -> bool:
    """Whether it is time to save a state."""
    every = job.efficiency.checkpoint_every
    if every is not None:
        return job.position.total % every == 0
    return time.monotonic() - job.saved_at > 60 * job.efficiency.checkpoint_minutes


def save(job: Job) -> None:
    """Write a state from which the run can go on."""
    job.engine.check()  # never save what a bad step has touched
    tensors = job.engine.state() | (job.pruning.state() if job.pruning else {})
    where = job.position
    meta: dict[str, Any] = {"epoch": where.epoch, "step": where.step, "total": where.total}
    meta |= {"identity": job.folder.identity, "log_size": job.folder.log_size()}
    save_state(job.folder.checkpoints, where.total, tensors, meta, keep=job.efficiency.keep)
    job.saved_at = time.monotonic()


def resume(job: Job) -> None:
    """Continue from the newest whole state, if there is one.

    Raises:
        UsageError: when the state belongs to another run.
        WeightsError: when it does not fit the model.
    """
    state = load_latest(job.folder.checkpoints)
    if state is None:
        job.folder.cut_log(0)
        return
    meta = state.meta
    if meta.get("identity") != job.folder.identity:
        raise UsageError(state.path, "is the state of another run", "choose another --out")
    job.engine.load_state(state.tensors, state.path)
    _load_pruning(job, state)
    job.position = Position(meta["epoch"], meta["step"], meta["total"])
    job.folder.cut_log(meta["log_size"])
    say(f"continues after step {job.position.total} ({state.path})")


def _load_pruning(job: Job, state: RunState) -> None:
    if job.pruning is None:
        return
    try:
        job.pruning.load_state(state.tensors)
    except KeyError as error:
        raise WeightsError(state.path, f"lacks {error}", "start a new run") from error


@contextmanager
def catching_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying from them; a second one of a kind is deadly."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(signum: int, frame: FrameType | None) -> None:
        del frame
        received.append(signum)
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
