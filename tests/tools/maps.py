"""What makes a file a cloud-optimised GeoTIFF, checked without the library that wrote it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import rasterio

_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_OFFSETS, _WIDTH = 324, 256  # TileOffsets, ImageWidth


def directories(path: Path) -> list[tuple[int, dict[int, tuple[int, ...]]]]:
    """Return position and integer tags of every image in a little-endian TIFF."""
    content = path.read_bytes()
    assert content[:2] == b"II"
    big = content[2] == 43
    head, entry, count = ("<Q", 20, "<Q") if big else ("<I", 12, "<H")
    word = struct.calcsize(head)
    (place,) = struct.unpack_from(head, content, 8 if big else 4)
    found = []
    while place:
        (number,) = struct.unpack_from(count, content, place)
        start, tags = place + struct.calcsize(count), {}
        for at in range(start, start + number * entry, entry):
            tag, kind = struct.unpack_from("<HH", content, at)
            (length,) = struct.unpack_from(head, content, at + 4)
            if kind in _TYPES:
                layout = f"<{length}{_TYPES[kind]}"
                value = at + 4 + word
                if struct.calcsize(layout) > word:
                    (value,) = struct.unpack_from(head, content, value)
                tags[tag] = struct.unpack_from(layout, content, value)
        found.append((place, tags))
        (place,) = struct.unpack_from(head, content, start + number * entry)
    return found


def check_cloud_optimised(path: Path) -> None:
    """Assert that a reader finds all directories first and coarse overviews before pixels."""
    with rasterio.open(path) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.profile["tiled"]
        assert dataset.compression is not None
        block = dataset.block_shapes[0][0]
        num_overviews = len(dataset.overviews(1))
        if max(dataset.shape) > block:
            assert num_overviews > 0
    images = directories(path)
    assert len(images) == 1 + num_overviews
    places = [place for place, _ in images]
    assert places == sorted(places)
    widths = [tags[_WIDTH][0] for _, tags in images]
    assert widths == sorted(widths, reverse=True)
    pixels = [np.array(tags[_OFFSETS]) for _, tags in images]
    firsts = [int(offsets[offsets > 0].min()) for offsets in pixels if offsets.any()]
    assert firsts == sorted(firsts, reverse=True), "pixels of the coarsest overview come first"
    assert min(firsts) > max(places), "no pixel lies before the directories"
