"""Stage `divide`: parts that share no person, no video and no look-alike, and copies that go.

Faces are not divided one by one: a person in two parts measures memory. Whatever is linked by an
identity, by a video or by its looks, however many links away, stays together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ....datasets.errors import DataError
from ....datasets.manifest import KEPT, ManifestRow
from ...curation import dedup
from ...curation.phash import duplicate_groups
from ..facts import SEPARATOR

_SHOWN = 10  # leaks that a message lists


def linked_groups(rows: Sequence[ManifestRow], hash_distance: int) -> list[str]:
    """Return the group of every row: the connected component over identity, video and looks.

    Args:
        rows: of faces.
        hash_distance: largest number of differing bits of look-alikes.

    Returns:
        Name of each row's group: the smallest identity in it, or else the smallest id.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    hashes = [None if row.phash is None else int(row.phash, 16) for row in rows]
    first: dict[str, int] = {}
    pairs = [(i, int(j)) for i, j in enumerate(duplicate_groups(hashes, hash_distance))]
    for index, row in enumerate(rows):
        for key in _keys(row):
            pairs.append((index, first.setdefault(key, index)))
    if not pairs:
        return []
    i, j = np.array(pairs).T
    links = coo_array((np.ones(len(pairs)), (i, j)), (len(rows), len(rows)))
    component = connected_components(links, directed=False)[1]
    names: dict[int, str] = {}
    for number, row in zip(component.tolist(), rows, strict=True):
        name = min(identities(row), default=f"~{row.id}")  # identities sort before ids
        names[number] = min(name, names.get(number, name))
    return [names[number].removeprefix("~") for number in component.tolist()]


def identities(row: ManifestRow) -> tuple[str, ...]:
    """Return the pseudonyms of everybody whose face takes part."""
    said = row.facts.get("identity")
    return tuple(said.split(SEPARATOR)) if said else ()


def _keys(row: ManifestRow) -> list[str]:
    keys = [f"identity {name}" for name in identities(row)]
    if "video" in row.facts:
        # Two collections may call their videos alike.
        keys.append(f"video {row.source} {row.facts['video']}")
    return keys


def find_leaks(rows: Sequence[ManifestRow]) -> list[str]:
    """Return which people and videos are in several official parts, a sentence for each."""
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        part = row.facts.get("official", "train")
        for key in _keys(row):
            places[key].setdefault(part, row.id)
    return [
        f"{key} is in " + " and ".join(f"{part} ({row})" for part, row in sorted(parts.items()))
        for key, parts in sorted(places.items())
        if len(parts) > 1
    ]


def cap(rows: Sequence[ManifestRow], most: int | None) -> list[ManifestRow]:
    """Reject faces of people with more than `most`, evenly over their faces sorted by id."""
    if most is None:
        return list(rows)
    members: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.status == KEPT:
            for name in identities(row):
                members[name].append(row.id)
    surplus: dict[str, str] = {}
    for name, ids in members.items():
        if len(ids) > most:
            places = {int(place) for place in np.linspace(0, len(ids) - 1, most)}
            ordered = sorted(ids)
            surplus |= {ordered[i]: name for i in range(len(ids)) if i not in places}
    return [
        replace(
            row,
            status="capped",
            reason=f"{surplus[row.id]} has more than {most} faces",
            stage="divide",
        )
        if row.id in surplus
        else row
        for row in rows
    ]


def divide(
    rows: Sequence[ManifestRow], params: dedup.DedupParams, most: int | None
) -> list[ManifestRow]:
    """Give every kept face a group and a part, and reject what repeats.

    Args:
        rows: of faces and rejected files.
        params: how; `split_by` is "group" or "table".
        most: largest number of faces of a person, None for all.

    Raises:
        DataError: when official parts share a person or video; the message lists them.
    """
    rows = cap(rows, most)
    kept = [row for row in rows if row.status == KEPT]
    if params.split_by == "table":
        leaks = find_leaks(kept)
        if leaks:
            shown = "; ".join(leaks[:_SHOWN])
            more = f" and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
            reason = f"official parts share {len(leaks)} people or videos: {shown}{more}"
            raise DataError("split", reason, "correct the table, or use --split identity")
    groups = linked_groups(kept, params.hash_distance)
    group_of = {row.id: group for row, group in zip(kept, groups, strict=True)}
    rows = [replace(row, group=group_of.get(row.id)) for row in rows]
    official = {row.id: row.facts["official"] for row in kept if "official" in row.facts}
    return dedup.divide(rows, official, params)


def twins(rows: Sequence[ManifestRow]) -> int:
    """Return how many pictures occur under several identities with the same pixels."""
    people: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.sha is not None and identities(row):
            people[row.sha].add(row.facts["identity"])
    return sum(len(names) > 1 for names in people.values())
