"""Settings that change how fast a run is and what it keeps, but not what it computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """May differ from call to call of one run."""

    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` or `auto` (cuda when there is one)."""
    num_threads: int | None = None
    """CPU threads of torch; its own choice when not given."""
    loader_threads: int = 2
    """Threads that read the store."""
    prefetch: int = 4
    """Batches that are read ahead."""
    micro_batch: int | None = None
    """Samples per forward pass; smaller ones need less memory, results change by rounding only."""
    compile: bool = False
    """Compile the transformer blocks: slower start, faster steps; changes results by rounding."""
    log_every: int = 10
    """Steps between two lines of the log."""
    validate_every: int = 1
    """Epochs between two looks at the validation split."""
    validate_samples: int = 256
    """Samples of the validation split that are looked at, the first ones; 0 for none."""
    checkpoint_minutes: float = 5.0
    """Minutes between two saved states."""
    checkpoint_every: int | None = None
    """Steps between two saved states, instead of minutes."""
    keep: int = 2
    """Saved states that stay."""


def check_efficiency(config: Efficiency) -> None:
    """Raise UsageError for a number that cannot be used, naming field, value and fix."""
    at_least_one = (
        "num_threads", "loader_threads", "prefetch", "micro_batch", "log_every",
        "validate_every", "checkpoint_every", "keep",
    )  # fmt: skip
    for name in at_least_one:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UsageError(f"efficiency.{name} {value}", "is below 1", "use 1 or more")
    for name in ("validate_samples", "checkpoint_minutes"):
        value = getattr(config, name)
        if value < 0:
            raise UsageError(f"efficiency.{name} {value}", "is negative", "use 0 or more")


def resolve_device(name: str) -> torch.device:
    """Return the device for `cpu`, `cuda[:n]` or `auto`.

    Raises:
        UsageError: when it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r}", "is not known", "use cpu, cuda or auto") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UsageError(f"device {name}", f"{count} CUDA devices are there", "use cpu or auto")
    return device


def prepare(config: Efficiency) -> torch.device:
    """Check the settings, set the threads, and return the device."""
    check_efficiency(config)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    return resolve_device(config.device)
