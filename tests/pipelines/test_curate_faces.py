"""`mimkit curate faces` from files to a store, on drawn faces: bad input, parts, maps, removal."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_faces import draw_face, face_box, write_boxes, write_faces, write_video

from mimkit.core.errors import UsageError
from mimkit.core.masking.facial import CLASSES
from mimkit.datasets.errors import DataError
from mimkit.datasets.manifest import ManifestRow, manifest_rows, read_manifest
from mimkit.datasets.store import Store
from mimkit.domains.domain import get_domain
from mimkit.domains.faces.crop import CropConfig
from mimkit.domains.faces.curate.divide import find_leaks, linked_groups
from mimkit.domains.faces.curate.records import pseudonym
from mimkit.pipelines.cli import main
from mimkit.pipelines.curate.faces import CurateFacesConfig, run
from mimkit.pipelines.stores import open_group

GROUP = "face-3x48x48-uint8"
CROP = CropConfig(size=48)


def rows_of(out: Path) -> dict[str, ManifestRow]:
    return {row.id: row for row in manifest_rows(read_manifest(out / "manifest.parquet"))}


def curate(folder: Path, out: str = "store", **options: object) -> Path:
    """Curate folder/pictures with a table of boxes, leniently."""
    settings: dict[str, object] = {
        "sources": (folder / "pictures",),
        "detector": str(folder / "boxes.csv"),
        "crop": CROP,
        "identities": "folder",
        "min_blur": 0.0,
        "workers": 0,
        "fractions": (0.5, 0.25, 0.25),
        "max_broken_share": 1.0,
        "licence": "drawn",
        "consent": "nobody real",
    }
    run(CurateFacesConfig(out=folder / out, **(settings | options)))  # type: ignore[arg-type]
    return folder / out


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Six people with two photographs each."""
    paths = write_faces(tmp_path / "pictures")
    names = [path.relative_to(tmp_path / "pictures").as_posix() for path in paths]
    write_boxes(tmp_path / "boxes.csv", names)
    return tmp_path


def test_faces_become_a_store_with_maps(people: Path) -> None:
    out = curate(people, equalise="jpeg:80")
    group = open_group(out)
    meta = group.meta
    assert (len(group.store), group.store.path.name, meta.regions) == (12, GROUP, CLASSES)
    assert meta.facts["crop"] == CROP.to_dict()
    assert meta.facts["equalised"] == "jpeg:80"
    domain = get_domain("faces")
    normaliser = domain.normaliser(group.normaliser_dict)
    assert normaliser.to_dict()["crop"] == CROP.to_dict()
    samples = group.store.read(np.arange(12))
    batch = domain.to_batch(samples, meta, normaliser)
    assert batch.regions is not None
    assert set(batch.regions.unique().tolist()) == set(range(len(CLASSES)))
    rows = rows_of(out)
    row = rows["p0/1.png"]
    assert row.facts["identity"] == pseudonym("p0")
    assert row.facts["crop"] == CROP.name
    assert row.facts["consent"] == "nobody real"
    assert row.transform is not None
    assert row.measures["box_left"] == pytest.approx(face_box()[0])
    # A crop by the recorded transform is the stored one, coding aside.
    image = np.asarray(Image.open(people / "pictures" / "p0" / "1.png"))
    side, left, top = (round(row.transform[i] * k) for i, k in ((0, 48), (2, 1), (5, 1)))
    cut = Image.fromarray(image[top : top + side, left : left + side]).resize((48, 48))
    stored = samples.pixels[row.row or 0].transpose(1, 2, 0).astype(int)
    assert np.abs((stored - np.asarray(cut)).mean(axis=-1)).mean() < 6  # colour is coded coarser
    card = json.loads((out / "card.json").read_text())
    assert card["files"] == {"found": 12, "broken": 0}
    assert card["licences"] == {"drawn": 12}


def test_no_person_is_in_two_parts(people: Path) -> None:
    rows = rows_of(curate(people)).values()
    parts: dict[str, set[str | None]] = {}
    for row in rows:
        parts.setdefault(row.facts["identity"], set()).add(row.split)
    assert all(len(found) == 1 for found in parts.values())
    assert {part for found in parts.values() for part in found} == {"train", "val", "test"}


def test_a_killed_run_and_workers_change_nothing(people: Path) -> None:
    once = curate(people)
    (once / "manifest.parquet").unlink()
    (once / GROUP / "pixels" / "c.0.0.0.0").unlink()
    curate(people)
    other = curate(people, "other")
    for name in ("manifest.parquet", f"{GROUP}/pixels/c.0.0.0.0", f"{GROUP}/regions/c.0.0.0"):
        assert (once / name).read_bytes() == (other / name).read_bytes()


