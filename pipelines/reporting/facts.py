"""What the folder of a run says about it, finished or not."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...datasets.errors import DataError
from ..run_folder import RunFolder, read_run

_ENDS = 0.1  # share of the log that counts as its beginning and as its end


@dataclass(frozen=True)
class RunFacts:
    """A run as its files tell it.

    Args:
        path: the folder.
        kind: "pretrain" or "finetune".
        recipe: settings that decide the result, as plain data.
        data: what it started from, as plain data.
        steps: lines of the log about steps.
        looks: lines of the log about held-out samples.
        scores: test scores of a fine-tuning run; None when there are none.
        bad_step: what nonfinite.json says; None when there is none.
        finished: whether the model is there.
    """

    path: Path
    kind: str
    recipe: dict[str, Any]
    data: dict[str, Any]
    steps: tuple[dict[str, Any], ...]
    looks: tuple[dict[str, Any], ...]
    scores: dict[str, Any] | None
    bad_step: dict[str, Any] | None
    finished: bool

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @property
    def model(self) -> Path:
        """Model directory, whether it is there or not."""
        return RunFolder(self.path).model

    @property
    def num_epochs(self) -> int:
        """Epochs that were asked for."""
        return int(self.recipe["epochs"])

    @property
    def epochs_done(self) -> float:
        """Epochs that were done, as far as the log tells."""
        if self.finished:
            return float(self.num_epochs)
        return max((line["epoch"] for line in (*self.steps, *self.looks)), default=0.0)

    @property
    def last_step(self) -> int:
        """Updates that were done."""
        return max((line["step"] for line in (*self.steps, *self.looks)), default=0)

    @property
    def seconds(self) -> float:
        """Seconds of training, without looks at held-out samples."""
        return sum(line.get("seconds") or 0.0 for line in self.steps)

    @cached_property
    def terms(self) -> tuple[str, ...]:
        """Names of the parts of the loss."""
        return tuple(dict.fromkeys(name for line in self.steps for name in line.get("terms", {})))

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Return steps and values of a number of the log; values that are missing are NaN."""
        values = [line.get(name) for line in self.steps]
        return [line["step"] for line in self.steps], [_number(value) for value in values]

    def term(self, name: str) -> tuple[list[int], list[float]]:
        """Return steps and values of a part of the loss."""
        values = [line.get("terms", {}).get(name) for line in self.steps]
        return [line["step"] for line in self.steps], [_number(value) for value in values]

    def look(self, name: str) -> tuple[list[int], list[float]]:
        """Return steps and values of a number about held-out samples."""
        lines = [line for line in self.looks if name in line["val"]]
        return [line["step"] for line in lines], [_number(line["val"][name]) for line in lines]

    def ends(self, name: str) -> tuple[float, float] | None:
        """Return the means of a number over the first and the last tenth of the log.

        None when there are fewer than two lines.
        """
        values = [value for value in self.series(name)[1] if math.isfinite(value)]
        if len(values) < 2:
            return None
        num = max(1, round(len(values) * _ENDS))
        return sum(values[:num]) / num, sum(values[-num:]) / num

    def mean_over_time(self, name: str) -> float | None:
        """Return a number's mean, each line weighted with its seconds; None without lines.

        The first line is left out where there are others: it holds the start of the threads.
        """
        lines = [line for line in self.steps if line.get("seconds")]
        lines = lines[1:] or lines
        total = sum(line["seconds"] for line in lines)
        if not total:
            return None
        return sum(_number(line.get(name)) * line["seconds"] for line in lines) / total


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def read_facts(path: Path) -> RunFacts:
    """Read the folder of a run.

    Raises:
        DataError: when it is no folder of a run, or one of its files cannot be read.
    """
    content = read_run(path)
    folder = RunFolder(path)
    try:
        lines = folder.read_log()
        return RunFacts(
            path=path,
            kind=content["kind"],
            recipe=content["recipe"],
            data=content["data"],
            steps=tuple(line for line in lines if "val" not in line),
            looks=tuple(line for line in lines if "val" in line),
            scores=_read_json(path / "scores.json"),
            bad_step=_read_json(path / "nonfinite.json"),
            finished=folder.finished,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(path, f"its log cannot be read ({error!r})", "train again") from error


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
