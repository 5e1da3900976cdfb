"""The stores of the face study: equal crops, one coding and one colour mode, nobody on both sides.

Images of one volunteer of Caltech's Faces_easy follow each other; the list of first images below
was made by looking at all of them. Three drawings and two people with one image are left out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...core.files import replacing, write_text
from ...datasets.errors import DataError
from ...domains.faces.crop import CropConfig
from ..curate.faces import run
from ..curate.faces_config import CurateFacesConfig
from ..faces.leakage import check_disjoint
from ..faces.rows import Face, store_faces
from ..stores import MANIFEST, open_group

REAL, JUDGED = "faces-real", "faces-judged"
"""Stores: genuine faces for pre-training, and faces for detectors and identity."""

CALTECH, STYLEGAN, SFHQ, ORL = "caltech", "stylegan3", "sfhq", "orl"
SIZE, QUALITY = 64, 90

FIRST = (
    *(1, 22, 42, 47, 69, 90, 113, 133, 138, 159, 164, 169, 174, 194, 215, 240, 262, 267, 286, 306),
    *(326, 346, 366, 388, 393, 398, 418),
)
"""Number of the first image of each volunteer."""

LEFT_OUT = range(388, 393)
TEST_FROM = 286  # people from this image on are judged
VALIDATION = (113, 194)  # people that choose thresholds, by their first image
ORL_PRETRAINING = 20  # people of ORL that pre-training may see; identity is asked of the others
_EVERY = 6  # of the images of StyleGAN3 one is for validation and one for the test


@dataclass(frozen=True)
class Item:
    """A file of the study.

    Args:
        path: where it is.
        collection: where it comes from.
        label: "real" or "fake".
        split: part of the judged store; "pretraining" is in the other one.
        identity: who it is.
        method: generator.
        box: left, top, right, bottom of a face in a mosaic.
    """

    path: Path
    collection: str
    label: str
    split: str
    identity: str = ""
    method: str = ""
    box: tuple[int, int, int, int] | None = None

    @property
    def name(self) -> str:
        """Name of its copy, distinct in the study."""
        place = "" if self.box is None else "-" + "-".join(map(str, self.box[:2]))
        folder = f"{self.path.parent.name}-" if self.collection == ORL else ""
        suffix = ".png" if self.box else self.path.suffix
        return f"{self.collection}/{folder}{self.path.stem}{place}{suffix}"


def items(samples: Path) -> list[Item]:
    """Return all files of the study and what is known about each.

    Raises:
        DataError: when the samples are not there.
    """
    folder = samples / "faces"
    if not folder.is_dir():
        raise DataError(folder, "is not there", "name the folder of the samples with --samples")
    found = [*_caltech(folder), *_stylegan(folder), *_sfhq(folder), *_orl(folder)]
    if not found:
        raise DataError(folder, "holds none of the study's files", "copy the samples again")
    return found


def _caltech(folder: Path) -> Iterator[Item]:
    for path in sorted((folder / "caltech_faces_easy").glob("*.jpg")):
        number = int(path.stem.rpartition("_")[2])
        if number in LEFT_OUT:
            continue
        who = max(first for first in FIRST if first <= number)
        split = "test" if who >= TEST_FROM else "val" if who in VALIDATION else "train"
        yield Item(path, CALTECH, "real", split, f"caltech-{who}")


def _stylegan(folder: Path) -> Iterator[Item]:
    parts = {_EVERY - 2: "val", _EVERY - 1: "test"}
    for place, path in enumerate(sorted((folder / "stylegan3").glob("*.png"))):
        yield Item(path, STYLEGAN, "fake", parts.get(place % _EVERY, "train"), "", STYLEGAN)


def _sfhq(folder: Path) -> Iterator[Item]:
    table = folder / "sfhq" / "boxes.csv"
    with table.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            left, top, width, height = (int(row[name]) for name in ("x", "y", "w", "h"))
            box = (left, top, left + width, top + height)
            yield Item(table.parent / row["file"], SFHQ, "fake", "test", "", SFHQ, box)


def _orl(folder: Path) -> Iterator[Item]:
    for path in sorted((folder / "orl_att").glob("s*/*.pgm")):
        number = int(path.parent.name.removeprefix("s"))
        split = "pretraining" if number <= ORL_PRETRAINING else "test"
        yield Item(path, ORL, "real", split, f"orl-{number}")


def for_pretraining(item: Item) -> bool:
    """Return whether pre-training may see a file: genuine, and of nobody who is judged."""
    own = item.collection == CALTECH and item.split == "train"
    return own or item.split == "pretraining"


def make_stores(samples: Path, work: Path) -> None:
    """Make both stores where they are not there, and check that they share nobody.

    Raises:
        DataError: when the samples are not there, or somebody is on both sides.
    """
    everything = items(samples)
    chosen = {
        REAL: [item for item in everything if for_pretraining(item)],
        JUDGED: [item for item in everything if item.split != "pretraining"],
    }
    for name, members in chosen.items():
        if not (work / name / MANIFEST).exists():
            _curate(members, work, name)
    seen, judged = (store_faces(open_group(work / name)) for name in chosen)
    check_disjoint({"pre-training": seen, "test": _test(judged)}, "faces study")


def _test(faces: list[Face]) -> list[Face]:
    return [face for face in faces if face.split == "test"]


def _curate(members: list[Item], work: Path, name: str) -> None:
    folder = work / f"{name}-files"
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["file", "label", "identity", "method", "source", "split"])
    for item in members:
        copy(item, folder / item.name)
        split = "train" if item.split == "pretraining" else item.split
        line = (item.name, item.label, item.identity, item.method, item.collection, split)
        table.writerow(line)
    write_text(work / f"{name}.csv", stream.getvalue())
    run(
        CurateFacesConfig(
            sources=(folder,),
            out=work / name,
            table=work / f"{name}.csv",
            split="table",
            crop=CropConfig(size=SIZE),
            colour="grey",
            equalise=f"jpeg:{QUALITY}",
            # Nothing is left out for its looks: a test set without its dark images is an easy one.
            min_blur=0.0,
            brightness=(0.0, 255.0),
            max_saturated=1.0,
            max_overlap=1.0,
            min_visible=0.0,
            max_per_identity=None,
            near_duplicates="keep",
            workers=0,
            licence="see the licences of the collections",
            consent="public research collections and synthetic faces",
        )
    )


def copy(item: Item, target: Path) -> None:
    """Write a file of the study: as it is, or a face cut out of its mosaic without loss."""
    if target.exists():
        return
    with replacing(target) as temporary:
        if item.box is None:
            temporary.write_bytes(item.path.read_bytes())
            return
        from PIL import Image

        with Image.open(item.path) as mosaic:
            mosaic.crop(item.box).save(temporary, format="PNG")
