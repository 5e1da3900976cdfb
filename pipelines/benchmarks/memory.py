"""How much memory work needs: what is kept for a backward pass, and the peak of a process."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def saved_bytes(work: Callable[[], object], given: Iterable[Tensor] = ()) -> int:
    """Return the bytes that a forward pass keeps for its backward pass; exact, on any device.

    Memory that several tensors share counts once. Nothing is given back before the backward pass
    asks for it, so no address is counted for two things.

    Args:
        work: computes something with gradients.
        given: tensors that are there anyway, weights and inputs; they do not count.
    """
    ours = {tensor.untyped_storage().data_ptr() for tensor in given}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = work()
    del result
    return sum(kept.values())


def in_child(work: Callable[..., T], *args: object) -> T:
    """Call a function in a fresh process, whose memory is its own, and return what it returns.

    Args:
        work: function of a module, so that the process finds it.
        args: its arguments; they are pickled.
    """
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(work, *args).result()


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    import psutil

    return psutil.Process().memory_info().rss


def peak_resident() -> int:
    """Return the largest number of bytes that this process ever held.

    Linux tells it for the program that runs; `ru_maxrss` there starts with what the parent held.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
