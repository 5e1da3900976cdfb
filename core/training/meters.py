"""How fast a run is, and what it waits for."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass, field

import torch

from .flops import FlopCount

# Dense bf16 matrix products without sparsity, FLOP per second, from the makers' data sheets.
PEAK_FLOPS = {
    "A100": 312e12,
    "A10": 125e12,
    "A30": 165e12,
    "A40": 150e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "H800": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
}


def peak_flops(device: torch.device) -> float:
    """Return the FLOP per second that counts as full use of a device.

    For a known GPU the dense bf16 figure of its maker; for anything else what a large float32
    product reaches right now with the threads that are set.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        # Longer names first: "H100 PCIe" is another machine than "H100".
        for known in sorted(PEAK_FLOPS, key=len, reverse=True):
            if all(word in name for word in known.split()):
                return PEAK_FLOPS[known]
    return measured_flops(device)


def measured_flops(
    device: torch.device, size: int = 768, dtype: torch.dtype = torch.float32
) -> float:
    """Return the FLOP per second of the fastest of a few square products."""
    a = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


@dataclass(frozen=True)
class Speed:
    """Speed over one interval.

    Args:
        images_per_s: samples per second, waiting included.
        tokens_per_s: tokens that were encoded or predicted, per second.
        mfu: share of the device's peak that the method's arithmetic made up.
        data_wait: share of the time in which the step waited for data.
        memory_mb: largest memory so far: allocated on a GPU, resident of the process on a CPU.
        seconds: length of the interval.
    """

    images_per_s: float
    tokens_per_s: float
    mfu: float
    data_wait: float
    memory_mb: float
    seconds: float


@dataclass
class SpeedMeter:
    """Counts samples and time between two lines of a log.

    Args:
        flops: what one sample costs.
        num_tokens: tokens of a sample that are encoded or predicted.
        device: where training runs.
        peak: FLOP per second of full use; measured when not given.
    """

    flops: FlopCount
    num_tokens: int
    device: torch.device
    peak: float = 0.0
    num_images: int = field(default=0, init=False)
    waited: float = field(default=0.0, init=False)
    started: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """Measure the device and start the clock."""
        self.peak = self.peak or peak_flops(self.device)
        self.restart()

    def restart(self) -> None:
        """Begin a new interval."""
        self.num_images, self.waited, self.started = 0, 0.0, time.perf_counter()

    def count(self, num_images: int, waited: float) -> None:
        """Add a step: its samples and the seconds it waited for data."""
        self.num_images += num_images
        self.waited += waited

    def read(self) -> Speed:
        """Return the speed since the last reading and begin a new interval.

        Call it right after a value was read from the device, so that its work is done.
        """
        seconds = max(time.perf_counter() - self.started, 1e-9)
        rate = self.num_images / seconds
        speed = Speed(
            images_per_s=rate,
            tokens_per_s=rate * self.num_tokens,
            mfu=rate * self.flops.training / self.peak,
            data_wait=min(self.waited / seconds, 1.0),
            memory_mb=peak_memory_mb(self.device),
            seconds=seconds,
        )
        self.restart()
        return speed


def peak_memory_mb(device: torch.device) -> float:
    """Return the largest memory used so far, in MB (10^6 bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 1e6 if sys.platform == "darwin" else kilobytes * 1024 / 1e6
