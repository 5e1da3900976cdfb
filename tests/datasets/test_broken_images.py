"""Image files that are broken, foreign or dangerous: each is refused in one sentence."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rasterio
from image_files import CRS, noise, write

from mimkit.datasets.errors import DataError
from mimkit.datasets.readers.raster import open_scene


def cut(name: str, share: float, **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write(folder / name, noise(3, 64, 64, dtype="uint8"), **options)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        return path

    return make


def content(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    return make


def complex_numbers(folder: Path) -> Path:
    return write(folder / "radar.tif", noise(1, 4, 4).astype("complex64"))


def other_format(folder: Path) -> Path:
    return write(folder / "a.bmp", noise(1, 4, 4, dtype="uint8"), driver="BMP", crs=None)


def bomb(folder: Path) -> Path:
    path = folder / "bomb.png"

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b""))
    return path


def one_block(folder: Path) -> Path:
    side = 33_280
    block: dict[str, Any] = {"tiled": True, "blockxsize": side, "blockysize": side}
    size = {"height": side, "width": side, "count": 1}
    path = folder / "block.tif"
    with rasterio.open(
        path, "w", driver="GTiff", crs=CRS, dtype="uint8", sparse_ok=True, **size, **block
    ):
        pass
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (cut("a.tif", 0.5), "cannot be read to its end"),
        (cut("a.tif", 0.9, compress="deflate"), "cannot be (opened|read)"),
        (cut("a.tif", 0.9, tiled=True, blockxsize=16, blockysize=16), "cannot be (opened|read)"),
        (cut("a.jpg", 0.5, driver="JPEG", crs=None), "cannot be read to its end"),
        (cut("a.png", 0.5, driver="PNG", crs=None), "cut off"),
        (content("empty.tif", b""), "is empty"),
        (content("text.tif", b"this is no image\n"), "cannot be opened as an image"),
        (content("text.png", b"this is no image\n"), "is no PNG image"),
        (content("head.tif", b"II*\x00\x08\x00\x00\x00"), "cannot be opened as an image"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: folder / "missing.tif", "does not exist"),
        (complex_numbers, "holds complex64 numbers"),
        (other_format, "is of the kind BMP"),
        (bomb, "claims 60000 x 60000 pixels in one piece"),
        (one_block, "stored in blocks of 1.0 GiB"),
    ],
)
def test_broken_files_say_what_is_wrong_and_what_to_do(
    tmp_path: Path, make: Callable[[Path], Path], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path)
    with pytest.raises(DataError, match=message) as caught, open_scene(path) as scene:
        scene.read(0, 0, scene.geometry.height, scene.geometry.width)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.remedy
    assert capfd.readouterr().err == ""


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png", noise(1, 4, 4, dtype="uint8"), driver="PNG", crs=None)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # rights do not stop every user that tests run as
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\); check its rights"):
        open_scene(path)


def test_a_virtual_file_that_calls_itself_tif_is_not_followed(tmp_path: Path) -> None:
    target = write(tmp_path / "a.tif", noise(1, 4, 4))
    source = f"<SimpleSource><SourceFilename>{target}</SourceFilename></SimpleSource>"
    band = f'<VRTRasterBand dataType="UInt16" band="1">{source}</VRTRasterBand>'
    text = f'<VRTDataset rasterXSize="4" rasterYSize="4">{band}</VRTDataset>'
    (tmp_path / "b.tif").write_text(text)
    with pytest.raises(DataError, match="is of the kind VRT"):
        open_scene(tmp_path / "b.tif")
