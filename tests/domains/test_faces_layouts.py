"""Layouts of face-security collections: what a path says, what lists add, what stays unknown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mimkit.core.errors import UsageError
from mimkit.datasets.errors import DataError
from mimkit.domains.faces.facts import FaceFacts
from mimkit.domains.faces.layouts import LAYOUTS, facts_of, read_lists


def place(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def brief(facts: FaceFacts | None) -> tuple:
    assert facts is not None
    return facts.label, facts.identities, facts.method, facts.compression, facts.split


def test_faceforensics(tmp_path: Path) -> None:
    splits = {
        f"splits/{name}.json": json.dumps([pair])
        for name, pair in (("train", ["000", "003"]), ("test", ["010", "011"]))
    }
    lists = read_lists("faceforensics", place(tmp_path, splits))
    real = facts_of("faceforensics", "original_sequences/youtube/c23/videos/010.mp4", lists)
    assert brief(real) == ("real", ("youtube-010",), None, "c23", "test")
    swap = facts_of(
        "faceforensics", "x/manipulated_sequences/FaceSwap/c40/frames/000_003/7.png", lists
    )
    assert brief(swap) == ("fake", ("youtube-000", "youtube-003"), "FaceSwap", "c40", "train")
    assert swap is not None
    assert swap.to_facts()["identity"] == "youtube-000+youtube-003"
    assert swap.video == "FaceSwap/000_003"
    bare = facts_of("faceforensics", "original_sequences/youtube/raw/000/0001.png", lists)
    assert bare is not None
    assert (bare.video, bare.split) == ("youtube/000", "train")
    actor = facts_of(
        "faceforensics",
        "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__walk__AB12.mp4",
        lists,
    )
    assert brief(actor) == ("fake", ("actor-01", "actor-02"), "DeepFakeDetection", "c23", None)
    assert facts_of("faceforensics", "original_sequences/youtube/c23/masks.zip", lists) is None


def test_celeb_df(tmp_path: Path) -> None:
    text = "1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n"
    lists = read_lists("celeb-df", place(tmp_path, {"List_of_testing_videos.txt": text}))
    fake = facts_of("celeb-df", "Celeb-synthesis/id0_id1_0000/0007.png", lists)
    assert brief(fake) == ("fake", ("id0", "id1"), "Celeb-synthesis", None, "test")
    assert brief(facts_of("celeb-df", "Celeb-real/id0_0003.mp4", lists))[4] == "train"
    unknown = facts_of("celeb-df", "YouTube-real/00170.mp4")
    assert brief(unknown) == ("real", ("YouTube-real/00170",), None, None, None)


def test_dfdc(tmp_path: Path) -> None:
    entries = {
        "aa.mp4": {"label": "FAKE", "split": "train", "original": "bb.mp4"},
        "bb.mp4": {"label": "REAL", "split": "train", "original": None},
    }
    files = {
        "part_0/metadata.json": json.dumps(entries),
        "test/labels.csv": "filename,label\ncc.mp4,1\n",
    }
    lists = read_lists("dfdc", place(tmp_path, files))
    assert brief(facts_of("dfdc", "part_0/aa.mp4", lists)) == (
        "fake",
        ("bb",),
        "DFDC",
        None,
        "train",
    )
    assert brief(facts_of("dfdc", "part_0/bb/0001.png", lists)) == (
        "real",
        ("bb",),
        None,
        None,
        "train",
    )
    assert brief(facts_of("dfdc", "test/cc.mp4", lists))[::4] == ("fake", "test")
    assert facts_of("dfdc", "part_0/dd.mp4", lists) is None
    place(tmp_path, {"part_1/metadata.json": json.dumps({"zz.mp4": {"label": "MAYBE"}})})
    with pytest.raises(DataError, match=r"no label REAL or FAKE for zz\.mp4"):
        read_lists("dfdc", tmp_path)


@pytest.mark.parametrize(
    ("layout", "path", "wanted"),
    [
        (
            "msu-mfsd",
            "scene01/real/real_client001_android_SD_scene01.mp4",
            ("live", ("client001",), None, "android_sd", "train"),
        ),
        (
            "msu-mfsd",
            "scene01/attack/attack_client002_laptop_SD_ipad_video_scene01.mov",
            ("spoof", ("client002",), "ipad_video", "laptop_sd", "test"),
        ),
        ("casia-fasd", "train_release/7/HR_1.avi", ("live", ("train-7",), None, "high", "train")),
        (
            "casia-fasd",
            "test_release/7/6.avi",
            ("spoof", ("test-7",), "cut photo", "normal", "test"),
        ),
        ("casia-fasd", "test_release/7/2.avi", ("live", ("test-7",), None, "normal", "test")),
        (
            "casia-fasd",
            "train/3/HR_4/12.png",
            ("spoof", ("train-3",), "video replay", "high", "train"),
        ),
        (
            "replay-attack",
            "devel/real/client003_session01_webcam_authenticate_adverse_1.mov",
            ("live", ("client003",), None, None, "val"),
        ),
        (
            "replay-attack",
            "test/attack/hand/attack_highdef_client009_session01_highdef_photo_controlled.mov",
            ("spoof", ("client009",), "highdef photo", None, "test"),
        ),
        (
            "oulu-npu",
            "Dev_files/2_1_21_4.avi",
            ("spoof", ("user21",), "video replay 1", None, "val"),
        ),
        ("oulu-npu", "Train_files/1_2_01_1/3.png", ("live", ("user01",), None, None, "train")),
        ("folder", "synthetic/a/b.png", ("synthetic", (), None, None, None)),
    ],
)
def test_presentation_attacks(layout: str, path: str, wanted: tuple, tmp_path: Path) -> None:
    files = {"train_sub_list.txt": "01\n03\n", "test_sub_list.txt": "02\n"}
    lists = read_lists(layout, place(tmp_path, files))
    assert brief(facts_of(layout, path, lists)) == wanted


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "folder"])
def test_a_file_of_no_layout_has_no_facts(layout: str, tmp_path: Path) -> None:
    lists = read_lists(layout, tmp_path) if layout != "csv" else {}
    assert facts_of(layout, "holiday/beach.jpg", lists) is None
    assert facts_of(layout, "CASIA/train_release/7/9.avi", lists) is None


def test_own_table(tmp_path: Path) -> None:
    lines = ["file,label,identity,video,split,tone", "a/1.png,fake,ann+bob,v1,test,dark"]
    place(tmp_path, {"index.csv": "\n".join([*lines, "clips/v2,real,ann,v2,,"])})
    lists = read_lists("csv", tmp_path)
    facts = facts_of("csv", "deep/down/a/1.png", lists)
    assert facts is not None
    assert facts.to_facts() == {"tone": "dark", "identity": "ann+bob", "video": "v1"}
    assert (facts.label, facts.split) == ("fake", "test")
    frame = facts_of("csv", "clips/v2/0001.png", lists)
    assert frame is not None
    assert frame.video == "v2"
    assert read_lists("csv", tmp_path / "index.csv") == lists
    for content, problem in (
        ("name,label\n", "it needs file"),
        ("file,split\na,later\n", "has the split 'later' for a"),
        ("file,label\na,x\na,y\n", "lists a twice"),
    ):
        place(tmp_path, {"index.csv": content})
        with pytest.raises(DataError, match=problem):
            read_lists("csv", tmp_path)
    with pytest.raises(UsageError, match="use one of faceforensics, celeb-df"):
        facts_of("vggface", "a.png")
