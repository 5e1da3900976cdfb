"""Nobody may be on both sides: people, videos and pixels that training and test share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from ...datasets.errors import DataError
from .rows import Face

_SHOWN = 20


def shared(first: Sequence[Face], second: Sequence[Face]) -> dict[str, list[str]]:
    """Return what two parts have in common, by kind; empty lists are left out.

    People and videos are named within their collection: client 1 of one collection is not client 1
    of another. Pixels are compared by checksum everywhere.
    """
    kinds = {
        "people": lambda face: [_name(pair) for pair in face.people],
        "videos": lambda face: [] if face.video is None else [_name(face.unit)],
        "equal images": lambda face: [] if face.sha is None else [face.sha],
    }
    found = {}
    for kind, names_of in kinds.items():
        one, other = (
            {name for face in part for name in names_of(face)} for part in (first, second)
        )
        if common := sorted(one & other):
            found[kind] = common
    return found


def _name(pair: tuple[str, str]) -> str:
    collection, name = pair
    return f"{collection}: {name}" if collection else name


def check_disjoint(parts: Mapping[str, Sequence[Face]], subject: object) -> None:
    """Refuse parts that share people, videos or images.

    Args:
        parts: faces by the name of the part, such as "train".
        subject: what is being evaluated, for the message.

    Raises:
        DataError: with the list of what leaked.
    """
    leaks = [
        f"{first} and {second} share {len(names)} {kind} ({_listed(names)})"
        for first, second in combinations(parts, 2)
        for kind, names in shared(parts[first], parts[second]).items()
    ]
    if leaks:
        raise DataError(
            subject,
            f"it is not disjoint: {'; '.join(leaks)}",
            "split by identity (`mimkit curate faces` does), or name the collections of stores "
            "whose people are different ones with equal names",
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def unchecked(faces: Iterable[Face]) -> int:
    """Return how many faces have no known identity, so that nothing can be said about them."""
    return sum(not face.identities for face in faces)
