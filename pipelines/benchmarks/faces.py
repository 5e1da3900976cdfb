"""Faces per second and core: decode, detect, crop, parse, measure and code a photograph."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import UInt8

from ...core.errors import UsageError
from ...datasets.readers.photo import read_photo
from ...domains.curation.phash import perceptual_hash
from ...domains.faces.crop import CropConfig, crop_transform, cut_crop, to_crop
from ...domains.faces.detections import make_detector
from ...domains.faces.parsing import draw_regions
from ...domains.faces.prepare import recode
from ...domains.faces.quality import blur, exposure, pose
from ..progress import say
from .config import BenchmarkConfig
from .table import Cell, Table
from .turns import take_turns

REPEATS = 8  # of a stage in a turn, so that a turn is long enough to be timed
MIN_FACE = 40
QUALITY = 90


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Time every stage of curation on one photograph with one face.

    Raises:
        UsageError: without the weights of the detector.
    """
    del device
    say(f"faces: stages in turns for {config.seconds:.0f} s")
    photo, crop = portrait(), CropConfig()
    detector = make_detector("mtcnn", MIN_FACE, 1024, crop.margin)
    found = detector(photo, "")
    if len(found) != 1:
        reason = f"finds {len(found)} faces in the portrait of scikit-image"
        raise UsageError("detector", reason, "install scikit-image and mimkit[faces] again")
    face = found[0]
    transform = crop_transform(face, crop, *photo.shape[:2])
    pixels, valid = cut_crop(photo, transform, crop)
    points = to_crop(face.array(), transform)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def quality() -> None:
        blur(pixels)
        exposure(pixels, valid)
        pose(face)
        perceptual_hash(planes, valid)

    with TemporaryDirectory() as folder:
        path = Path(folder) / "portrait.jpg"
        path.write_bytes(coded(photo))
        stages: dict[str, Callable[[], object]] = {
            "decode": lambda: read_photo(path),
            "detect": lambda: detector(photo, ""),
            "crop": lambda: cut_crop(photo, transform, crop),
            "parse (drawn regions)": lambda: draw_regions(points, crop.size),
            "quality and hash": quality,
            f"code as jpeg:{QUALITY}": lambda: recode(pixels, QUALITY),
        }
        sides = {name: repeated(stage) for name, stage in stages.items()}
        turns = take_turns(sides, config.seconds, torch.device("cpu"), "faces")
    seconds = {name: turns.cpu(name) / REPEATS for name in stages}
    seconds["all"] = sum(seconds.values())

    def row(name: str) -> dict[str, Cell]:
        return {
            "stage": name,
            "milliseconds of a core": 1000 * seconds[name],
            "faces per second and core": 1 / seconds[name],
        }

    return Table(
        "Faces: stages of curation",
        tuple(row(name) for name in seconds),
        notes=(
            f"A portrait of {photo.shape[1]} x {photo.shape[0]} pixels with one face, crops of "
            f"{crop.size} pixels; faces are looked for from {MIN_FACE} pixels on. Processor "
            f"time, median of {turns.num_turns} turns of {REPEATS}.",
        ),
    )


def repeated(stage: Callable[[], object]) -> Callable[[], object]:
    """Return a function that does the work of a stage several times."""

    def work() -> None:
        for _ in range(REPEATS):
            stage()

    return work


def portrait() -> UInt8[np.ndarray, "h w 3"]:
    """Return the photograph of a face that comes with scikit-image (public domain)."""
    from skimage.data import astronaut

    return np.ascontiguousarray(astronaut())


def coded(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Return a photograph as JPEG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
