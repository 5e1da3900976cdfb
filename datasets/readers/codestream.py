"""The size that a compressed picture states inside, read before a decoder allocates for it."""

from __future__ import annotations

_J2K_START = b"\xff\x4f\xff\x51"
_JPEG_START = b"\xff\xd8"
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # huffman tables, reserved, arithmetic coding: no frame headers
_JPEG_LS_FRAME = 0xF7


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) of a JPEG, JPEG-LS or JPEG 2000 picture, None for anything else.

    JPEG 2000 in its file format (JP2 boxes) is searched for the codestream within.
    """
    start = data.find(_J2K_START, 0, 4096)
    if start >= 0 and len(data) >= start + 24:
        return _grid_size(data[start + 8 : start + 24])
    if data.startswith(_JPEG_START):
        return _jpeg_size(data)
    return None


def _grid_size(words: bytes) -> tuple[int, int]:
    """Return the size from SIZ (ISO/IEC 15444-1, A.5.1): extent of the grid less its offset."""
    right, bottom, left, top = (int.from_bytes(words[i : i + 4], "big") for i in (0, 4, 8, 12))
    return bottom - top, right - left


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return the size from the frame header (ISO/IEC 10918-1, B.2.2), walking over segments."""
    place = 2
    while place + 9 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        is_frame = 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME
        if is_frame or marker == _JPEG_LS_FRAME:
            rows = int.from_bytes(data[place + 5 : place + 7], "big")
            return rows, int.from_bytes(data[place + 7 : place + 9], "big")
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
