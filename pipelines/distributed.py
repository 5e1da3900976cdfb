"""Several processes, one run: who speaks, who writes, and which engine they train with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import UsageError, UserError
from ..core.training.deepspeed_config import check_sharding
from ..core.training.distributed import ALONE, Ranks, join, launched, leave
from ..core.training.engine import Engine, PlainEngine, Precision
from ..core.training.optim import OptimConfig
from .efficiency import Efficiency, prepare
from .faults import SharedError


@dataclass(frozen=True)
class Team:
    """The processes of a run and what this one trains on.

    Args:
        ranks: the processes.
        device: of this one.
    """

    ranks: Ranks = ALONE
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a device is a value

    def describe(self) -> str:
        """Say in a few words what trains."""
        if self.ranks.world == 1:
            return str(self.device)
        return f"{self.ranks.world} processes ({self.device.type})"


@contextmanager
def together(
    efficiency: Efficiency, batch_size: int, precision: Precision, multiple: int = 1
) -> Iterator[Team]:
    """Bring the processes that a launcher started together for one run.

    Only the first one speaks, and only the first one of a machine complains about settings. What
    goes wrong in one process alone is said by that one.

    Args:
        efficiency: settings of the run.
        batch_size: samples per update of all processes.
        precision: arithmetic of the run.
        multiple: samples that a process's share has to be a multiple of.

    Raises:
        UsageError: for settings that cannot work, or more processes than devices.
        RankLostError: when the others do not come in time.
    """
    ranks = launched()
    try:
        device = prepare(efficiency, ranks)
        check_share(batch_size, ranks, multiple)
        if efficiency.engine == "deepspeed":
            check_sharding(efficiency.sharding, precision, efficiency.compile)
    except UserError as error:
        if ranks.local == 0:
            raise
        raise SystemExit(error.exit_code) from error
    join(ranks, device, efficiency.rank_timeout)
    with speaking(ranks):
        try:
            yield Team(ranks, device)
        except (UsageError, SharedError) as error:
            if ranks.first:
                raise
            raise SystemExit(error.exit_code) from error
    if ranks.world > 1:
        leave()


def check_share(batch_size: int, ranks: Ranks, multiple: int = 1) -> None:
    """Raise UsageError when a batch cannot be dealt out evenly, naming the nearest that can."""
    unit = ranks.world * multiple
    if ranks.world > 1 and batch_size % unit:
        whose = f"{ranks.world} processes"
        whose += f" with {multiple} images mixed in each" if multiple > 1 else ""
        raise UsageError(
            f"batch_size {batch_size}",
            f"cannot be shared evenly by {whose}",
            f"use --batch-size {max(batch_size // unit, 1) * unit}, or another number of processes",
        )


@contextmanager
def speaking(ranks: Ranks) -> Iterator[None]:
    """Let the first process speak and the others be silent; errors are printed outside."""
    if ranks.first:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def make_engine(
    team: Team,
    efficiency: Efficiency,
    model: nn.Module,
    optim: OptimConfig,
    *,
    batch_size: int,
    num_epochs: int,
    precision: Precision,
    lr_factor: float = 1.0,
) -> Engine:
    """Return the engine that the settings ask for."""
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "num_epochs": num_epochs,
        "precision": precision,
        "lr_factor": lr_factor,
        "device": team.device,
        "ranks": team.ranks,
        "compile": efficiency.compile,
        "recompute": efficiency.recompute,
    }
    if efficiency.engine == "plain":
        return PlainEngine(model, optim, **options)
    from ..core.training.engine_deepspeed import DeepSpeedEngine

    return DeepSpeedEngine(model, optim, sharding=efficiency.sharding, **options)
