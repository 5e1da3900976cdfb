"""The one training loop: batches in order, a log, states to continue from, a clean end on signals.

A run is a function of its settings: order, views, masks and stochastic depth come from (seed,
step), so a run that is killed at any moment and started again ends with the same weights.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..core.batch import Batch, Progress
from ..core.checkpoints.run_state import StateWriter
from ..core.noise import Noise
from ..core.training.distributed import ALONE, RankLostError, Ranks, lost
from ..core.training.engine import (
    Engine,
    NonFiniteLossError,
    SharedNoise,
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
from .faults import StoppedRunError, catching_signals, described
from .progress import Bar
from .run_folder import RunFolder
from .training_states import due, resume, save

__all__ = ["Job", "Position", "StoppedRunError", "fit", "resume", "save"]

MASKS, VIEWS, LAYERS = range(3)  # independent streams of random numbers
SLOW_DATA = 0.1  # share of waiting from which the log says so


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


@dataclass(frozen=True)
class Taken:
    """A step that was begun, for whoever has to look at it again.

    Args:
        where: the run stood when it began.
        progress: of the run.
        samples: this process's, as they are stored.
    """

    where: Position
    progress: Progress
    samples: Samples


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
        ranks: the processes that share every batch.
        watch: returns numbers about features of held-out samples, which take longer, None for none.
        best_by: the number of `validate` that says how good a state is; of a loss lower is better,
            of anything else higher.
    """

    folder: RunFolder
    engine: Engine
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
    ranks: Ranks = ALONE
    watch: Callable[[], Mapping[str, float]] | None = None
    best_by: str = "loss"
    before: Position = field(default_factory=Position, init=False)
    saved_at: float = field(default=0.0, init=False)
    score: float | None = field(default=None, init=False)
    best: float | None = field(default=None, init=False)
    recent: deque[Taken] = field(default_factory=lambda: deque(maxlen=2), init=False)

    def __post_init__(self) -> None:
        """Make what writes states, and let the meter count for all processes."""
        self.writer = StateWriter(self.folder.checkpoints, self.efficiency.keep)
        self.meter.peak *= self.ranks.world

    @property
    def total_steps(self) -> int:
        """Steps of the whole run when every epoch visits all samples."""
        return self.num_epochs * self.loader.num_steps

    def micro_batches(self, step: Taken) -> list[Batch]:
        """Return a step's batch of this process in micro-batches."""
        views = torch.Generator().manual_seed(step_seed(self.seed, step.where.total, VIEWS))
        batch = self.to_batch(step.samples, views)
        micro = self.efficiency.micro_batch or len(step.samples)
        return split(batch, -(-len(step.samples) // micro))

    def noise(self, step: Taken) -> Noise:
        """Return the source of a step's draws, the same on every process."""
        return Noise(step_seed(self.seed, step.where.total, MASKS), self.engine.device)

    def repeat(self, step: Taken) -> Iterator[tuple[Batch, Noise]]:
        """Yield a step's micro-batches with their draws once more."""
        own = len(step.samples)
        shared, start = SharedNoise(self.noise(step), own * self.ranks.world), self.ranks.rank * own
        for batch in self.micro_batches(step):
            yield batch, shared.at(start)
            start += len(batch.ids)


def fit(job: Job) -> None:
    """Train from where the run stands to its end.

    Raises:
        StoppedRunError: when SIGTERM or SIGINT arrived; the state is saved.
        SharedError: when loss or gradient is not finite; the samples of the step are written to
            nonfinite.json and the state before it is saved.
        RankLostError: when another process has gone or does not answer.
        UnsavedStateError: when the state at the end cannot be written.
        UsageError: when the saved state does not fit the model.
    """
    resume(job)
    with catching_signals() as stop, Bar(job.label, job.total_steps, job.position.total) as bar:
        try:
            _fit(job, bar, stop)
        except NonFiniteLossError as error:
            raise described(job, error) from error
        except RuntimeError as error:
            if not lost(error, job.ranks.world):
                raise
            reason = " ".join(str(error).split())[:200]
            raise RankLostError(job.ranks.rank, job.ranks.world, reason) from error


def _fit(job: Job, bar: Bar, stop: list[int]) -> None:
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
    save(job, wait=True)


def run_epoch(job: Job, bar: Bar, stop: list[int]) -> None:
    """Run the rest of the current epoch."""
    order, weight = visiting(job)
    num_steps = job.loader.num_steps if order is None else len(order) // job.loader.batch_size
    num_steps = max(num_steps, 1)
    waited = job.loader.wait_seconds
    for samples in job.loader.epoch(job.position.epoch, job.position.step, order):
        start = job.position
        progress = Progress(start.epoch + start.step / num_steps, job.num_epochs)
        step = Taken(start, progress, samples)
        job.recent.append(step)
        result = one_step(job, step, weight)
        job.before, job.score = start, None
        job.position = Position(start.epoch, start.step + 1, start.total + 1)
        job.meter.count(len(samples) * job.ranks.world, job.loader.wait_seconds - waited)
        waited = job.loader.wait_seconds
        if job.position.total % job.efficiency.log_every == 0 or start.total == 0:
            bar.advance(0, write_line(job, progress, result))
        bar.advance()
        # What one process was told or wants, all do, after the same step.
        signum, save_now = job.ranks.most([stop[0] if stop else 0, due(job)])
        if signum:
            save(job, wait=True)
            raise StoppedRunError(job.position.total, signum)
        if save_now:
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


def one_step(job: Job, step: Taken, weight: Tensor | None) -> StepResult:
    """Make one update from the samples of a step."""
    engine = job.engine
    parts = job.micro_batches(step)
    # Processes draw the layers that they leave out (stochastic depth) each for themselves.
    torch.manual_seed(step_seed(job.seed, step.where.total, LAYERS + 3 * job.ranks.rank))
    places = np.searchsorted(job.loader.rows, step.samples.rows)
    index = torch.from_numpy(places).to(engine.device)
    sample_weight = None if weight is None else weight.to(engine.device)[index]
    result = engine.step(parts, step.progress, job.noise(step), sample_weight)
    if job.pruning is not None:
        job.pruning.update(job.ranks.gather(index), job.ranks.gather(result.per_sample))
    return result


def write_line(job: Job, progress: Progress, result: StepResult) -> str:
    """Log a step; returns what the progress bar shows."""
    loss = float(result.loss)  # reading it waits for the device, so the speed below is honest
    speed = job.meter.read()
    told = getattr(job.engine.model, "scalars", dict)()
    job.folder.log(
        {
            "step": job.position.total,
            "epoch": progress.epoch,
            "loss": loss,
            "terms": {name: float(value) for name, value in result.terms.items()},
            **({"scalars": {name: float(value) for name, value in told.items()}} if told else {}),
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
    epoch, end = job.position.epoch, job.position.epoch == job.num_epochs
    if job.watch is not None and (end or epoch % job.efficiency.probe_every == 0):
        numbers |= job.watch()
    job.engine.model.train()
    job.folder.log({"step": job.position.total, "epoch": job.position.epoch, "val": numbers})
    score = numbers.get(job.best_by)
    if job.efficiency.keep_best and job.position.total and score is not None and np.isfinite(score):
        job.score = score if "loss" in job.best_by else -score
        if job.best is None or job.score < job.best:
            job.best = job.score
            save(job)
    job.meter.restart()
