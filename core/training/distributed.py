"""The processes of a run: who they are, which rows of a batch each takes, how they agree.

Process 0 of a launcher's count is the one that writes and speaks. All of them see the same batch;
rank r of w takes its r-th part of w equal ones. A batch on one process is the case w = 1, and
everything here is free then.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import UsageError, UserError

ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
_MET = threading.Event()  # whether this process has met others
# What torch says when another process has gone; its libraries raise plain RuntimeError for it.
_LOST = ("gloo", "nccl", "connection", "socket", "timed out", "peer", "store")


class RankLostError(UserError):
    """Another process of the run has ended, or does not answer within the time allowed."""

    def __init__(self, rank: int, world: int, reason: str) -> None:
        super().__init__(
            f"rank {rank} of {world}",
            f"another rank ended or does not answer ({reason})",
            "look at what that rank said; the same command continues from the last saved state "
            "(`torchrun --max-restarts` gives it again by itself)",
        )


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them.

    Args:
        rank: number of this process.
        world: number of processes.
        local: number of this process on its machine.
        num_local: number of processes on its machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    num_local: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """Return the rows of a batch of `total` samples that this process takes."""
        size = total // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def mean(self, values: Tensor) -> Tensor:
        """Replace values, in place, by their mean over all processes; the same bits on each."""
        if self.world > 1:
            with self.answering():
                dist.all_reduce(values)
            values /= self.world
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Return the rows of all processes behind each other; each gives as many."""
        if self.world == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.world)]
        with self.answering():
            dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    def most(self, numbers: Sequence[int]) -> list[int]:
        """Return the largest of each number over all processes, so that all of them do the same."""
        if self.world == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.int64)  # on the CPU: waits for no device
        with self.answering():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values.tolist()

    def tell(self, value: Any) -> Any:
        """Return what process 0 gives; plain data, sent as text."""
        import json

        if self.world == 1:
            return value
        text = json.dumps(value).encode() if self.first else b""
        (size,) = self.most([len(text)])
        sent = torch.zeros(size, dtype=torch.uint8)
        if self.first:
            sent = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        with self.answering():
            dist.broadcast(sent, 0)
        return json.loads(bytes(sent.tolist()))

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Name the cause when another process does not answer.

        Raises:
            RankLostError: instead of what torch raises.
        """
        try:
            yield
        except RuntimeError as error:
            if not lost(error, self.world):
                raise
            reason = " ".join(str(error).split())[:200]
            raise RankLostError(self.rank, self.world, reason) from error


ALONE = Ranks()


def lost(error: BaseException, world: int) -> bool:
    """Whether an error says that another process has gone."""
    text = str(error).lower()
    known = isinstance(error, dist.DistError) or any(word in text for word in _LOST)
    return world > 1 and isinstance(error, RuntimeError) and known


def ranks_of(environment: Mapping[str, str]) -> Ranks:
    """Read what a launcher (torchrun, deepspeed) says in the environment.

    Raises:
        UsageError: when it says only half of it, or something impossible.
    """
    if "RANK" not in environment and int(environment.get("WORLD_SIZE", "1")) <= 1:
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", *ADDRESS)
    missing = [name for name in names if name not in environment]
    if missing:
        raise UsageError(
            "environment of the launcher",
            f"lacks {', '.join(missing)}",
            "start with torchrun or deepspeed (docs/scale.md), or unset RANK and WORLD_SIZE",
        )
    rank, world, local = (int(environment[name]) for name in names[:3])
    ranks = Ranks(rank, world, local, int(environment.get("LOCAL_WORLD_SIZE", local + 1)))
    if not 0 <= rank < world or not 0 <= local < ranks.num_local:
        reason = f"names rank {rank} of {world}, number {local} of {ranks.num_local} on its machine"
        raise UsageError("environment of the launcher", reason, "start with torchrun or deepspeed")
    return ranks


def join(
    ranks: Ranks,
    device: torch.device,
    timeout_seconds: float = 600.0,
    *,
    alone_too: bool = False,
) -> None:
    """Find the other processes of a run; does nothing when they were found before.

    Args:
        ranks: of the launcher.
        device: where this process trains.
        timeout_seconds: how long to wait for another process, now and in every later exchange.
        alone_too: make a group of one, for libraries that want a group.

    Raises:
        RankLostError: when the others do not come in time.
    """
    if dist.is_initialized() or (ranks.world == 1 and not alone_too):
        return
    _MET.set()
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    timeout = timedelta(seconds=timeout_seconds)
    if ranks.world == 1:
        memory = getattr(dist, "HashStore")()  # noqa: B009 - torch documents it, its stubs do not
        dist.init_process_group(backend, store=memory, rank=0, world_size=1, timeout=timeout)
        return
    with ranks.answering():
        dist.init_process_group(backend, timeout=timeout)


def leave() -> None:
    """Take leave of the other processes, after all have done their work."""
    if dist.is_initialized():
        dist.destroy_process_group()


def end_process(code: int | str | None) -> None:
    """End this process at once if it ever met others; returns otherwise.

    The threads of torch's gloo give up the tensors of an exchange after whoever waited for it has
    gone on. When Python is already taking itself down by then, the thread is ended in the middle of
    that and takes the process with it (SIGABRT), and a launcher reports a run as failed whose work
    is done. So nothing is taken down: our own threads that write are waited for, what was said is
    flushed. Threads of pools of other libraries wait for a sign that only Python's end gives.

    Args:
        code: what the process was going to end with; a text is printed and stands for 1.
    """
    if not _MET.is_set():
        return
    for thread in threading.enumerate():
        if thread.name.startswith("mimkit-") and not thread.daemon:
            thread.join()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def launched() -> Ranks:
    """Return the processes of this run as the launcher named them."""
    return ranks_of(os.environ)