def test_bad_input_is_a_row_with_a_reason(people: Path, capsys: pytest.CaptureFixture) -> None:
    pictures = people / "pictures"
    (pictures / "p0" / "1.png").write_bytes((pictures / "p0" / "1.png").read_bytes()[:900])
    (pictures / "p1" / "1.png").write_bytes(b"")
    Image.new("RGB", (64, 48), (99, 99, 99)).save(pictures / "p2" / "nobody.png")
    Image.fromarray(draw_face(seed=9)[..., 0].astype(np.uint16) * 257).save(
        pictures / "p2" / "deep.png"
    )
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = np.ascontiguousarray(draw_face(seed=8)[::-1, ::-1])
    Image.fromarray(turned).save(pictures / "p3" / "turned.png", exif=exif)
    frames = [Image.fromarray(draw_face(seed=20 + i)) for i in range(3)]
    frames[0].save(pictures / "p4" / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(draw_face(seed=30) // 12).save(pictures / "p5" / "night.png")
    for name in ("p2/deep.png", "p3/turned.png", "p4/moving.gif", "p5/night.png"):
        table = (people / "boxes.csv").read_text()
        line = table.splitlines()[1].partition(",")[2]
        (people / "boxes.csv").write_text(f"{table}{name},{line}\n")
    rows = rows_of(curate(people))
    status = {name: row.status for name, row in rows.items() if row.status != "kept"}
    assert status == {
        "p0/1.png": "unreadable",
        "p1/1.png": "unreadable",
        "p2/nobody.png": "no_face",
        "p5/night.png": "dark",
    }
    assert "is empty (0 bytes)" in (rows["p1/1.png"].reason or "")
    assert "16 bits" in rows["p2/deep.png"].facts["notes"]
    assert rows["p2/deep.png"].facts["source_colour"] == "grey"
    assert "orientation 3" in rows["p3/turned.png"].facts["notes"]
    assert rows["p4/moving.gif"].facts["notes"] == "animated: frame 0 of 3"
    upright = open_group(people / "store").store.read(np.array([rows["p3/turned.png"].row]))
    regions = upright.regions
    assert regions is not None
    eye, mouth = (
        (regions[0] == CLASSES.index(n)).nonzero()[0].mean() for n in ("right_eye", "inner_mouth")
    )
    assert eye < mouth
    capsys.readouterr()
    words = ["curate", "faces", str(pictures), "--out", str(people / "again"), "--crop.size", "48"]
    words += ["--detector", str(people / "boxes.csv"), "--min-blur", "0"]
    assert main([*words, "--max-broken-share", "0.05"]) == 1
    assert "2 of 17 files are broken" in capsys.readouterr().err


def test_several_faces(tmp_path: Path) -> None:
    """Two faces side by side: all options, and a small one that does not count."""
    pair = np.concatenate([draw_face((80, 128), seed=1), draw_face((80, 128), seed=2)], axis=1)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(pair).save(tmp_path / "pictures" / "pair.png")
    (l1, t1, r1, b1), (l2, t2, r2, b2) = face_box((80, 128)), face_box((80, 128))
    faces = [
        {"bbox": [l1, t1, r1, b1], "det_score": 0.99},
        {"bbox": [l2 + 80, t2, r2 + 80, b2 + 6], "det_score": 0.95},
        {"bbox": [0, 0, 12, 12], "det_score": 0.99},
        {"bbox": [0, 40, 60, 100], "det_score": 0.2},
    ]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"pair.png": faces}))
    common = {"detector": str(boxes), "max_overlap": 0.5, "fractions": (1.0, 0.0, 0.0)}
    large = rows_of(curate(tmp_path, "largest", **common))["pair.png"]
    assert large.measures["box_left"] == l2 + 80
    assert large.measures["num_faces"] == 2
    both = rows_of(curate(tmp_path, "all", faces="all", **common))
    assert set(both) == {"pair.png#face0", "pair.png#face1"}
    with pytest.raises(DataError, match=r"no face was kept \(1 many_faces\)"):
        curate(tmp_path, "reject", faces="reject", **common)
    with pytest.raises(DataError, match=r"no face was kept \(1 crowded\)"):
        curate(tmp_path, "crowded", **(common | {"max_overlap": 0.2}))


