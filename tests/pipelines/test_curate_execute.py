"""The runner of stages: results in order, restart, dask, and errors that keep what is done."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mimkit.core.errors import UsageError
from mimkit.datasets.errors import DataError
from mimkit.domains.curation.records import StageResult
from mimkit.pipelines.curate import execute
from mimkit.pipelines.curate.execute import Stage, claimed, open_pool, result_path, run_stage


@dataclass(frozen=True)
class Params:
    factor: int


def multiply(shard: int, params: Params) -> StageResult:
    if shard == 13:
        raise DataError("shard 13", "is unlucky", "leave it out")
    return StageResult(output=[shard * params.factor, os.getpid()])


def stage(factor: int = 2, version: int = 1) -> Stage:
    return Stage("multiply", version, multiply, Params(factor), "multiply")


def values(results: list[StageResult]) -> list[int]:
    return [result.output[0] for result in results]


def test_results_come_in_the_order_of_the_shards_and_are_remembered(tmp_path: Path) -> None:
    shards = [5, 3, 8, 1]
    with open_pool(0) as pool:
        assert values(run_stage(stage(), shards, tmp_path, pool)) == [10, 6, 16, 2]
    kept = result_path(stage(), 3, tmp_path)
    kept.write_bytes(StageResult(output=[-1]).to_json())
    with open_pool(0) as pool:
        assert values(run_stage(stage(), [3, 5], tmp_path, pool)) == [-1, 10]


@pytest.mark.parametrize("changed", [stage(factor=3), stage(version=2)])
def test_other_parameters_or_code_are_other_results(tmp_path: Path, changed: Stage) -> None:
    assert result_path(changed, 1, tmp_path) != result_path(stage(), 1, tmp_path)
    assert result_path(stage(), 2, tmp_path) != result_path(stage(), 1, tmp_path)


def test_an_error_keeps_what_was_finished(tmp_path: Path) -> None:
    with open_pool(0) as pool, pytest.raises(DataError, match="shard 13: is unlucky"):
        run_stage(stage(), [1, 2, 13, 4], tmp_path, pool)
    done = [result_path(stage(), shard, tmp_path).exists() for shard in (1, 2, 13, 4)]
    assert done == [True, True, False, False]


def test_a_scheduler_of_ones_own_does_the_work_and_hands_errors_back(tmp_path: Path) -> None:
    from distributed import LocalCluster

    options: dict[str, Any] = {"processes": False, "dashboard_address": None}
    with contextlib.ExitStack() as stack:
        cluster: Any = stack.enter_context(
            LocalCluster(n_workers=1, threads_per_worker=2, **options)
        )
        pool = stack.enter_context(open_pool(0, cluster.scheduler_address))
        assert values(run_stage(stage(), range(6), tmp_path, pool)) == [0, 2, 4, 6, 8, 10]
        with pytest.raises(DataError, match="shard 13: is unlucky"):
            run_stage(stage(), [1, 13], tmp_path, pool)


def test_a_scheduler_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "_CONNECT_SECONDS", 0.5)
    expected = pytest.raises(UsageError, match="no dask scheduler answers")
    with open_pool(0, "tcp://127.0.0.1:9") as pool, expected:
        run_stage(stage(), [1, 2], tmp_path, pool)


def test_a_folder_belongs_to_one_run_and_one_set_of_settings(tmp_path: Path) -> None:
    with claimed(tmp_path, {"size": 96}) as stages:
        (stages / "half.json.0.partial").write_text("x")
        busy = pytest.raises(UsageError, match="another curation is at work here")
        with busy, claimed(tmp_path, {"size": 96}):
            pass
    with pytest.raises(UsageError, match="size 96 -> 64"), claimed(tmp_path, {"size": 64}):
        pass
    with claimed(tmp_path, {"size": 96}):
        assert not list(tmp_path.rglob("*.partial"))
