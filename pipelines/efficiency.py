"""Settings that change how fast a run is and what it keeps, but not what it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..core.errors import UsageError
from ..core.training.deepspeed_config import Sharding, Stage
from ..core.training.distributed import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """May differ from call to call of one run."""

    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` or `auto` (cuda when there is one)."""
    engine: Literal["plain", "deepspeed"] = "plain"
    """`plain`: torch alone, every process keeps everything; `deepspeed`: processes keep parts."""
    zero_stage: Stage = 1
    """What DeepSpeed's processes share: 1 moments, 2 gradients too, 3 weights too, 0 nothing."""
    offload: bool = False
    """Keep the optimiser's state in the memory of the CPU (DeepSpeed): slow, for little memory."""
    num_threads: int | None = None
    """CPU threads of torch; its own choice when not given."""
    loader_threads: int = 2
    """Threads that read the store, in each process."""
    prefetch: int = 4
    """Batches that are read ahead."""
    data_timeout: float = 600.0
    """Seconds after which a thread that still reads a batch is an error."""
    rank_timeout: float = 600.0
    """Seconds after which another process that does not answer is an error."""
    micro_batch: int | None = None
    """Samples per forward pass of a process; smaller ones need less memory, results change by
    rounding only."""
    recompute: bool = False
    """Forget what transformer blocks computed until backward needs it: less memory, a third more
    arithmetic."""
    compile: bool = False
    """Compile the transformer blocks: slower start, faster steps; changes results by rounding."""
    log_every: int = 10
    """Steps between two lines of the log."""
    validate_every: int = 1
    """Epochs between two looks at the validation split."""
    validate_samples: int = 256
    """Samples of the validation split that are looked at, the first ones; 0 for none."""
    probe_every: int = 10
    """Epochs between two looks at features (pre-training): collapse meters, linear and kNN probe.
    The last epoch is always looked at."""
    probe_samples: int = 512
    """Labelled training samples that these probes are fitted on, if there are any; 0 for none."""
    checkpoint_minutes: float = 5.0
    """Minutes between two saved states."""
    checkpoint_every: int | None = None
    """Steps between two saved states, instead of minutes."""
    keep: int = 2
    """Saved states that stay, the newest ones."""
    keep_best: bool = False
    """Save a state whenever the validation split has never been better, and keep that one too."""

    @property
    def sharding(self) -> Sharding:
        """What DeepSpeed's processes share."""
        return Sharding(stage=self.zero_stage, offload=self.offload)


def check_efficiency(config: Efficiency) -> None:
    """Raise UsageError for a number that cannot be used, naming field, value and fix."""
    at_least_one = (
        "num_threads", "loader_threads", "prefetch", "micro_batch", "log_every",
        "validate_every", "probe_every", "checkpoint_every", "keep",
    )  # fmt: skip
    for name in at_least_one:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UsageError(f"efficiency.{name} {value}", "is below 1", "use 1 or more")
    for name in ("validate_samples", "probe_samples", "checkpoint_minutes"):
        value = getattr(config, name)
        if value < 0:
            raise UsageError(f"efficiency.{name} {value}", "is negative", "use 0 or more")
    for name in ("data_timeout", "rank_timeout"):
        value = getattr(config, name)
        if not 1 <= value < float("inf"):
            reason = "is no number of seconds from 1"
            raise UsageError(f"efficiency.{name} {value}", reason, "use 600")
    if config.engine == "plain" and (config.offload or config.zero_stage != 1):
        given = "offload" if config.offload else f"zero_stage {config.zero_stage}"
        raise UsageError(
            f"efficiency.{given}", "is for DeepSpeed only", "add --efficiency.engine deepspeed"
        )


def resolve_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """Return the device for `cpu`, `cuda[:n]` or `auto`.

    Args:
        name: what was asked for.
        ranks: the processes of the run; each takes a GPU of its machine by its number there.

    Raises:
        UsageError: when it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r}", "is not known", "use cpu, cuda or auto") from error
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count()
    if ranks.world > 1:
        if device.index is not None:
            reason = f"is one device for {ranks.world} processes"
            raise UsageError(f"device {name}", reason, "use cuda, which gives each its own")
        if ranks.num_local > count:
            raise UsageError(
                f"{ranks.num_local} processes on this machine",
                f"are more than its {count} CUDA devices",
                f"start {count} of them (--nproc-per-node, slots), or use --efficiency.device cpu",
            )
        return torch.device("cuda", ranks.local)
    if (device.index or 0) >= count:
        raise UsageError(f"device {name}", f"{count} CUDA devices are there", "use cpu or auto")
    return device


def prepare(config: Efficiency, ranks: Ranks = ALONE) -> torch.device:
    """Check the settings, set the threads, and return the device."""
    check_efficiency(config)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    return resolve_device(config.device, ranks)