def test_videos_and_folders_of_frames(tmp_path: Path) -> None:
    pytest.importorskip("av")
    pictures = tmp_path / "pictures"
    frames = [draw_face(seed=3 + i) for i in range(10)]
    write_video(pictures / "p0" / "a.mp4", frames)
    whole = (pictures / "p0" / "a.mp4").read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b"")):
        (pictures / "p1").mkdir(exist_ok=True)
        (pictures / "p1" / f"{name}.mp4").write_bytes(content)
    for number in range(4):
        path = pictures / "p2" / "clip" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_face(seed=50)).save(path)
    names = [f"a.mp4#{i}" for i in range(10)] + [f"clip/{i:03d}.png" for i in range(4)]
    write_boxes(tmp_path / "boxes.csv", names)
    rows = rows_of(curate(tmp_path, num_frames=4, frame_folders=True, fractions=(0.5, 0, 0.5)))
    kept = [row for row in rows.values() if row.status in ("kept", "duplicate")]
    assert sorted(row.id for row in kept) == [
        *(f"p0/a.mp4#frame{i:06d}" for i in (0, 3, 6, 9)),
        *(f"p2/clip#frame{i:06d}" for i in range(4)),
    ]
    assert {row.facts["video"] for row in kept} == {"p0/a.mp4", "p2/clip"}
    assert rows["p1/cut.mp4"].status == rows["p1/empty.mp4"].status == "unreadable"
    assert "is empty (0 bytes)" in (rows["p1/empty.mp4"].reason or "")
    parts: dict[str, set[str | None]] = {}
    for row in kept:
        if row.split:
            parts.setdefault(row.facts["video"], set()).add(row.split)
    assert all(len(found) == 1 for found in parts.values())
    assert Counter(row.status for row in kept)["duplicate"] == 3  # equal frames of the folder


def test_leaked_people_are_listed(people: Path) -> None:
    names = [f"p{i}/{k}.png" for i in range(6) for k in range(2)]
    parts = {name: "test" if name.startswith("p5") else "train" for name in names}

    def table(parts: dict[str, str]) -> Path:
        lines = [f"{n},{n[:2]},{part},person,yes" for n, part in parts.items()]
        path = people / "table.csv"
        path.write_text("\n".join(["file,identity,split,label,glasses", *lines]) + "\n")
        return path

    rows = rows_of(curate(people, table=table(parts)))
    assert {n: row.split for n, row in rows.items()} == parts
    assert rows["p0/0.png"].label == "person"
    assert rows["p0/0.png"].facts["glasses"] == "yes"
    leaky = parts | {"p0/1.png": "test", "p3/0.png": "val"}
    with pytest.raises(DataError, match=r"share 2 people or videos: .*p0/1\.png.*p3/0\.png"):
        curate(people, "leaky", table=table(leaky))
    curate(people, "mended", table=table(leaky), split="identity")
    assert find_leaks(list(rows.values())) == []


def test_links_are_followed() -> None:
    """A swap ties two people, a video ties frames, and a look-alike ties strangers."""

    def row(name: str, phash: str | None = None, **facts: str) -> ManifestRow:
        return ManifestRow(id=name, uri=name, status="kept", phash=phash, facts=facts)

    rows = [
        row("a", identity="id-1"),
        row("b", identity="id-1+id-2"),
        row("c", identity="id-2", video="v"),
        row("d", video="v", phash="00000000000000ff"),
        row("e", phash="00000000000000fe"),
        row("f", phash="ffffffffffff0000"),
        row("g", identity="id-3"),
    ]
    groups = linked_groups(rows, 2)
    assert groups[:5] == ["id-1"] * 5
    assert groups[5:] == ["f", "id-3"]
    assert linked_groups([], 2) == []


def test_maps_of_a_parser(people: Path) -> None:
    maps = people / "maps"
    for person in range(3):
        (maps / f"p{person}").mkdir(parents=True)
        labels = np.full((128, 160), 1, np.uint8)
        labels[40:60, 50:70], labels[40:60, 90:110], labels[80:95, 65:95] = 4, 5, 8
        if person == 1:
            labels[:] = 0  # nobody is seen
        if person == 2:
            labels = labels[::2, ::2]
        Image.fromarray(labels).save(maps / f"p{person}" / "0.png")
    rows = rows_of(curate(people, regions=f"lapa:{maps}"))
    assert rows["p0/0.png"].facts["regions"] == "lapa"
    assert rows["p0/1.png"].facts["regions"] == "landmarks"
    assert rows["p1/0.png"].status == "occluded"
    assert rows["p2/0.png"].status == "bad_regions"
    assert "80x64 pixels and its picture 160x128" in (rows["p2/0.png"].reason or "")
    resized = rows_of(curate(people, "resized", regions=f"lapa:{maps}", region_size="resize"))
    assert resized["p2/0.png"].status == "kept"
    found = Store(people / "resized" / GROUP).read(np.array([resized["p2/0.png"].row])).regions
    assert found is not None
    assert {0, 1, 4, 5, 8} >= set(np.unique(found).tolist()) >= {1, 4, 5, 8}


