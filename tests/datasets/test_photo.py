"""Photographs and videos: what becomes of bits, colours and orientation, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_faces import draw_face, write_video

from mimkit.datasets.errors import DataError
from mimkit.datasets.readers.photo import count_frames, read_photo
from mimkit.datasets.readers.video import choose_frames, probe_video, read_frames

FACE = draw_face((60, 40))


def saved(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".ppm", ".tif"])
def test_lossless_formats_give_the_same_pixels(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    photo = read_photo(saved(tmp_path / f"a{suffix}", FACE, **options))
    assert np.array_equal(photo.pixels, FACE)
    assert (photo.grey, photo.quality, photo.notes) == (False, None, ())


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_quality_of_a_jpeg_is_known(tmp_path: Path, quality: int) -> None:
    photo = read_photo(saved(tmp_path / "a.jpg", FACE, quality=quality))
    assert photo.quality == pytest.approx(quality, abs=0.5)
    assert np.abs(photo.pixels.astype(int) - FACE).mean() < 20


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (3, FACE[::-1, ::-1]),
        (2, FACE[:, ::-1]),
        (4, FACE[::-1]),
        (5, FACE.transpose(1, 0, 2)),
        (6, np.rot90(FACE)),
        (7, FACE.transpose(1, 0, 2)[::-1, ::-1]),
        (8, np.rot90(FACE, -1)),
    ],
)
def test_orientation_is_applied(tmp_path: Path, orientation: int, stored: np.ndarray) -> None:
    """Tag 6 says that the camera was turned: the first row is the right side of the scene."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", np.ascontiguousarray(stored), exif=exif)
    photo = read_photo(path)
    assert np.array_equal(photo.pixels, FACE)
    assert f"orientation {orientation}" in photo.notes[0]


def test_grey_and_sixteen_bits(tmp_path: Path) -> None:
    grey = FACE[..., 0]
    photo = read_photo(saved(tmp_path / "a.pgm", grey))
    assert photo.grey
    assert np.array_equal(photo.pixels, np.repeat(grey[..., None], 3, axis=2))
    wide = read_photo(saved(tmp_path / "b.png", grey.astype(np.uint16) * 257))
    assert wide.grey
    assert wide.notes == ("16 bits scaled to 8",)
    assert np.array_equal(wide.pixels, photo.pixels)


def test_sixteen_bit_colour_keeps_its_range(tmp_path: Path) -> None:
    """Written by hand, because Pillow writes no such file."""
    rows = FACE.astype(">u2") * 257
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", FACE.shape[1], FACE.shape[0], 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert np.array_equal(read_photo(path).pixels, FACE)
    head = struct.pack(">IIBBBBB", 16_000, 11_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(parts[1:]))
    with pytest.raises(DataError, match="claims 16000 x 11000 pixels"):
        read_photo(path)


def test_transparency_lies_on_black(tmp_path: Path) -> None:
    alpha = np.full((40, 60, 1), 255, np.uint8)
    alpha[:, 30:] = 0
    photo = read_photo(saved(tmp_path / "a.png", np.concatenate([FACE, alpha], axis=2)))
    assert np.array_equal(photo.pixels[:, :30], FACE[:, :30])
    assert not photo.pixels[:, 30:].any()
    assert "transparency" in photo.notes[0]


def test_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), 60 * i, np.uint8)) for i in range(3)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert count_frames(path) == 3
    assert read_photo(path).notes[0] == "animated: frame 0 of 3"
    assert [int(read_photo(path, i).pixels[0, 0, 0]) for i in range(3)] == [0, 60, 120]
    with pytest.raises(DataError, match="no frame 3"):
        read_photo(path, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"a text that is named like a picture", "is no photograph"),
        (b"half", "cannot be read to its end"),
    ],
)
def test_broken_photographs(tmp_path: Path, content: bytes, reason: str) -> None:
    path = saved(tmp_path / "a.jpg", FACE)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    with pytest.raises(DataError, match=rf"a\.jpg: {reason}"):
        read_photo(path)
    with pytest.raises(DataError, match="no such file"):
        read_photo(tmp_path / "b.jpg")


def test_video_frames(tmp_path: Path) -> None:
    pytest.importorskip("av")
    pictures = [np.full((32, 48, 3), 20 * i, np.uint8) for i in range(12)]
    path = write_video(tmp_path / "a.mp4", pictures, rate=6)
    facts = probe_video(path)
    assert (facts.num_frames, facts.rate, facts.height, facts.width) == (12, 6.0, 32, 48)
    assert choose_frames(12, num=4) == [0, 3, 7, 11]
    assert choose_frames(3, num=9) == [0, 1, 2]
    assert choose_frames(12, seconds=0.5, rate=6.0) == [0, 3, 6, 9]
    found = dict(read_frames(path, [0, 3, 7, 11]))
    assert list(found) == [0, 3, 7, 11]
    for number, pixels in found.items():
        assert abs(float(pixels.mean()) - 20 * number) < 4
    with pytest.raises(DataError, match="ends after frame 11, before frame 40"):
        list(read_frames(path, [2, 40]))


def test_broken_videos(tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = write_video(tmp_path / "a.mp4", [FACE] * 8)
    whole = path.read_bytes()
    for content, reason in [
        (b"", r"is empty \(0 bytes\)"),
        (whole[: len(whole) // 2], "is no video that can be decoded"),
        (b"no video at all " * 50, "is no video that can be decoded"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"a\.mp4: {reason}"):
            probe_video(path)
    damaged = bytearray(whole)
    start = whole.index(b"mdat") + 200
    damaged[start : start + 3000] = bytes(3000)
    path.write_bytes(damaged)
    with pytest.raises(DataError):
        list(read_frames(path, [0, 7]))
