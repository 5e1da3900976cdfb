"""Do two processes of this machine reach each other? One sum over both, with a time limit."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

from .finding import Finding

Backend = Literal["gloo", "nccl"]
_SUM = 3  # of 1 and 2
_PROGRAM = """
import sys
from datetime import timedelta

import torch
from torch import distributed

backend, meeting, rank, size, seconds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
if backend == "nccl":
    torch.cuda.set_device(device)
distributed.init_process_group(
    backend,
    init_method="file://" + meeting,
    rank=rank,
    world_size=size,
    timeout=timedelta(seconds=seconds),
)
number = torch.tensor([rank + 1.0], device=device)
distributed.all_reduce(number)
print(int(number.item()))
distributed.destroy_process_group()
"""


def talking(seconds: int) -> list[Finding]:
    """Add up a number over two processes on the CPU and, where there are GPUs, over two of them.

    Args:
        seconds: time limit of each trial, the start of Python and torch included.
    """
    import torch
    from torch import distributed

    if not distributed.is_available():
        return []  # what `software.communication` says
    found = [talk("gloo", 2, seconds)] if distributed.is_gloo_available() else []
    if torch.cuda.is_available() and distributed.is_nccl_available():
        found.append(talk("nccl", min(2, torch.cuda.device_count()), seconds))
    return found


def talk(backend: Backend, num_processes: int, seconds: int) -> Finding:
    """Let processes add up their numbers.

    Args:
        backend: how they talk.
        num_processes: one or two; NCCL wants a GPU for each.
        seconds: time limit; processes that are left then are ended.
    """
    topic = f"between processes: {backend}"
    with tempfile.TemporaryDirectory(prefix="mimkit-doctor-") as folder:
        started = time.monotonic()
        outcome = _run(backend, num_processes, seconds, Path(folder))
        took = time.monotonic() - started
    wanted = _SUM if num_processes == 2 else 1
    if outcome == [str(wanted)] * num_processes:
        several = "two processes" if num_processes == 2 else "one process, on the only GPU"
        return Finding(topic, f"a sum over {several}, {took:.0f} s with their start")
    remedy = "Training in several processes will not start: see whether a firewall is in the way"
    remedy += (
        ", and name the network with GLOO_SOCKET_IFNAME (`ip addr` lists them)."
        if backend == "gloo"
        else ", and run with NCCL_DEBUG=INFO to see where it stops."
    )
    said = next(text for text in outcome if text != str(wanted))
    return Finding(topic, f"no sum over {num_processes} processes: {said}", "missing", remedy)


def _run(backend: Backend, num_processes: int, seconds: int, folder: Path) -> list[str]:
    """Return what each process said last: its sum, or why there is none."""
    children = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", _PROGRAM, backend, str(folder / "meeting")),
                *(str(rank), str(num_processes), str(seconds)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_processes)
    ]
    deadline, said = time.monotonic() + seconds, list[str]()
    try:
        for child in children:
            try:
                out, err = child.communicate(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                said.append(f"no answer within {seconds} s")
                continue
            lines = (out if child.returncode == 0 else err).strip().splitlines()
            said.append(lines[-1] if lines else f"ended with exit code {child.returncode}")
    finally:
        for child in children:
            child.kill()
            child.wait()
    return said
