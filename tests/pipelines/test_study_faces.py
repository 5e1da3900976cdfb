"""The face study on a few real files: equal preparation, nobody on both sides, verdicts."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from mimkit.core.methods import DecoderConfig, FSFMConfig
from mimkit.core.methods.fsfm import PooledDecoderConfig
from mimkit.datasets.errors import DataError
from mimkit.pipelines.cli import main
from mimkit.pipelines.faces.rows import store_faces
from mimkit.pipelines.recipe import Recipe, load_recipe
from mimkit.pipelines.stores import open_group
from mimkit.pipelines.study import faces, faces_data, faces_identity, scenes
from mimkit.pipelines.study.faces_data import JUDGED, REAL, items

IMAGES = (*range(1, 7), *range(22, 28), *(113, 114, 115, 194, 195, 196), *(286, 287, 306, 307))


@pytest.fixture(scope="module")
def few(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with some of the sample files, by links."""
    pytest.importorskip("facenet_pytorch")
    source, out = samples / "faces", tmp_path_factory.mktemp("few")
    names = [f"caltech_faces_easy/image_{number:04d}.jpg" for number in IMAGES]
    files = sorted((source / "stylegan3").glob("*.png"))[:18]
    names += [path.relative_to(source).as_posix() for path in files]
    names += [f"orl_att/s{who}/{n}.pgm" for who in (1, 2, 21, 22) for n in range(1, 6)]
    with (source / "sfhq" / "boxes.csv").open(newline="") as stream:
        boxes = list(csv.DictReader(stream))[:4]
    names += sorted({f"sfhq/{row['file']}" for row in boxes})
    for name in names:
        (out / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (out / "faces" / name).symlink_to(source / name)
    with (out / "faces" / "sfhq" / "boxes.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(boxes[0]))
        table.writeheader()
        table.writerows(boxes)
    return out


def tiny(name: str) -> Recipe:
    base = load_recipe(name)
    assert isinstance(base.method, FSFMConfig)
    encoder = replace(base.method.encoder, embed_dim=24, depth=1, num_heads=2, patch_size=16)
    method = replace(
        base.method,
        encoder=encoder,
        decoder=DecoderConfig(dim=16, depth=1, num_heads=2),
        pooled_decoder=PooledDecoderConfig(depth=1, num_heads=2),
        projection_dim=8,
        projection_hidden=16,
    )
    return replace(base, method=method, batch_size=8)


def test_volunteers_are_told_apart_and_divided_as_a_whole(samples: Path) -> None:
    found = [item for item in items(samples) if item.collection == faces_data.CALTECH]
    assert len(found) == 435 - 5
    parts: dict[str, set[str]] = {}
    for item in found:
        parts.setdefault(item.identity, set()).add(item.split)
    assert len(parts) == 26
    assert all(len(splits) == 1 for splits in parts.values())
    assert parts["caltech-113"] == {"val"}
    assert parts["caltech-418"] == {"test"}
    with pytest.raises(DataError, match="--samples"):
        items(samples / "satellite")


def test_study_from_files_to_page(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces, "load_recipe", tiny)
    monkeypatch.setattr(faces, "EPOCHS", 2)
    monkeypatch.setattr(faces_identity, "DRAWS", 1)
    looks = [look for look in faces_identity.LOOKS if look.tap < 1]  # the encoder has one block
    monkeypatch.setattr(faces_identity, "LOOKS", looks)
    monkeypatch.setattr(scenes, "_TURNS", 2)
    work, out = tmp_path / "work", tmp_path / "out"
    words = ["evaluate", "--study", "faces", "--samples", str(few), "--out", str(out)]
    words += ["--work", str(work), "--seeds", "2", "--workers", "1"]
    assert main(words) == 0
    text = (out / "faces.md").read_text()
    assert "mimkit evaluate --study faces" in text
    assert text.count("**met**") + text.count("**not met**") == 12
    for kind in faces.KINDS.values():
        assert f"| {kind} |" in text
    assert (out / "faces.png").read_bytes().startswith(b"\x89PNG")
    seen, judged = (store_faces(open_group(work / name)) for name in (REAL, JUDGED))
    assert {face.label for face in seen} == {"real"}
    tested = [face for face in judged if face.split == "test"]
    assert not {p for f in seen for p in f.people} & {p for f in tested for p in f.people}
    fold = faces.make_fold(judged)
    learned = {judged[row].method for row in (*fold.train, *fold.dev)}
    assert learned == {None, "stylegan3"}
    assert {judged[row].method for row in fold.tests[faces.UNSEEN]} == {None, "sfhq"}
    for name in (REAL, JUDGED):
        facts = open_group(work / name).meta.facts
        assert (facts["colour"], facts["equalised"]) == ("grey", "jpeg:90")
        assert facts["crop"]["size"] == faces_data.SIZE
    # The same command again measures nothing anew.
    files = {path: path.stat().st_mtime_ns for path in (work / "numbers").rglob("*.json")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == files
