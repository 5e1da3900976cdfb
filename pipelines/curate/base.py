"""What `mimkit curate` can be told in every domain, and how a run ends."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from ...core.errors import UsageError
from ...datasets.errors import DataError
from ...datasets.manifest import ManifestRow, write_manifest
from ...datasets.store import StoreMeta
from ...domains.curation.dedup import measure_leakage
from ...domains.curation.phash import MAX_THRESHOLD
from .card import CurateReport, show, summarise, write_card
from .execute import Pool, claimed, open_pool

_EFFICIENCY = ("out", "workers", "scheduler", "max_broken_share")


@dataclass(frozen=True, kw_only=True)
class CurateBase:
    """Settings that do not depend on what the files show."""

    sources: tyro.conf.Positional[tuple[Path, ...]]
    """Files and folders."""
    out: Path
    """Folder of the new store."""

    pattern: str | None = None
    """Glob pattern of the files below a source folder, such as "**/*_crop.tif"."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of paths below the source that are left out, such as "segmentation/*"."""

    hash_distance: int = 4
    """Largest number of differing bits, of 64, at which two samples look the same."""
    near_duplicates: Literal["group", "drop", "keep"] = "group"
    """Look-alikes: keep them in one part, keep one of them, or only report them."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test."""
    seed: int = 0
    """Seed of the split."""

    collection: str | None = None
    """Name of the collection, for the manifest."""
    licence: str | None = None
    """Licence of the pixels, for the manifest and the card."""

    max_broken_share: float = 0.2
    """End with exit code 1 when a larger share of the files is broken; all is written anyway."""
    workers: int | None = None
    """Processes; 0 or 1 works in this one; left out: as many as there are cores, for large jobs.
    The result is the same for any number."""
    scheduler: str | None = None
    """Address of a dask scheduler to use instead; its workers must see the same folders."""

    def __post_init__(self) -> None:
        """Check that the numbers make sense.

        Raises:
            UsageError: naming field, value and fix.
        """
        for name, value, fine, remedy in self.checks():
            if not fine:
                raise UsageError(name, f"is {value!r}", remedy)

    def checks(self) -> list[tuple[str, Any, bool, str]]:
        """Return (field, value, whether it is fine, remedy) of every number with limits."""
        return [
            ("sources", self.sources, bool(self.sources), "name at least one file or folder"),
            (
                "hash_distance",
                self.hash_distance,
                0 <= self.hash_distance <= MAX_THRESHOLD,
                f"use 0 to {MAX_THRESHOLD}",
            ),
            (
                "fractions",
                self.fractions,
                min(self.fractions) >= 0 and 0 < self.fractions[0] < math.inf,
                "use shares of train, val, test such as 0.8 0.1 0.1",
            ),
            self.share("max_broken_share"),
            ("workers", self.workers, self.workers is None or self.workers >= 0, "use 0 or more"),
        ]

    def share(self, name: str) -> tuple[str, Any, bool, str]:
        """Return the check of a field that holds a share."""
        value = getattr(self, name)
        return name, value, 0 <= value <= 1, "use a share from 0 to 1"

    def identity(self) -> dict[str, Any]:
        """Return the settings that change results, as plain data."""
        from ...core.config_tree import to_plain

        plain: dict[str, Any] = {
            name: str(value) if isinstance(value, Path) else to_plain(value)
            for name, value in vars(self).items()
            if name not in _EFFICIENCY
        }
        plain["sources"] = [str(source.resolve()) for source in self.sources]
        return plain

    def num_workers(self, num_bytes: int) -> int:
        """Return how many processes to use for sources of so many bytes."""
        if self.workers is not None:
            return self.workers
        cores = os.cpu_count() or 1
        # Starting processes takes seconds, in which one alone reads some hundred megabytes.
        return cores if num_bytes > 512 << 20 else 1


@dataclass(frozen=True, kw_only=True)
class Curated:
    """What the stages of a domain made of the sources.

    Attributes:
        rows: all rows of the manifest, kept ones with their places.
        metas: stores by folder.
        divided: rows of what was divided into parts, when that is not what was packed.
        num_files: files found.
        num_broken: files that were rejected as a whole.
        official: whether the parts come from a table.
        notes: what a reader of the card should know besides the counts.
    """

    rows: Sequence[ManifestRow]
    metas: Mapping[str, StoreMeta]
    divided: Sequence[ManifestRow] | None = None
    num_files: int
    num_broken: int
    official: bool
    notes: tuple[str, ...] = ()


def carry_out(
    config: CurateBase,
    num_bytes: int,
    work: Callable[[Path, Pool], Curated],
    domain: str,
    nouns: tuple[str, str],
) -> CurateReport:
    """Do the work of a curation in its folder, write card and manifest, and say what came out.

    Args:
        config: of the run.
        num_bytes: of the sources, by which the number of processes is chosen.
        work: the stages; it is told where they keep results, and who does them.
        domain: name of the domain.
        nouns: what the domain calls files and samples.

    Returns:
        What was kept and rejected; it is also printed.

    Raises:
        UsageError: when another run is at work in the folder, or other settings made it.
        DataError: when more than `max_broken_share` of the files are broken, or nothing is left;
            everything has been written by then.
    """
    started = time.monotonic()
    with (
        claimed(config.out, config.identity()) as stages,
        open_pool(config.num_workers(num_bytes), config.scheduler) as pool,
    ):
        done = work(stages, pool)
        divided = done.rows if done.divided is None else done.divided
        report = summarise(
            done.rows,
            done.metas,
            measure_leakage(divided, config.hash_distance),
            out=config.out,
            num_scenes=done.num_files,
            num_broken=done.num_broken,
            official=done.official,
            seconds=time.monotonic() - started,
            domain=domain,
            nouns=nouns,
        )
        report = replace(report, notes=(*report.notes, *done.notes))
        write_card(config.out / "card.json", report, done.rows, done.metas, config.identity())
        # Where the manifest is, everything else is.
        write_manifest(config.out / "manifest.parquet", done.rows)
    show(report)
    refuse_broken(report, config)
    return report


def refuse_broken(report: CurateReport, config: CurateBase) -> None:
    """Raise DataError when too many files are broken, or nothing is left."""
    files, samples = report.nouns
    if report.broken_share > config.max_broken_share:
        reason = f"{report.num_broken} of {report.num_scenes} {files} are broken"
        remedy = f"see their reasons in {config.out / 'manifest.parquet'}"
        raise DataError("sources", reason, f"{remedy}, or raise --max-broken-share")
    if not report.num_kept:
        reasons = ", ".join(f"{n} {reason}" for reason, n in report.rejected.items())
        raise DataError("sources", f"no {samples[:-1]} was kept ({reasons})", "relax what rejects")
