"""Batches in the order of an epoch, read ahead by threads.

Reading is `pread` and decompression, which both release Python's lock, so threads run side by side;
no worker processes, no pickling, no shared memory. How many threads there are changes no batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread, current_thread

import numpy as np

from .errors import DataError
from .order import batch_indices, epoch_order, num_steps
from .samples import Samples
from .store import Store

_JOIN_SECONDS = 1.0


@dataclass
class _Task:
    """A batch that is to be read: its rows, who reads it, what comes out."""

    rows: np.ndarray
    future: Future[Samples] = field(default_factory=Future)
    worker: str = "no thread yet"


class Loader:
    """Reads the samples of an epoch in batches.

    Args:
        store: where the samples are.
        rows: (n,) rows of the store that take part.
        batch_size: samples per step over all ranks.
        seed: of the order.
        num_threads: threads that read, at least 1.
        prefetch: batches that are read ahead, at least 1; there are never fewer than threads.
        drop_last: leave out a last batch that is not full. Otherwise it is smaller, and with
            several ranks some of them may get a batch without samples.
        rank: this process, 0 <= rank < world.
        world: number of processes; their shares partition every batch.
        labels: read dense labels as well.
        timeout_seconds: time after which a batch that does not arrive is an error.

    Raises:
        ValueError: for a number that is out of range.
        DataError: when there are too few samples for a batch, or labels are asked for and the
            store has none.
    """

    def __init__(
        self,
        store: Store,
        rows: np.ndarray,
        batch_size: int,
        seed: int,
        *,
        num_threads: int = 2,
        prefetch: int = 2,
        drop_last: bool = True,
        rank: int = 0,
        world: int = 1,
        labels: bool = False,
        timeout_seconds: float = 600.0,
    ) -> None:
        for name, value in [
            ("batch_size", batch_size),
            ("num_threads", num_threads),
            ("prefetch", prefetch),
        ]:
            if value < 1:
                raise ValueError(f"{name} {value} must be at least 1")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} must lie in [0, {world})")
        self.store, self.rows = store, np.asarray(rows, dtype=np.int64)
        self.batch_size, self.seed, self.drop_last = batch_size, seed, drop_last
        self._rank, self._world, self._labels = rank, world, labels
        self._num_threads, self._depth = num_threads, max(prefetch, num_threads)
        self._timeout = timeout_seconds
        self._waited = 0.0
        store.read(self.rows[:1], labels=labels)  # what is wrong with all samples is said at once
        if drop_last and len(self.rows) < batch_size:
            reason = f"{len(self.rows)} samples do not fill a batch of {batch_size}"
            raise DataError(store.path, reason, "lower the batch size, or curate more data")

    @property
    def num_steps(self) -> int:
        """Batches of an epoch that visits all rows."""
        return num_steps(len(self.rows), self.batch_size, self.drop_last)

    @property
    def wait_seconds(self) -> float:
        """Time that whoever asked for batches has spent waiting for them, since construction."""
        return self._waited

    def epoch(
        self, epoch: int, start_step: int = 0, order: np.ndarray | None = None
    ) -> Iterator[Samples]:
        """Iterate over the batches of an epoch; leaving the loop early stops the threads.

        Args:
            epoch: number of the epoch, from 0.
            start_step: first step to read, for a run that goes on in the middle.
            order: (m,) places in `rows` in visiting order, where a method chooses them itself;
                by default a permutation of all, a function of seed and epoch.

        Returns:
            Iterator over the samples of this rank, one item per step.

        Raises:
            DataError: while iterating, naming the sample, when it cannot be read in time.
        """
        if order is None:
            order = epoch_order(self.seed, epoch, len(self.rows))
        elif len(order) and not 0 <= np.min(order) <= np.max(order) < len(self.rows):
            raise ValueError(f"order has places outside 0 to {len(self.rows) - 1}")
        total = num_steps(len(order), self.batch_size, self.drop_last)
        if not 0 <= start_step <= total:
            raise ValueError(f"start_step {start_step} must lie in [0, {total}]")
        visited = self.rows[order]
        return self._read_ahead(
            batch_indices(visited, step, self.batch_size, self._rank, self._world)
            for step in range(start_step, total)
        )

    def _read_ahead(self, batches: Iterator[np.ndarray]) -> Iterator[Samples]:
        tasks: SimpleQueue[_Task | None] = SimpleQueue()
        # Daemons, because a read that hangs must not keep the program from ending.
        threads = [
            Thread(target=self._work, args=(tasks,), name=f"mimkit-loader-{i}", daemon=True)
            for i in range(self._num_threads)
        ]
        for thread in threads:
            thread.start()
        pending: deque[_Task] = deque()
        try:
            while True:
                while len(pending) < self._depth and (rows := next(batches, None)) is not None:
                    pending.append(_Task(rows))
                    tasks.put(pending[-1])
                if not pending:
                    return
                yield self._await(pending.popleft())
        finally:
            for task in pending:
                task.future.cancel()
            for _ in threads:
                tasks.put(None)
            for thread in threads:
                thread.join(_JOIN_SECONDS)

    def _await(self, task: _Task) -> Samples:
        start, rows = time.perf_counter(), task.rows
        try:
            return task.future.result(self._timeout)
        except TimeoutError as error:
            listed = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
            reason = f"{task.worker} has been reading for more than {self._timeout:g} seconds"
            remedy = "check that the disk or network folder answers, or allow more time"
            raise DataError(f"{self.store.path} rows {listed}", reason, remedy) from error
        finally:
            self._waited += time.perf_counter() - start

    def _work(self, tasks: SimpleQueue[_Task | None]) -> None:
        while (task := tasks.get()) is not None:
            task.worker = current_thread().name
            if not task.future.set_running_or_notify_cancel():
                continue
            try:
                task.future.set_result(self.store.read(task.rows, labels=self._labels))
            except BaseException as error:
                task.future.set_exception(error)
