"""Pieces of a study: each is done once, by any process, and its numbers are kept."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ...core.config_tree import to_plain
from ...core.errors import UserError
from ...core.files import write_text
from ..progress import Bar
from ..run_folder import digest

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """A piece of work whose result is a few numbers.

    Args:
        part: part of the study.
        name: distinct within the part.
        function: "module:function" below this package; called as function(work, **arguments).
        arguments: plain data, all that the numbers depend on: other arguments are another unit.
    """

    part: str
    name: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def path(self, work: Path) -> Path:
        """Return the file of its numbers."""
        short = digest([self.function, dict(self.arguments)])[:12]
        return work / "numbers" / self.part / f"{self.name}-{short}.json"


@dataclass(frozen=True)
class Study:
    """What a study is told.

    Args:
        samples: folder with the sample data of the domain.
        work: where stores, models and numbers are kept.
        seeds: seeds of everything random.
        workers: processes, one thread each.
    """

    samples: Path
    work: Path
    seeds: int
    workers: int


def run_path(work: Path, name: str, settings: Mapping[str, Any]) -> Path:
    """Return the folder of a training run; other settings have another folder."""
    return work / "runs" / f"{name}-{digest(dict(settings))[:8]}".replace(" ", "-")


def run_units(units: Sequence[Unit], study: Study, label: str) -> dict[str, Numbers]:
    """Do what is not done yet and return the numbers of all units by name.

    Args:
        units: pieces of work, the longest first.
        study: where numbers are kept, and how many processes.
        label: what the progress bar says.

    Raises:
        UserError: when a process died; finished units are kept.
    """
    todo = [unit for unit in units if not unit.path(study.work).exists()]
    with Bar(label, len(units), len(units) - len(todo)) as bar:
        if study.workers <= 1:
            for unit in todo:
                perform(unit, study.work)
                bar.advance()
        elif todo:
            _in_processes(todo, study, bar)
    return {u.name: json.loads(u.path(study.work).read_text(encoding="utf-8")) for u in units}


def _in_processes(todo: Sequence[Unit], study: Study, bar: Bar) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the children when they load their libraries
    spawn = multiprocessing.get_context("spawn")
    workers = min(study.workers, len(todo))
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_one_thread) as pool:
        futures = [pool.submit(perform, unit, study.work) for unit in todo]
        try:
            for future in as_completed(futures):
                future.result()
                bar.advance()
        except BrokenProcessPool as error:
            raise UserError(
                "study", "a process died", "give the same command again: finished pieces are kept"
            ) from error
        finally:
            for future in futures:
                future.cancel()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def perform(unit: Unit, work: Path) -> None:
    """Do one unit in this process and keep its numbers."""
    module, _, name = unit.function.partition(":")
    function = getattr(import_module(f".{module}", __package__), name)
    numbers = function(work, **unit.arguments)
    path = unit.path(work)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(to_plain(numbers), indent=1) + "\n")
