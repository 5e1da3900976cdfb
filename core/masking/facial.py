"""Facial regions as data: what the classes of a parsing map are, and which of them are hidden."""

from __future__ import annotations

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
