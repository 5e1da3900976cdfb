"""Curated folders: stores, the manifest with its reasons, normalisers, the card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import UsageError
from ...datasets.errors import DataError
from ...datasets.manifest import KEPT, count_by, read_manifest
from ...datasets.store import StoreMeta, store_state
from ...domains.domain import get_domain
from ..curate.card import read_counts
from ..stores import MANIFEST, OpenGroup, group_names, open_group
from .description import Description, Table, folder_bytes

if TYPE_CHECKING:
    import pyarrow as pa


def is_curated(path: Path) -> bool:
    """Return whether a folder was written by `mimkit curate`, finished or not."""
    marks = (path / MANIFEST, path / "card.json", path / "stages")
    return store_state(path) != "none" or bool(group_names(path)) or any(p.exists() for p in marks)


def describe_store(path: Path) -> Description:
    """Describe a curated folder, or the folder of one store in it; half-written ones as well.

    Raises:
        DataError: when the manifest is there and cannot be read.
    """
    folder, names = path, group_names(path)
    if store_state(path) != "none":
        folder, names = path.resolve().parent, [path.resolve().name]
    groups, problems = _open(folder, names)
    facts: dict[str, Any] = {"stores": len(names), "samples": sum(map(_num, groups.values()))}
    tables = [_store_table(folder, names)]
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder / MANIFEST)
        facts["rows of the manifest"] = manifest.num_rows
        tables += [status_table(manifest), split_table(manifest)]
    card, notes = _card(folder)
    facts |= card
    for name, group in groups.items():
        tables.append(bands_table(f"normaliser of {name}", group.normaliser_dict))
    facts["MB on disk"] = round(folder_bytes(path) / 1e6, 3)
    summary = f"{path}: {_in_words(groups, names)}."
    return Description("store", path, summary, facts, tuple(tables), tuple(notes), tuple(problems))


def _open(folder: Path, names: list[str]) -> tuple[dict[str, OpenGroup], list[str]]:
    groups: dict[str, OpenGroup] = {}
    problems = []
    for name in names or [None]:
        try:
            groups[str(name)] = open_group(folder, name)
        except (DataError, UsageError) as error:
            problems.append(str(error))
    return groups, list(dict.fromkeys(problems))


def _num(group: OpenGroup) -> int:
    return len(group.store)


def _in_words(groups: Mapping[str, OpenGroup], names: list[str]) -> str:
    if len(groups) == 1 == len(names):
        (group,) = groups.values()
        return f"a curated store, {get_domain(group.meta.domain).describe(group.meta)}"
    if len(groups) < max(len(names), 1):
        return f"a curation of which {len(groups)} of {len(names)} stores can be used"
    return f"{len(names)} curated stores"


def _store_table(folder: Path, names: list[str]) -> Table:
    columns = ("store", "state", "sensor", "bands", "size", "dtype", "samples", "label classes")
    rows = []
    for name in names:
        try:
            meta = _meta(folder / name)
        except DataError as error:
            rows.append((name, error.reason, *(None,) * 6))
            continue
        size = " x ".join(map(str, meta.size))
        bands, classes = ", ".join(meta.bands), ", ".join(meta.classes) or None
        facts = (meta.sensor, bands, size, meta.dtype, meta.num_samples, classes)
        rows.append((name, _state(folder / name, meta), *facts))
    return Table("stores", columns, tuple(rows))


def _meta(store: Path) -> StoreMeta:
    path = store / ("store.json" if store_state(store) == "finished" else "unfinished.json")
    try:
        plain = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(path, f"cannot be read ({error})", "curate again") from error
    return StoreMeta.from_json(plain, path)


def _state(store: Path, meta: StoreMeta) -> str:
    if store_state(store) == "finished":
        return "whole"
    layouts = meta.layouts()
    total = layouts["pixels"].num_shards
    written = sum(
        all((store / name / layout.file_name(shard)).exists() for name, layout in layouts.items())
        for shard in range(total)
    )
    return f"{written} of {total} shards"


def status_table(manifest: pa.Table) -> Table:
    """Return how many rows were kept, and why the others were not."""
    example: dict[tuple[str, str | None], str] = {}
    columns = (manifest[name].to_pylist() for name in ("status", "stage", "reason", "uri"))
    for status, stage, reason, uri in zip(*columns, strict=True):
        if status != KEPT:
            example.setdefault((status, stage), f"{uri}: {reason or 'no reason given'}")
    counts = count_by(manifest, "status", "stage")
    rows = [
        (str(status).replace("_", " "), stage, number, example.get((str(status), stage)))
        for (status, stage), number in counts.items()
    ]
    return Table("rows of the manifest", ("status", "stage", "rows", "for example"), tuple(rows))


def split_table(manifest: pa.Table) -> Table:
    """Return how many kept samples each split has, by class where samples have one."""
    import pyarrow.compute as pc

    kept = manifest.filter(pc.field("status") == KEPT)
    counts = count_by(kept, "store_group", "split", "label")
    rows = [
        (group, split or "train", label, number) for (group, split, label), number in counts.items()
    ]
    return Table("kept samples", ("store", "split", "class", "samples"), tuple(rows))


def bands_table(title: str, normaliser: Mapping[str, Any]) -> Table:
    """Return how pixels become network input, band by band; empty when that is not plain."""
    per_band = ("scale", "offset", "mean", "std", "low", "high")
    known = [key for key in per_band if isinstance(normaliser.get(key), list)]
    columns = [normaliser.get(key) for key in ("bands", *known)]
    lists = [column for column in columns if isinstance(column, list)]
    whole = len(lists) == len(columns) and len({len(column) for column in lists}) == 1
    rows = tuple(zip(*lists, strict=True)) if whole else ()
    units = normaliser.get("units") or "physical units"
    return Table(f"{title} ({units})", ("band", *known), rows)


def _card(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return facts and notes of card.json; a folder without one is a curation that was killed."""
    path = folder / "card.json"
    if not path.exists():
        return {}, []
    try:
        card = json.loads(path.read_text("utf-8"))
        (files, _, found, broken), leakage = read_counts(card), card["leakage"]
        facts = {
            files: f"{found} found, {broken} broken",
            "km from train to test": leakage["train_test_gap_km"],
            "km from train to val": leakage["train_val_gap_km"],
            "look-alikes across splits": leakage["near_duplicate_pairs"],
            "equal pixels across splits": leakage["shared_checksums"],
            "licences": card["licences"],
            "sources": card["sources"],
        }
        return facts, [str(note) for note in card["notes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {}, [f"card.json cannot be read ({error!r}); curate again to have it"]
