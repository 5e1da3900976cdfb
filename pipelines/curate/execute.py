"""Runs pure stage functions over shards of work, in this process or on dask, and remembers results.

A stage is a function (shard, parameters) -> StageResult that looks at nothing else. Its result is
written to a file named by a hash of stage, code version, parameters and shard, so a file that
exists is a shard that is done: a killed run continues where it stopped, and a change of anything
that matters gives other names. Results are handed back in the order of the shards, whoever
computed them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.config_tree import to_plain
from ...core.errors import UsageError
from ...datasets.errors import DataError
from ...datasets.files import remove_partial, whole_file
from ...domains.curation.records import StageResult
from ..locks import locked
from ..progress import track

_CONNECT_SECONDS = 10.0

StageFunction = Callable[[Any, Any], StageResult]
Work = Callable[[], None]
"""What a pool runs: plain data that can be called; it writes its result down itself."""


@dataclass(frozen=True)
class Stage:
    """A step of curation.

    Attributes:
        name: folder of its results.
        version: number that changes when its code gives other results.
        function: importable function (shard, parameters) -> StageResult.
        parameters: frozen dataclass that goes into the names of the results.
        label: what the progress bar says.
    """

    name: str
    version: int
    function: StageFunction
    parameters: Any
    label: str


def digest(*parts: Any) -> str:
    """Return a hash of values that JSON or dataclasses can describe."""
    text = json.dumps(to_plain(list(parts)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def result_path(stage: Stage, shard: Any, folder: Path) -> Path:
    """Return the file of a shard's result."""
    name = digest(stage.name, stage.version, stage.parameters, shard)
    return folder / stage.name / f"{name}.json"


def run_stage(stage: Stage, shards: Sequence[Any], folder: Path, pool: Pool) -> list[StageResult]:
    """Run a stage over all shards that have no result yet.

    Args:
        stage: what to do.
        shards: what to do it with; JSON-able values or dataclasses of such.
        folder: where results are kept; every worker must see it under the same name.
        pool: who does it.

    Returns:
        Results in the order of the shards.

    Raises:
        DataError: when a shard failed; finished shards are kept for the next run.
    """
    paths = [result_path(stage, shard, folder) for shard in shards]
    jobs = [
        Job(stage.function, shard, stage.parameters, str(path))
        for shard, path in zip(shards, paths, strict=True)
        if not path.exists()
    ]
    for _ in track(pool.run(jobs), stage.label, total=len(jobs)):
        pass
    return [StageResult.from_json(path.read_bytes()) for path in paths]


@dataclass(frozen=True)
class Job:
    """One shard of one stage and the file that its result goes to."""

    function: StageFunction
    shard: Any
    parameters: Any
    path: str

    def __call__(self) -> None:
        """Do the work and write the result; the file is the sign that it is done."""
        result = self.function(self.shard, self.parameters)
        with whole_file(Path(self.path)) as stream:
            stream.write(result.to_json())


def _perform(job: Work) -> None:
    job()


class Pool:
    """Runs jobs: inline for small work, else on dask processes that are started when needed.

    Args:
        workers: processes of a local cluster; 0 and 1 work inline.
        scheduler: address of a running dask scheduler; its workers must see the same files.
    """

    def __init__(self, workers: int, scheduler: str | None = None) -> None:
        self.workers, self.scheduler = workers, scheduler
        self._client: Any = None
        self._cluster: Any = None

    def run(self, jobs: Sequence[Work]) -> Iterator[None]:
        """Run jobs in any order and yield once for each that is done."""
        if self.scheduler is None and (self.workers <= 1 or len(jobs) <= 1):
            for job in jobs:
                job()
                yield
            return
        if jobs:
            yield from self._run_on_dask(jobs)

    def _run_on_dask(self, jobs: Sequence[Work]) -> Iterator[None]:
        from distributed import KilledWorker, as_completed

        client = self._connect()
        futures = client.map(_perform, jobs, pure=False, retries=0)
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except KilledWorker as error:
            remedy = "start the same command again with fewer --workers; finished work is kept"
            raise DataError("curate", f"a worker died ({error})", remedy) from error
        finally:
            client.cancel(futures)

    def _connect(self) -> Any:
        if self._client is not None:
            return self._client
        from distributed import Client, LocalCluster

        if self.scheduler is not None:
            try:
                self._client = Client(self.scheduler, timeout=_CONNECT_SECONDS)
            except (OSError, TimeoutError, ValueError) as error:
                remedy = "start one with `dask scheduler`, or leave out --scheduler"
                reason = f"no dask scheduler answers ({error})"
                raise UsageError(f"scheduler {self.scheduler}", reason, remedy) from error
        else:
            options: dict[str, Any] = {"dashboard_address": None, "silence_logs": "ERROR"}
            self._cluster = LocalCluster(
                n_workers=self.workers, threads_per_worker=1, processes=True, **options
            )
            self._client = Client(self._cluster)
        return self._client

    def close(self) -> None:
        """Stop the local cluster, or take leave of the scheduler."""
        for part in (self._client, self._cluster):
            if part is not None:
                part.close()
        self._client = self._cluster = None


@contextmanager
def open_pool(workers: int, scheduler: str | None = None) -> Iterator[Pool]:
    """Yield a pool and close it whatever happens."""
    pool = Pool(workers, scheduler)
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def claimed(out: Path, identity: dict[str, Any]) -> Iterator[Path]:
    """Hold a folder for one run and make sure that it belongs to the same settings.

    Args:
        out: folder of the store.
        identity: all settings that change results.

    Yields:
        Folder of the results of stages.

    Raises:
        UsageError: when another run is at work in it, or other settings made it.
    """
    stages = out / "stages"
    with locked(stages / "lock", out, "curation"):
        for folder in (out, stages, *(path for path in stages.iterdir() if path.is_dir())):
            remove_partial(folder)
        _check_identity(stages / "settings.json", out, identity)
        yield stages


def _check_identity(path: Path, out: Path, identity: dict[str, Any]) -> None:
    wanted = json.loads(json.dumps(identity, default=str))
    if not path.exists():
        with whole_file(path) as stream:
            stream.write(json.dumps(wanted, indent=2, sort_keys=True).encode())
        return
    before = json.loads(path.read_bytes())
    changed = sorted(k for k in {*wanted, *before} if wanted.get(k) != before.get(k))
    if changed:
        names = ", ".join(f"{k} {before.get(k)!r} -> {wanted.get(k)!r}" for k in changed)
        remedy = "choose another --out, repeat the old settings, or delete the folder"
        raise UsageError(out, f"was curated with other settings ({names})", remedy)
