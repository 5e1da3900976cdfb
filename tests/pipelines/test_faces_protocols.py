"""Protocols of face security: who is trained on, who is judged, what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mimkit.core.errors import UsageError
from mimkit.datasets.errors import DataError
from mimkit.pipelines.faces.judge import Scored, at_level, judge, resampling
from mimkit.pipelines.faces.leakage import check_disjoint, shared
from mimkit.pipelines.faces.protocols import (
    POOLED,
    cross_dataset,
    leave_one_domain_out,
    scored_only,
    unseen_generators,
)
from mimkit.pipelines.faces.rows import Face, read_scores, with_attacks


def face(name: str, label: str, split: str, who: str = "", **more) -> Face:
    return Face(id=name, uri=name, label=label, split=split, identities=(who or name,), **more)


def collection(name: str, store: int = 0, generators: tuple[str, ...] = ("gan",)) -> list[Face]:
    """Return one genuine face and one fake of every generator in every part."""
    found = []
    for split in ("train", "val", "test"):
        found.append(face(f"{name}-{split}", "real", split, collection=name, store=store))
        for method in generators:
            found.append(
                face(
                    f"{name}-{split}-{method}",
                    "fake",
                    split,
                    collection=name,
                    store=store,
                    method=method,
                )
            )
    return found


def names(faces: list[Face], rows: np.ndarray) -> set[str]:
    return {faces[row].id for row in rows}


def test_cross_dataset_learns_from_one_store_and_judges_all() -> None:
    faces = [*collection("a"), *collection("b", store=1), face("x", "dog", "test", store=1)]
    (fold,) = cross_dataset(faces, frozenset({0}))
    fold.check(faces)
    assert names(faces, fold.train) == {"a-train", "a-train-gan"}
    assert names(faces, fold.dev) == {"a-val", "a-val-gan"}
    assert set(fold.tests) == {"a (test part)", "b", POOLED}
    assert names(faces, fold.tests["b"]) == {"b-test", "b-test-gan"}
    assert len(fold.tests[POOLED]) == 4
    with pytest.raises(UsageError, match="no faces to judge"):
        cross_dataset([f for f in faces[:6] if f.split != "test"], frozenset({0}))


def test_a_generator_that_is_judged_was_not_learned_from() -> None:
    faces = collection("a", generators=("gan", "diffusion"))
    folds = {fold.name: fold for fold in unseen_generators(faces)}
    assert set(folds) == {"without diffusion", "without gan"}
    fold = folds["without gan"]
    fold.check(faces)
    learned = [faces[row].method for row in (*fold.train, *fold.dev)]
    assert set(learned) == {None, "diffusion"}
    assert names(faces, fold.tests["gan (unseen)"]) == {"a-test", "a-test-gan"}
    assert names(faces, fold.tests["seen generators"]) == {"a-test", "a-test-diffusion"}
    with pytest.raises(UsageError, match="1 generators: are too few"):
        unseen_generators(collection("a"))


def test_a_domain_that_is_judged_was_not_learned_from() -> None:
    faces = [*collection("m"), *collection("c"), *collection("i")]
    folds = leave_one_domain_out(faces)
    assert [fold.name for fold in folds] == ["without c", "without i", "without m"]
    for fold in folds:
        out = fold.name.split()[-1]
        assert names(faces, fold.tests[out]) == {f.id for f in faces if f.collection == out}
        assert {faces[r].collection for r in (*fold.train, *fold.dev)} == {"m", "c", "i"} - {out}
        assert not set(fold.train) & set(fold.dev)
    with pytest.raises(UsageError, match="1 collections: are too few"):
        leave_one_domain_out(collection("m"))


def test_a_leaked_identity_is_an_error_with_the_list() -> None:
    faces = collection("a")
    faces.append(face("again", "real", "test", who="a-train", collection="a"))
    swap = Face(
        id="swap",
        uri="swap",
        label="fake",
        split="test",
        collection="a",
        identities=("stranger", "a-val"),
    )
    faces.append(swap)
    (fold,) = cross_dataset(faces, frozenset({0}))
    with pytest.raises(DataError, match=r"train and test share 1 people \(a: a-train\)") as caught:
        fold.check(faces)
    assert "development and test share 1 people (a: a-val)" in str(caught.value)
    # Client 1 of another collection is another person; equal pixels are equal everywhere.
    one = face("p", "real", "train", who="client1", collection="m", sha="f" * 64, video="v")
    other = face("q", "real", "test", who="client1", collection="i", sha="f" * 64, video="v")
    assert shared([one], [other]) == {"equal images": ["f" * 64]}
    many = [face(f"n{n:02}", "real", "train") for n in range(30)]
    with pytest.raises(DataError, match=r"share 30 people \(n00, .*, n19 and 10 more\)"):
        check_disjoint({"train": many, "test": many}, "set")


def scored(
    pairs: list[tuple[str, float]], *, video: bool = False, probabilities: bool = True
) -> Scored:
    faces = [
        face(
            f"{label}{n}",
            label,
            "test",
            who=f"p{n}",
            video=f"{label}{n // 2}" if video else None,
            method="gan" if label == "fake" else None,
            facts={"gender": "f" if n % 2 else "m"},
        )
        for n, (label, _) in enumerate(pairs)
    ]
    return Scored(faces, torch.tensor([s for _, s in pairs], dtype=torch.float64), probabilities)


def test_one_class_is_said_and_other_numbers_stay() -> None:
    test = scored([("fake", 0.9), ("fake", 0.2)])
    dev = scored([("real", 0.1), ("fake", 0.6)])
    found = judge(test, dev, features="model", fold="f", test="t", level="frame")
    assert found.undefined == "no negative among 2 samples, so ROC, AUC and EER are undefined"
    assert (found.auc, found.eer, found.from_test_as_published) == (None, None, None)
    by = {(part.by, part.value): part for part in found.parts}
    assert by["gender", "f"].apcer == 1.0  # 0.2 lies below the threshold of the development data
    assert by["gender", "m"].apcer == 0.0
    assert by["gender", "m"].bpcer is None


def test_both_thresholds_are_named_and_the_published_one_flatters() -> None:
    dev = scored([("real", 0.1), ("real", 0.2), ("fake", 0.3), ("fake", 0.4)])
    test = scored([("real", 0.5), ("real", 0.6), ("fake", 0.8), ("fake", 0.9)])
    found = judge(test, dev, features="m", fold="f", test="t", level="frame", num_draws=50)
    assert found.from_development is not None
    assert found.from_test_as_published is not None
    assert found.from_development.threshold == pytest.approx(0.25)
    assert found.from_development.hter == 0.5
    assert found.from_test_as_published.hter == 0.0
    assert (found.auc, found.eer, found.tpr_at_fpr, found.bona_fide_at_apcer) == (1, 0, 1, 1)
    assert found.calibration is not None
    nothing = Scored([], torch.zeros(0), True)
    alone = judge(test, nothing, features="m", fold="f", test="t", level="frame", num_draws=50)
    assert alone.from_development is None
    raw = Scored(test.faces, test.scores * 10, False)
    assert judge(raw, dev, features="m", fold="f", test="t", level="frame").calibration is None


def test_videos_have_one_score() -> None:
    frames = scored(
        [("real", 0.1), ("real", 0.3), ("fake", 0.4), ("fake", 1.0), ("fake", 0.2)], video=True
    )
    videos = at_level(frames, "video mean")
    assert [f.video for f in videos.faces] == ["real0", "fake1", "fake2"]
    assert videos.scores.tolist() == pytest.approx([0.2, 0.7, 0.2])
    found = judge(frames, frames, features="m", fold="f", test="t", level="video mean", num_draws=9)
    assert (found.num_positive, found.num_negative) == (2, 1)


def test_a_swap_joins_two_people_when_an_interval_is_drawn() -> None:
    faces = [
        face("1", "real", "test", who="ann"),
        face("2", "real", "test", who="bob"),
        Face(id="3", uri="3", label="fake", identities=("bob", "ann")),
        face("4", "real", "test", who="eve"),
    ]
    what, groups = resampling(faces)
    assert what == "people"
    assert groups.tolist() == [0, 0, 0, 1]
    what, groups = resampling([*faces, Face(id="5", uri="5", label="fake", video="v")])
    assert (what, len(groups.unique())) == ("videos", 5)


def test_attacks_made_from_genuine_faces_say_that_they_are_simulated() -> None:
    faces = with_attacks(collection("a"))
    made = [f for f in faces if f.attack]
    assert len(made) == 3 * 3
    assert {f.label for f in made} == {"spoof"}
    assert all(f.method and f.method.startswith("simulated ") for f in made)
    assert len({f.unit for f in faces}) == len(faces)
    (fold,) = cross_dataset(faces, frozenset({0}))
    fold.check(faces)  # a face and the attack made from it are in the same part


def test_scores_of_any_detector(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    lines = [
        "file,score,label,split,identity,collection,tone",
        "a,0.25,real,val,ann,x,dark",
        "b,0.5,fake,test,ann+bob,x,",
        "c,-3,real,,,y,",
    ]
    path.write_text("\n".join(lines))
    faces, scores = read_scores(path)
    assert scores.tolist() == [0.25, 0.5, -3.0]
    assert faces[1].people == {("x", "ann"), ("x", "bob")}
    assert faces[0].facts == {"tone": "dark"}
    (fold,) = scored_only(faces)
    assert {name: rows.tolist() for name, rows in fold.tests.items()} == {
        "x": [1],
        "y": [2],
        POOLED: [1, 2],
    }
    assert fold.dev.tolist() == [0]
    with pytest.raises(DataError, match="share 1 people"):
        fold.check(faces)
    for line, problem in (("a,nan,real", "scores a as 'nan'"), ("a,1,human", "as 'human'")):
        path.write_text(f"file,score,label\n{line}\n")
        with pytest.raises(DataError, match=problem):
            read_scores(path)
