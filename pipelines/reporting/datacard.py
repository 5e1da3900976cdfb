"""What a model was trained on: counts, reasons, splits, licences and leakage, from the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...datasets.errors import DataError
from ...domains.curation.split import SPLITS
from ..curate.card import read_counts
from .blocks import Block, Code, Facts, Table, Text

_STAGES = ("scan", "check", "slice", "cut", "dedup", "split", "pack")


def card_blocks(data: Path) -> tuple[Block, ...]:
    """Return the data card of a curated folder.

    Raises:
        DataError: when card.json is there but cannot be read.
    """
    path = data / "card.json" if (data / "card.json").exists() else data.parent / "card.json"
    if not path.exists():
        return (Text(f"There is no card.json in {data}, so nothing is known about its origin."),)
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        return _blocks(card)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(path, f"cannot be read ({error!r})", "curate again") from error


def _blocks(card: Mapping[str, Any]) -> tuple[Block, ...]:
    (files, samples, found, broken), leakage = read_counts(card), card["leakage"]
    pairs = [
        (files, f"{found} found, {broken} of them broken"),
        (samples, f"{card['kept']} kept of {card['rows']} rows"),
        *((f"store {name}", _store(about)) for name, about in card["stores"].items()),
        ("sources", _listed(card["sources"])),
        ("licences", _listed(card["licences"])),
        *_distance(card, leakage),
        ("look-alikes in different parts", f"{leakage['near_duplicate_pairs']} pairs"),
        ("equal pixels in different parts", str(leakage["shared_checksums"])),
    ]
    blocks: list[Block] = [Facts(tuple(pairs)), _splits(card)]
    if card["rejected"]:
        blocks.append(_rejected(card))
    blocks += [Text(f"{note[:1].upper()}{note[1:]}.", "warn") for note in card["notes"]]
    blocks.append(Code("Settings of the curation", json.dumps(card["settings"], indent=1)))
    return tuple(blocks)


def _store(about: Mapping[str, Any]) -> str:
    size = " x ".join(map(str, about["size"]))
    text = f"{about['samples']} samples of {size} pixels, {about['dtype']}, {about['sensor']}: "
    text += ", ".join(about["bands"])
    classes = about["classes"]
    return f"{text}; labels per pixel: {', '.join(classes)}" if classes else text


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({number})" for name, number in counts.items()) or "none"


def _distance(card: Mapping[str, Any], leakage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how far parts are apart on the ground, where samples have a place on it."""
    if card["domain"] != "satellite":
        return []
    gap = leakage["train_test_gap_km"]
    words = "not known: no positions" if gap is None else f"{gap:g} km or more"
    return [("distance of train and test", words)]


def _splits(card: Mapping[str, Any]) -> Table:
    labels = card["labels"]
    classes = sorted({name for counts in labels.values() for name in counts})
    rows = tuple(
        (
            split,
            f"{number:,}",
            *(f"{labels.get(split, {}).get(name, 0):,}" for name in classes),
        )
        for split in SPLITS
        if (number := card["splits"].get(split)) is not None
    )
    return Table(("part", read_counts(card)[1], *classes), rows, "Parts of the data")


def _rejected(card: Mapping[str, Any]) -> Table:
    stages = card["stages"]
    order = [*(name for name in _STAGES if name in stages), *sorted(set(stages) - set(_STAGES))]
    rows = tuple(
        (status.replace("_", " "), stage, f"{number:,}")
        for stage in order
        for status, number in stages[stage].items()
        if status in card["rejected"]
    )
    return Table(("reason", "stage", "rows"), rows, "What was rejected, and why")
