"""The normaliser of faces: the one of all pictures, and how its faces were cropped and coded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from ...core.config_tree import from_plain
from ..imaging.normalise import Normaliser
from .crop import CropConfig

Colour = Literal["rgb", "grey"]
"""Colour as it was, or grey values in all three channels."""

Statistics = Literal["store", "imagenet"]
"""Mean and deviation of the store's own training faces, or those of ImageNet."""

BANDS = ("red", "green", "blue")
SENSOR, UNITS = "face", "intensity"
SCALE = 1 / 255

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class FaceNormaliser(Normaliser):
    """Standardises faces; says how they were prepared, so that others can be refused.

    Attributes:
        crop: transform from a picture to a face; None where it is not known.
        colour: of all faces.
        equalised: coding that all faces went through, such as "jpeg:90"; None without.
    """

    crop: CropConfig | None = None
    colour: Colour = "rgb"
    equalised: str | None = None

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> FaceNormaliser:
        """Read what `to_dict` returned.

        Raises:
            UsageError: naming an entry that is missing, unknown or of the wrong kind.
        """
        return from_plain(FaceNormaliser, stored, "normaliser")


def fit_faces(base: Normaliser, facts: Mapping[str, Any]) -> FaceNormaliser:
    """Make the normaliser of a store of faces.

    Args:
        base: with the statistics of its training faces.
        facts: of the store: crop, colour, equalised, statistics.
    """
    known = {field.name: getattr(base, field.name) for field in fields(Normaliser)}
    # Eight bits have natural ends, and clipping a few burnt pixels would only lose them.
    known |= {"low": (0.0,) * len(base.bands), "high": (1.0,) * len(base.bands)}
    if facts.get("statistics") == "imagenet":
        known |= {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return FaceNormaliser(
        **known,
        crop=crop_of(facts),
        colour=facts.get("colour", "rgb"),
        equalised=facts.get("equalised"),
    )


def published_faces(mean: Sequence[float], std: Sequence[float]) -> FaceNormaliser:
    """Return the normaliser of published weights, whose crop no file states.

    Args:
        mean: of red, green and blue from 0 to 1.
        std: of each, likewise.

    Raises:
        UsageError: for a deviation that is not positive.
    """
    return FaceNormaliser(
        domain="faces",
        sensor=SENSOR,
        bands=BANDS,
        scale=(SCALE,) * len(BANDS),
        offset=(0.0,) * len(BANDS),
        units=UNITS,
        mean=tuple(mean),
        std=tuple(std),
        low=(0.0,) * len(BANDS),
        high=(1.0,) * len(BANDS),
    )


def crop_of(facts: Mapping[str, Any]) -> CropConfig | None:
    """Return the crop that a store's facts state, None where they state none.

    Raises:
        UsageError: when what they state is no crop.
    """
    stated = facts.get("crop")
    return None if stated is None else from_plain(CropConfig, stated, "crop")
