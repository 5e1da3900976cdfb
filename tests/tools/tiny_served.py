"""What a served model of faces says of its crops, for tests."""

from __future__ import annotations

from typing import Any

from mimkit.domains.faces.crop import CropConfig

CROP = CropConfig(size=48)
NORMALISER: dict[str, Any] = {
    "domain": "faces",
    "sensor": "face",
    "bands": ["red", "green", "blue"],
    "units": "intensity",
    **{
        name: [value] * 3
        for name, value in (
            ("scale", 1 / 255),
            ("offset", 0.0),
            ("mean", 0.5),
            ("std", 0.25),
            ("low", 0.0),
            ("high", 1.0),
        )
    },
    "nodata": None,
    "crop": CROP.to_dict(),
    "colour": "rgb",
    "equalised": "jpeg:90",
}