def test_removal_leaves_no_bytes(people: Path) -> None:
    from numcodecs import Blosc

    out = curate(people)
    before, store = rows_of(out), Store(out / GROUP)
    gone = [before[f"p2/{k}.png"].row or 0 for k in range(2)]
    stays = [row for row in range(12) if row not in gone]
    pixels = store.read(np.arange(12)).pixels
    coder = Blosc("lz4", 5, Blosc.SHUFFLE)
    coded = [bytes(coder.encode(np.ascontiguousarray(pixels[row]))) for row in range(12)]
    secrets = [before["p2/0.png"].sha or "", before["p2/0.png"].phash or "", pseudonym("p2")]

    def holds(content: bytes) -> bool:
        return any(content in path.read_bytes() for path in out.rglob("*") if path.is_file())

    assert all(holds(part) for part in coded)
    listed = people / "list.txt"
    listed.write_text("# on request\np2\n")
    assert main(["curate", "faces", "--remove", str(listed), "--out", str(out)]) == 0
    assert not any(holds(coded[row]) for row in gone)
    assert all(holds(coded[row]) for row in stays)
    assert not any(holds(secret.encode()) for secret in secrets)
    group = open_group(out)  # manifest and store still fit
    assert np.array_equal(group.store.read(np.arange(10)).pixels, pixels[stays])
    after = rows_of(out)
    assert Counter(row.status for row in after.values()) == {"kept": 10, "removed": 2}
    erased = [row for row in after.values() if row.status == "removed"]
    assert all(
        (row.uri, row.sha, row.measures, row.facts) == ("removed", None, {}, {}) for row in erased
    )
    assert json.loads((out / "card.json").read_text())["kept"] == 10
    # The pictures are still in the sources, and do not come back; nor does a second removal fail.
    curate(people)
    assert Counter(row.status for row in rows_of(out).values()) == {"kept": 10, "removed": 2}
    assert main(["curate", "faces", "--remove", str(listed), "--out", str(out)]) == 0
    listed.write_text("p2\nsomebody else\n")
    with pytest.raises(UsageError, match="1 entries are not in the manifest: somebody else"):
        run(CurateFacesConfig(out=out, remove=listed))
    with pytest.raises(DataError, match="no finished curation"):
        run(CurateFacesConfig(out=people / "nowhere", remove=listed))


def test_a_killed_removal_goes_on(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mimkit.pipelines.curate import faces_remove

    out = curate(people)
    listed = people / "list.txt"
    listed.write_text("p1/0.png\n")
    exchange = faces_remove._exchange

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(faces_remove, "_exchange", killed)
    with pytest.raises(KeyboardInterrupt):
        run(CurateFacesConfig(out=out, remove=listed))
    assert len(open_group(out).store) == 12
    monkeypatch.setattr(faces_remove, "_exchange", exchange)
    run(CurateFacesConfig(out=out, remove=listed))
    assert len(open_group(out).store) == 11


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"equalise": "webp:5"}, "equalise: is 'webp:5'"),
        ({"regions": "lapa:nowhere"}, "nowhere is no folder"),
        ({"regions": "guess"}, "regions: is 'guess'"),
        ({"detector": "yolo"}, "yolo is no CSV or JSON file"),
        ({"brightness": (200.0, 100.0)}, "brightness: is"),
        ({"split": "table"}, "neither table nor layout names parts"),
        ({"sources": ()}, "name at least one file or folder"),
        ({"layout": "imagenet"}, "layout 'imagenet': is not known"),
    ],
)
def test_wrong_settings_are_answers(people: Path, options: dict, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        curate(people, **options)


def test_real_faces_are_found(samples: Path, tmp_path: Path) -> None:
    """Built-in detector on photographs of Caltech-101, StyleGAN3 and ORL."""
    pytest.importorskip("facenet_pytorch")
    sources = [
        *sorted((samples / "faces" / "caltech_faces_easy").glob("*.jpg"))[::145],
        *sorted((samples / "faces" / "stylegan3").glob("*.png"))[::75],
        *sorted((samples / "faces" / "orl_att").glob("s[12]/1.pgm")),
    ]
    config = CurateFacesConfig(
        sources=tuple(sources), out=tmp_path / "out", crop=CROP, min_blur=0, workers=0
    )
    run(config)
    rows = rows_of(tmp_path / "out").values()
    assert len(rows) == len(sources)
    assert all(row.status == "kept" for row in rows)
    for row in rows:
        seen = row.measures
        assert seen["score"] > 0.9
        assert seen["right_eye_x"] < seen["nose_x"] < seen["left_eye_x"]
        assert seen["right_eye_y"] < seen["nose_y"] < seen["mouth_left_y"]
