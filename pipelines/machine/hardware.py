"""Processors, memory and GPUs: what is there, what this process may use, how fast it computes."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from .finding import Finding, gigabytes

LITTLE_MEMORY = 4e9  # bytes; a small ViT with its optimiser and a batch
SLOW_CORE = 5e9  # FLOP per second and core; a tenth of what current ones reach in float32
SLOW_SHARE = 0.3  # of a GPU's data sheet
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Processor:
    """The processor as this process may use it.

    Attributes:
        name: what it calls itself.
        num_cores: cores it has, counting those that share a core once.
        num_usable: logical cores that this process may run on, containers considered.
    """

    name: str
    num_cores: int
    num_usable: int


def hardware() -> list[Finding]:
    """Look at processor, memory and GPUs."""
    return [processor(), memory(), matrix_product(), *gpus()]


def usable_processor() -> Processor:
    """Return what this process may use of the processor."""
    import psutil

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0))
    quota = cpu_quota(_CGROUP)
    if quota is not None:
        usable = max(1, min(usable, int(quota)))
    return Processor(_cpu_name(), cores, usable)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "a processor without a name"


def cpu_quota(group: Path) -> float | None:
    """Return the cores that a container may use at a time, None without a limit.

    Args:
        group: folder of the control group, of version 2.
    """
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else float(quota) / float(period)
    except (OSError, ValueError):
        return None


def memory_limit(group: Path) -> int | None:
    """Return the bytes that a container may use, None without a limit."""
    try:
        text = (group / "memory.max").read_text().strip()
        return None if text == "max" else int(text)
    except (OSError, ValueError):
        return None


def free_memory() -> int:
    """Return the bytes that this process can still use."""
    import psutil

    free, limit = psutil.virtual_memory().available, memory_limit(_CGROUP)
    return free if limit is None else min(free, limit)


def processor() -> Finding:
    """Compare the cores with the threads that torch uses."""
    import torch

    cpu, threads = usable_processor(), torch.get_num_threads()
    kind = torch.backends.cpu.get_cpu_capability()
    found = f"{cpu.name}, {cpu.num_cores} cores, {cpu.num_usable} usable, {threads} threads, {kind}"
    if threads > cpu.num_usable:
        remedy = (
            f"Set OMP_NUM_THREADS={cpu.num_usable}: more threads than cores hold each other up."
        )
        return Finding("processor", found, "slow", remedy)
    if cpu.num_usable < 2:
        remedy = "Give it a second core, so that reading data and computing do not take turns."
        return Finding("processor", found, "slow", remedy)
    if threads == 1:
        remedy = f"Set OMP_NUM_THREADS={cpu.num_usable} for training; one thread is used now."
        return Finding("processor", found, "slow", remedy)
    return Finding("processor", found)


def memory() -> Finding:
    """Look at the memory that is free."""
    import psutil

    free = free_memory()
    found = f"{gigabytes(free)} free of {gigabytes(psutil.virtual_memory().total)}"
    limit = memory_limit(_CGROUP)
    if limit is not None:
        found += f", the container may use {gigabytes(limit)}"
    if free >= LITTLE_MEMORY:
        return Finding("memory", found)
    remedy = "Close other programs, or train with a small --efficiency.micro-batch."
    return Finding("memory", found, "slow", remedy)


def matrix_product() -> Finding:
    """Measure the processor with the operation that training consists of."""
    import torch

    from ...core.training.meters import measured_flops

    speed = measured_flops(torch.device("cpu"))
    found = f"{speed / 1e9:.0f} GFLOP/s in float32 on the processor"
    if speed >= SLOW_CORE * torch.get_num_threads():
        return Finding("matrix product", found)
    remedy = "See whether other programs use the processor (`top`), and use the wheels of torch."
    return Finding("matrix product", found, "slow", remedy)


def gpus() -> list[Finding]:
    """Look at every GPU: memory, bf16, and whether it reaches what its data sheet says."""
    import torch

    if torch.cuda.is_available():
        return [_gpu(torch.device("cuda", i)) for i in range(torch.cuda.device_count())]
    found = f"none that torch {torch.__version__} can use"
    remedy = "Small models train on the processor; larger ones need an NVIDIA GPU."
    if shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        wanted = torch.version.cuda or "none: this torch is built without CUDA"
        remedy = f"A GPU is there: its driver must support this torch's CUDA ({wanted})."
    return [Finding("GPU", found, "missing", remedy)]


def _gpu(device: object) -> Finding:
    import torch

    from ...core.training.meters import measured_flops, peak_flops

    assert isinstance(device, torch.device)
    topic = f"GPU {device.index}"
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
    number = torch.bfloat16 if bf16 else torch.float32
    speed = measured_flops(device, 4096, number)
    found = f"{properties.name}, {gigabytes(free)} free of {gigabytes(total)}"
    if not bf16:
        found += f", {speed / 1e12:.1f} TFLOP/s in float32"
        return Finding(topic, found, "slow", "It has no fast bf16; train with --precision fp32.")
    found += f", {speed / 1e12:.0f} TFLOP/s in bf16"
    if speed < SLOW_SHARE * peak_flops(device):
        remedy = "It reaches little of its data sheet: see what else it does (`nvidia-smi`)."
        return Finding(topic, found, "slow", remedy)
    if free < LITTLE_MEMORY:
        return Finding(topic, found, "slow", "End what fills its memory (`nvidia-smi` lists it).")
    return Finding(topic, found)
