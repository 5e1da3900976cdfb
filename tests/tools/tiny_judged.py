"""Tiny stores of pictures that stand for faces, with people, videos and fakes, and a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mimkit.core.masking.facial import CLASSES
from mimkit.datasets.files import write_json
from mimkit.datasets.manifest import KEPT, ManifestRow, write_manifest
from mimkit.datasets.samples import Sample
from mimkit.datasets.store import StoreMeta, StoreWriter
from mimkit.domains.domain import get_domain
from mimkit.domains.faces.crop import CropConfig
from mimkit.domains.faces.detect import TYPICAL
from mimkit.domains.faces.parsing import draw_regions

SIZE = 32
META = StoreMeta(
    domain="faces",
    sensor="face",
    bands=("red", "green", "blue"),
    size=(SIZE, SIZE),
    dtype="uint8",
    scale=(1 / 255,) * 3,
    offset=(0.0,) * 3,
    units="intensity",
    num_samples=1,
    shard=8,
    regions=CLASSES,
    facts={"crop": CropConfig(size=SIZE).to_dict(), "colour": "rgb", "equalised": None},
)


def picture(who: int, label: str, seed: int) -> np.ndarray:
    """Return a (3, h, w) picture: the person is its colour, a fake has a chessboard in it."""
    rng = np.random.default_rng([who, seed])
    colour = np.random.default_rng(who).uniform(60, 190, (3, 1, 1))
    image = colour + rng.normal(0, 8, (3, SIZE, SIZE))
    if label in ("fake", "spoof"):
        y, x = np.mgrid[:SIZE, :SIZE]
        image = image + 22 * ((x // 2 + y // 2) % 2)
    return image.clip(0, 255).astype(np.uint8)


def write_faces(
    folder: Path,
    collection: str,
    *,
    people: int = 12,
    frames: int = 2,
    labels: tuple[str, str] = ("real", "fake"),
    methods: tuple[str, ...] = ("gan",),
    still: bool = False,
    first: int = 0,
    margin: float = 1.3,
) -> Path:
    """Write a store: of every person a genuine video and a fake of every method.

    Half of the people are for training, a quarter each for validation and test.

    Args:
        folder: of the store.
        collection: its name.
        people: people.
        frames: frames of a video.
        labels: of genuine and other faces.
        methods: of the fakes.
        still: write images of people without videos.
        first: number of the first person.
        margin: of the crop that the store states.
    """
    rows, samples = [], []
    for who in range(first, first + people):
        split = ("train", "train", "val", "test")[who % 4]
        for label, method in ((labels[0], ""), *((labels[1], m) for m in methods)):
            for frame in range(frames):
                name = f"{collection}-{who}-{method or label}"
                facts = {"identity": f"p{who}", "gender": "f" if who // 4 % 2 else "m"}
                facts |= {} if still else {"video": name}
                facts |= {"method": method} if method else {}
                samples.append(picture(who, label, len(samples)))
                rows.append(
                    ManifestRow(
                        id=f"{name}-{frame}",
                        uri=f"{name}.mp4#{frame}",
                        status=KEPT,
                        source=collection,
                        split=split,
                        group=f"p{who}",
                        label=label,
                        store_group="faces",
                        row=len(rows),
                        sha=f"{len(rows):064x}{collection}",
                        facts=facts,
                    )
                )
    return write_store(folder, rows, samples, margin)


def write_store(
    folder: Path, rows: list[ManifestRow], samples: list[np.ndarray], margin: float
) -> Path:
    """Write pictures, their normaliser and their manifest."""
    regions = draw_regions(SIZE * np.array(TYPICAL), SIZE)
    facts = META.facts | {"crop": CropConfig(size=SIZE, margin=margin).to_dict()}
    meta = replace(META, num_samples=len(rows), facts=facts)
    writer = StoreWriter(folder / "faces", meta)
    for shard in writer.missing():
        pixels = (samples[row] for row in writer.shard_rows(shard))
        writer.write_shard(shard, (Sample(image, regions=regions) for image in pixels))
    store = writer.finalise()
    read = store.read(np.arange(len(rows)))
    normaliser = get_domain(meta.domain).fit(meta, [(read.pixels, read.valid)])
    write_json(folder / "faces" / "normaliser.json", normaliser.to_dict())
    write_manifest(folder / "manifest.parquet", rows)
    return folder
