"""The data card: what went in, what came out and why, and how far the parts are apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...datasets.files import write_json
from ...datasets.manifest import KEPT, ManifestRow
from ...datasets.store import StoreMeta
from ...domains.curation.dedup import Leakage
from ...domains.curation.split import SPLITS


@dataclass(frozen=True)
class CurateReport:
    """What a curation did.

    Attributes:
        out: folder of the store.
        num_scenes: files (scenes, volumes, photographs) found.
        num_broken: files that were rejected as a whole.
        kept: samples per part.
        rejected: rows per reason.
        groups: samples per store.
        leakage: distance of the parts.
        notes: what a reader should know.
        seconds: wall-clock time.
        domain: name of the domain.
        nouns: what the domain calls files and samples, in the plural.
    """

    out: Path
    num_scenes: int
    num_broken: int
    kept: dict[str, int]
    rejected: dict[str, int]
    groups: dict[str, int]
    leakage: Leakage
    notes: tuple[str, ...]
    seconds: float
    domain: str = "satellite"
    nouns: tuple[str, str] = ("scenes", "tiles")

    @property
    def num_kept(self) -> int:
        """Samples in all stores."""
        return sum(self.kept.values())

    @property
    def broken_share(self) -> float:
        """Share of files that were rejected as a whole."""
        return self.num_broken / max(self.num_scenes, 1)


def summarise(
    rows: Sequence[ManifestRow],
    metas: Mapping[str, StoreMeta],
    leakage: Leakage,
    *,
    out: Path,
    num_scenes: int,
    num_broken: int,
    official: bool,
    seconds: float,
    domain: str,
    nouns: tuple[str, str],
) -> CurateReport:
    """Count what was kept and rejected.

    Args:
        rows: all rows of the manifest.
        metas: stores by folder.
        leakage: distance of the parts.
        out: folder of the store.
        num_scenes: files found.
        num_broken: files that were rejected as a whole.
        official: whether the parts come from a table.
        seconds: wall-clock time.
        domain: name of the domain.
        nouns: what the domain calls files and samples.
    """
    kept = Counter(row.split or "train" for row in rows if row.status == KEPT)
    rejected = Counter(row.status for row in rows if row.status != KEPT)
    return CurateReport(
        out=out,
        num_scenes=num_scenes,
        num_broken=num_broken,
        kept={name: kept[name] for name in SPLITS},
        rejected=dict(sorted(rejected.items())),
        groups={name: meta.num_samples for name, meta in sorted(metas.items())},
        leakage=leakage,
        notes=tuple(_notes(rows, kept, metas, leakage, official, domain, nouns)),
        seconds=seconds,
        domain=domain,
        nouns=nouns,
    )


def _notes(
    rows: Sequence[ManifestRow],
    kept: Mapping[str, int],
    metas: Mapping[str, StoreMeta],
    leakage: Leakage,
    official: bool,
    domain: str,
    nouns: tuple[str, str],
) -> list[str]:
    files, samples = nouns
    on_earth = domain == "satellite"
    num_groups = len({row.group for row in rows if row.status == KEPT})
    groups = "places" if on_earth else "groups"
    hint = " (see --split and --cell-km)" if on_earth else ""
    why = "" if official else f", with {num_groups} {groups} to divide{hint}"
    notes = [f"no {samples[:-1]} in {name}{why}" for name in SPLITS[1:] if not kept.get(name)]
    if on_earth and kept.get("test") and leakage.train_test_gap_km is None:
        notes.append(f"distance of train and test unknown: the {files} have no position")
    if leakage.near_duplicate_pairs:
        notes.append(f"{leakage.near_duplicate_pairs} pairs of look-alikes in different parts")
    if leakage.train_test_gap_km == 0:
        notes.append(f"train and test {samples} touch; --buffer-km keeps them apart")
    if len(metas) > 1:
        reason = f"several stores, because the {files} differ in number type"
        notes.append(f"{reason}; --group names one")
    if any(row.licence is None for row in rows):
        notes.append("no licence given; --licence records it")
    return notes


def write_card(
    path: Path,
    report: CurateReport,
    rows: Sequence[ManifestRow],
    metas: Mapping[str, StoreMeta],
    settings: Mapping[str, Any],
) -> None:
    """Write the card as JSON; it holds no times, so equal data give equal bytes."""
    kept = [row for row in rows if row.status == KEPT]
    stages = Counter((row.stage or "", row.status) for row in rows)
    labels = Counter((row.split or "", row.label) for row in kept if row.label is not None)
    write_json(
        path,
        {
            "domain": report.domain,
            "nouns": list(report.nouns),
            report.nouns[0]: {"found": report.num_scenes, "broken": report.num_broken},
            "rows": len(rows),
            "kept": len(kept),
            "stages": _nested(stages),
            "rejected": report.rejected,
            "splits": report.kept,
            "labels": _nested(labels),
            "licences": dict(Counter(row.licence or "not stated" for row in kept)),
            "sources": dict(Counter(row.source or "not stated" for row in kept)),
            "leakage": asdict(report.leakage),
            "stores": {name: _about(meta) for name, meta in sorted(metas.items())},
            "settings": dict(settings),
            "notes": list(report.notes),
        },
    )


def read_counts(card: Mapping[str, Any]) -> tuple[str, str, int, int]:
    """Return what a card calls its files and samples, and how many files were found and broken.

    Raises:
        KeyError: for what is no card.
    """
    files, samples = card.get("nouns", ("scenes", "tiles"))
    return files, samples, card[files]["found"], card[files]["broken"]


def _nested(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (first, second), number in sorted(counts.items()):
        nested.setdefault(first, {})[second] = number
    return nested


def _about(meta: StoreMeta) -> dict[str, Any]:
    return {
        "sensor": meta.sensor,
        "bands": list(meta.bands),
        "size": list(meta.size),
        "dtype": meta.dtype,
        "samples": meta.num_samples,
        "classes": list(meta.classes),
        "fingerprint": meta.fingerprint,
    }


def show(report: CurateReport) -> None:
    """Print what was kept and rejected as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report.num_scenes} {report.nouns[0]} in {report.seconds:.1f} s")
    table.add_column(report.nouns[1])
    table.add_column("number", justify="right")
    for name, number in report.kept.items():
        table.add_row(f"kept: {name}", str(number))
    for reason, number in report.rejected.items():
        table.add_row(f"rejected: {reason}", str(number))
    console = Console()
    console.print(table)
    gap = report.leakage.train_test_gap_km
    if gap is not None:
        console.print(f"train and test are at least {gap:g} km apart")
    for name, number in report.groups.items():
        console.print(f"store {report.out / name}: {number} samples", soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
