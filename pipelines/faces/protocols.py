"""Which faces a detector learns from, which choose its threshold, which judge it: pure functions.

Every fold is checked: nobody who is judged was seen before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from ...core.errors import UsageError
from .leakage import check_disjoint
from .rows import Face

Protocol = Literal["deepfake", "synthetic", "antispoof"]

POOLED = "all test sets"
_UNNAMED = "unnamed collection"


@dataclass(frozen=True)
class Fold:
    """One training and what it is judged on.

    Args:
        name: what is special about it.
        train: places of faces that a detector learns from.
        dev: places of faces that choose the threshold and calibrate probabilities.
        tests: places of faces that are judged, by the name of the test set.
    """

    name: str
    train: Int[np.ndarray, " n"]
    dev: Int[np.ndarray, " m"]
    tests: dict[str, Int[np.ndarray, " k"]]

    def check(self, faces: Sequence[Face]) -> None:
        """Raise DataError, with the list, when people, videos or images are in several parts."""
        judged = np.unique(np.concatenate(list(self.tests.values())))
        parts = {"train": self.train, "development": self.dev, "test": judged}
        named = {name: [faces[row] for row in rows] for name, rows in parts.items()}
        check_disjoint(named, f"fold {self.name!r}")


def cross_dataset(faces: Sequence[Face], trained_on: frozenset[int]) -> list[Fold]:
    """Return the fold that learns from some stores and is judged on each collection.

    Args:
        faces: of all stores.
        trained_on: numbers of the stores whose training and validation parts may be seen.

    Raises:
        UsageError: when nothing is left to judge.
    """
    mine = _mask(faces, lambda face: face.store in trained_on)
    train, dev, test = (mine & _split(faces, name) for name in ("train", "val", "test"))
    tests = dict(_by_collection(faces, test, " (test part)"))
    for number in sorted({face.store for face in faces} - trained_on):
        theirs = _mask(faces, lambda face, number=number: face.store == number)
        tests |= _by_collection(faces, _official(faces, theirs), "")
    return [_fold("cross-dataset", train, dev, tests)]


def unseen_generators(faces: Sequence[Face]) -> list[Fold]:
    """Return a fold for every generator: trained on all others, judged on this one.

    Genuine faces of the test part stand beside the unseen generator.

    Raises:
        UsageError: with fewer than two generators.
    """
    methods = sorted({face.method for face in faces if face.positive and face.method})
    if len(methods) < 2:
        raise UsageError(
            f"{len(methods)} generators",
            "are too few to leave one out",
            "give stores whose fakes have the fact `method`, at least two of them",
        )
    folds = []
    for method in methods:
        unseen = _mask(faces, lambda face, method=method: face.positive and face.method == method)
        train, dev = (_split(faces, name) & ~unseen for name in ("train", "val"))
        genuine = _split(faces, "test") & _mask(faces, lambda face: not face.positive)
        tests = {f"{method} (unseen)": np.flatnonzero(_official(faces, unseen) | genuine)}
        seen = _split(faces, "test") & ~unseen
        if seen.any():
            tests["seen generators"] = np.flatnonzero(seen)
        folds.append(_fold(f"without {method}", train, dev, tests))
    return folds


def leave_one_domain_out(faces: Sequence[Face]) -> list[Fold]:
    """Return a fold for every collection: trained on all others, judged on all of this one.

    As in the protocols over MSU-MFSD, CASIA, Replay-Attack and OULU-NPU (Shao et al., CVPR 2019):
    the training parts of the other collections teach, and their validation parts, where there are
    any, choose the threshold.

    Raises:
        UsageError: with fewer than two collections.
    """
    names = sorted({face.collection or _UNNAMED for face in faces})
    if len(names) < 2:
        raise UsageError(
            f"{len(names)} collections",
            "are too few to leave one out",
            "curate each with --collection NAME and give all stores",
        )
    folds = []
    for name in names:
        out = _mask(faces, lambda face, name=name: (face.collection or _UNNAMED) == name)
        train, dev = (_split(faces, part) & ~out for part in ("train", "val"))
        folds.append(_fold(f"without {name}", train, dev, {name: np.flatnonzero(out)}))
    return folds


def scored_only(faces: Sequence[Face]) -> list[Fold]:
    """Return the fold of scores that came from elsewhere: validation rows choose, others judge.

    Rows of split "val" are development data and rows of split "train" are left out.

    Raises:
        UsageError: when nothing is left to judge.
    """
    dev = _split(faces, "val")
    tests = dict(_by_collection(faces, ~dev & ~_split(faces, "train"), ""))
    return [_fold("given scores", _split(faces, "train"), dev, tests)]


def _fold(
    name: str,
    train: Bool[np.ndarray, " n"],
    dev: Bool[np.ndarray, " n"],
    tests: dict[str, Int[np.ndarray, " k"]],
) -> Fold:
    tests = {key: rows for key, rows in tests.items() if len(rows)}
    if not tests:
        raise UsageError(
            f"fold {name!r}", "has no faces to judge", "give a store with a test part (--test)"
        )
    if len(tests) > 1:
        tests[POOLED] = np.unique(np.concatenate(list(tests.values())))
    return Fold(name, np.flatnonzero(train), np.flatnonzero(dev), tests)


def _mask(faces: Sequence[Face], test: Callable[[Face], bool]) -> Bool[np.ndarray, " n"]:
    return np.array([face.judged and test(face) for face in faces], dtype=np.bool_)


def _split(faces: Sequence[Face], name: str) -> Bool[np.ndarray, " n"]:
    return _mask(faces, lambda face: face.split == name)


def _official(faces: Sequence[Face], among: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Return the test part of what nobody trained on; all of it when it has no test part."""
    test = among & _split(faces, "test")
    return test if test.any() else among


def _by_collection(
    faces: Sequence[Face], among: Bool[np.ndarray, " n"], suffix: str
) -> dict[str, Int[np.ndarray, " k"]]:
    rows = np.flatnonzero(among)
    names = [faces[int(row)].collection or _UNNAMED for row in rows]
    return {
        f"{name}{suffix}": rows[[other == name for other in names]] for name in dict.fromkeys(names)
    }
