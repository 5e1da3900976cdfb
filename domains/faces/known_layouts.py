"""Face-security collections that many papers use: what the place of a file says about it."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from ...datasets.errors import DataError
from .facts import (
    FAKE,
    LIVE,
    REAL,
    SPOOF,
    FaceFacts,
    Layout,
    Lists,
    named_files,
    read_json,
    read_lines,
    read_rows,
)

_MEDIA = re.compile(r"\.(mp4|mov|avi|mkv|webm|jpe?g|png|bmp|pgm|webp)$", re.IGNORECASE)


def _match(pattern: str, path: PurePosixPath) -> re.Match[str] | None:
    return re.fullmatch(pattern, path.as_posix(), re.IGNORECASE)


# FaceForensics++ (Roessler et al., ICCV 2019): {original,manipulated}_sequences/METHOD/LEVEL/...

_FFPP = (
    r"(?:.*/)?(?P<kind>original|manipulated)_sequences/(?P<method>[^/]+)/(?P<level>raw|c\d+)/"
    r"(?:(?:videos|frames|faces|crops)/)?(?P<video>\d[\w-]*)(?:\.\w+|/[^/]+)"
)


def _faceforensics(path: PurePosixPath, lists: Lists) -> FaceFacts | None:
    found = _match(_FFPP, path)
    if found is None:
        return None
    video, method, fake = found["video"], found["method"], found["kind"].lower() == "manipulated"
    # "000_003" is the face of 003 on the video 000; "01_02__scene__CODE" the same of two actors.
    numbers = video.split("__")[0].split("_")[: 2 if fake else 1]
    prefix = "actor" if method in ("actors", "DeepFakeDetection") else "youtube"
    identities = tuple(f"{prefix}-{number}" for number in numbers)
    return FaceFacts(
        label=FAKE if fake else REAL,
        identities=identities,
        video=f"{method}/{video}",
        method=method if fake else None,
        compression=found["level"].lower(),
        split=lists.get(numbers[0]) if prefix == "youtube" else None,
    )


def _faceforensics_lists(root: Path) -> Lists:
    """Return the part of each YouTube video, from train.json, val.json and test.json (pairs)."""
    found: dict[str, str] = {}
    for split in ("train", "val", "test"):
        for path in named_files(root, f"{split}.json"):
            pairs = read_json(path)
            if not isinstance(pairs, list) or not all(isinstance(pair, list) for pair in pairs):
                raise DataError(path, "is no list of pairs", "take FaceForensics++'s own file")
            found |= {str(number): split for pair in pairs for number in pair}
    return found


# Celeb-DF v1 and v2 (Li et al., CVPR 2020)

_CELEB = (
    r"(?:.*/)?(?P<kind>Celeb-real|Celeb-synthesis|YouTube-real)/"
    r"(?P<video>(?:id\d+_)*\d+)(?:\.\w+|/[^/]+)"
)


def _celeb_df(path: PurePosixPath, lists: Lists) -> FaceFacts | None:
    found = _match(_CELEB, path)
    if found is None:
        return None
    kind, video = found["kind"], found["video"]
    people = tuple(part for part in video.split("_") if part.startswith("id"))
    fake = kind.lower() == "celeb-synthesis"
    key = f"{kind}/{video}"
    return FaceFacts(
        label=FAKE if fake else REAL,
        # A YouTube video is of a person that occurs nowhere else in the collection.
        identities=people or (key,),
        video=key,
        method="Celeb-synthesis" if fake else None,
        split=("test" if key in lists["test"] else "train") if "test" in lists else None,
    )


def _celeb_df_lists(root: Path) -> Lists:
    """Return the videos of the official test part; all others are for training."""
    names = {
        _MEDIA.sub("", line.split()[-1])
        for path in named_files(root, "List_of_testing_videos.txt")
        for line in read_lines(path)
        if line.strip()
    }
    return {"test": names} if names else {}


# DeepFake Detection Challenge (Dolhansky et al. 2020): metadata.json beside the videos


def _dfdc(path: PurePosixPath, lists: Lists) -> FaceFacts | None:
    for part in reversed(path.parts):
        entry = lists.get(_MEDIA.sub("", part))
        if entry is not None:
            video, original = _MEDIA.sub("", part), entry["original"]
            return FaceFacts(
                label=entry["label"],
                # People have no names here; a fake shows the person of its original.
                identities=(original or video,),
                video=video,
                method="DFDC" if entry["label"] == FAKE else None,
                split=entry["split"],
            )
    return None


def _dfdc_lists(root: Path) -> Lists:
    """Return label, part and original of every video, from metadata.json and labels.csv files."""
    found: dict[str, dict[str, str | None]] = {}
    for path in named_files(root, "metadata.json"):
        content = read_json(path)
        if not isinstance(content, dict):
            raise DataError(path, "is no table of videos", "take the file of the collection")
        for name, entry in content.items():
            found[_MEDIA.sub("", name)] = _dfdc_entry(path, name, entry)
    for path in named_files(root, "labels.csv"):
        for row in read_rows(path, ("filename", "label")):
            entry = {"label": "FAKE" if row["label"] == "1" else "REAL", "split": "test"}
            found[_MEDIA.sub("", row["filename"])] = _dfdc_entry(path, row["filename"], entry)
    return found


def _dfdc_entry(path: Path, name: str, entry: Any) -> dict[str, str | None]:
    label = str(entry.get("label", "")).lower() if isinstance(entry, dict) else ""
    if label not in (REAL, FAKE):
        raise DataError(path, f"has no label REAL or FAKE for {name}", "take the original file")
    original = entry.get("original")
    split = {"train": "train", "validation": "val", "val": "val", "test": "test"}
    return {
        "label": label,
        "split": split.get(str(entry.get("split"))),
        "original": _MEDIA.sub("", str(original)) if original else None,
    }


# Presentation attacks

_MSU = (
    r"(?:.*/)?(?P<kind>real|attack)/(?P=kind)_client(?P<client>\d+)_(?P<camera>android|laptop)_"
    r"(?P<quality>[A-Z]+)_(?:(?P<method>\w+)_)?scene(?P<scene>\d+)(?:\.\w+|/[^/]+)"
)


def _msu_mfsd(path: PurePosixPath, lists: Lists) -> FaceFacts | None:
    found = _match(_MSU, path)
    if found is None:
        return None
    client = f"{int(found['client']):03d}"
    attack = found["kind"].lower() == "attack"
    name = next(part for part in path.parts if "_client" in part)
    return FaceFacts(
        label=SPOOF if attack else LIVE,
        identities=(f"client{client}",),
        video=_MEDIA.sub("", name),
        method=found["method"] if attack else None,
        compression=f"{found['camera']}_{found['quality']}".lower(),
        split=lists.get(client),
    )


def _msu_lists(root: Path) -> Lists:
    """Return the part of each client, from train_sub_list.txt and test_sub_list.txt."""
    return {
        f"{int(number):03d}": split
        for split in ("train", "test")
        for path in named_files(root, f"{split}_sub_list.txt")
        for number in " ".join(read_lines(path)).split()
        if number.isdigit()
    }


_CASIA = (
    r"(?:.*/)?(?P<part>train|test)(?:_release)?/(?P<person>\d+)/"
    r"(?P<high>HR_)?(?P<number>\d)(?:\.\w+|/[^/]+)"
)
_CASIA_KINDS = ("live", "warped photo", "cut photo", "video replay")


def _casia_fasd(path: PurePosixPath, lists: Lists) -> FaceFacts | None:
    """Videos 1 and 2 are live in low and normal quality, then pairs of each attack; HR_1 to 4."""
    del lists
    found = _match(_CASIA, path)
    if found is None:
        return None
    number, part = int(found["number"]), found["part"].lower()
    place = number - 1 if found["high"] else (number - 1) // 2
    if number < 1 or place >= len(_CASIA_KINDS):
        return None
    quality = "high" if found["high"] else ("low", "normal")[(number - 1) % 2]
    person = f"{part}-{found['person']}"
    return FaceFacts(
        label=SPOOF if place else LIVE,
        identities=(person,),
        video=f"{person}-{found['high'] or ''}{number}",
        method=_CASIA_KINDS[place] if place else None,
        compression=quality,
        split=part,
    )


_REPLAY = (
    r"(?:.*/)?(?P<part>train|devel|test)/(?:real|attack/(?P<support>fixed|hand))/"
    r"(?P<video>(?:attack_(?P<device>\w+?)_)?client(?P<client>\d+)_session(?P<session>\d+)_"
    r"(?P<rest>\w+))(?:\.\w+|/[^/]+)"
)


def _replay_attack(path: PurePosixPath, lists: Lists) -> FaceFacts | None:
    del lists
    found = _match(_REPLAY, path)
    if found is None or bool(found["support"]) != bool(found["device"]):
        return None
    method = None
    if found["device"]:
        kind = "video" if "_video" in found["rest"] else "photo"
        method = f"{found['device'].lower()} {kind}"
    part = found["part"].lower()
    return FaceFacts(
        label=SPOOF if method else LIVE,
        identities=(f"client{found['client']}",),
        # The same attack is filmed with the device in a hand and on a stand.
        video="/".join(filter(None, (part, found["support"], found["video"]))),
        method=method,
        split="val" if part == "devel" else part,
    )


_OULU = (
    r"(?:.*/)?(?:(?P<part>Train|Dev|Test)_files/)"
    r"(?P<video>(?P<phone>\d)_(?P<session>\d)_(?P<user>\d+)_(?P<file>[1-5]))(?:\.\w+|/[^/]+)"
)
_OULU_KINDS = ("live", "print 1", "print 2", "video replay 1", "video replay 2")


def _oulu_npu(path: PurePosixPath, lists: Lists) -> FaceFacts | None:
    """Names are Phone_Session_User_File (Boulkenafet et al., FG 2017)."""
    del lists
    found = _match(_OULU, path)
    if found is None:
        return None
    place = int(found["file"]) - 1
    return FaceFacts(
        label=SPOOF if place else LIVE,
        identities=(f"user{found['user']}",),
        video=found["video"],
        method=_OULU_KINDS[place] if place else None,
        split={"train": "train", "dev": "val", "test": "test"}[found["part"].lower()],
        others={"phone": found["phone"], "session": found["session"]},
    )


KNOWN: dict[str, Layout] = {
    "faceforensics": Layout("FaceForensics++", _faceforensics, _faceforensics_lists),
    "celeb-df": Layout("Celeb-DF", _celeb_df, _celeb_df_lists),
    "dfdc": Layout("DFDC", _dfdc, _dfdc_lists),
    "msu-mfsd": Layout("MSU-MFSD", _msu_mfsd, _msu_lists),
    "casia-fasd": Layout("CASIA-FASD", _casia_fasd),
    "replay-attack": Layout("Replay-Attack", _replay_attack),
    "oulu-npu": Layout("OULU-NPU", _oulu_npu),
}
"""Layout by name."""
