"""Facial regions as data: what the classes of a parsing map are, and what is hidden as a whole."""

from __future__ import annotations

from .region_maps import Region, RegionSet

CLASSES = (
    "background",
    "skin",
    "right_brow",
    "left_brow",
    "right_eye",
    "left_eye",
    "nose",
    "upper_lip",
    "inner_mouth",
    "lower_lip",
    "hair",
)
"""Names of the ids in `Batch.regions` of faces: class k of LaPa's parsing maps is `CLASSES[k]`
(Liu et al., AAAI 2020; fsfm.md, step 1). Right and left are those of the person."""


def _classes(*names: str) -> tuple[int, ...]:
    return tuple(CLASSES.index(name) for name in names)


FACE = RegionSet(
    len(CLASSES),
    (
        Region("eyebrows", _classes("right_brow", "left_brow")),
        Region("eyes", _classes("right_eye", "left_eye")),
        Region("nose", _classes("nose")),
        Region("mouth", _classes("upper_lip", "inner_mouth", "lower_lip")),
        # Where the face ends: patches that hold skin and something beside the face.
        Region("boundary", _classes("skin"), beside=_classes("hair", "background")),
        Region("hair", _classes("hair")),
        Region("skin", _classes("skin")),
        Region("background", _classes("background")),
    ),
    num_drawn=6,
    foreground=tuple(range(2, len(CLASSES))),
)
"""The regions of FSFM in the order in which patches are claimed (fsfm.md, steps 2 to 4): one of
the first six is hidden as a whole; skin and background never are."""
