"""Drawn faces: photographs, videos, detections and maps for tests of the face domain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

EYES, NOSE, MOUTH = ((0.36, 0.42), (0.64, 0.42)), (0.5, 0.58), ((0.4, 0.72), (0.6, 0.72))
"""Centres of the features as shares of the face's box; left and right are those of the picture."""


def face_points(box: tuple[float, float, float, float]) -> np.ndarray:
    """Return the five points (eyes, nose, corners of the mouth) of a drawn face in pixels."""
    left, top, right, bottom = box
    shares = np.array([*EYES, NOSE, *MOUTH])
    return shares * [right - left, bottom - top] + [left, top]


def draw_face(
    size: tuple[int, int] = (160, 128),
    box: tuple[float, float, float, float] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return an (h, w, 3) uint8 picture of one person, whose looks the seed decides.

    Args:
        size: width and height.
        box: of the face; the middle when not given.
        seed: person.
    """
    random = np.random.default_rng(seed)
    width, height = size
    box = box or face_box(size)
    skin = tuple(int(v) for v in random.integers([150, 100, 80], [230, 190, 160]))
    hair = tuple(int(v) for v in random.integers(20, 110, 3))
    ground = random.integers(60, 200, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    image = Image.fromarray(ground).resize(size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = box
    w, h = right - left, bottom - top
    draw.ellipse((left - 0.1 * w, top - 0.15 * h, right + 0.1 * w, bottom), fill=hair)
    draw.ellipse((left, top + 0.08 * h, right, bottom + 0.02 * h), fill=skin)
    points = face_points(box)
    for x, y in points[:2]:
        draw.rectangle((x - 0.1 * w, y - 0.11 * h, x + 0.1 * w, y - 0.08 * h), fill=hair)
        draw.ellipse((x - 0.08 * w, y - 0.04 * h, x + 0.08 * w, y + 0.04 * h), fill="white")
        draw.ellipse((x - 0.03 * w, y - 0.03 * h, x + 0.03 * w, y + 0.03 * h), fill="black")
    x, y = points[2]
    draw.polygon([(x, y - 0.16 * h), (x - 0.07 * w, y), (x + 0.07 * w, y)], fill=(120, 70, 60))
    (x0, y0), (x1, _) = points[3:]
    draw.ellipse((x0, y0 - 0.04 * h, x1, y0 + 0.04 * h), fill=(160, 40, 50))
    noise = random.normal(0, 6, (height, width, 3))
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)


def face_box(size: tuple[int, int] = (160, 128)) -> tuple[float, float, float, float]:
    """Return where `draw_face` puts the face: left, top, right, bottom."""
    width, height = size
    return width / 2 - 0.3 * height, 0.18 * height, width / 2 + 0.3 * height, 0.88 * height


def write_faces(folder: Path, people: int = 6, each: int = 2, suffix: str = ".png") -> list[Path]:
    """Write photographs of several people, a folder each; those of a person differ a little."""
    paths = []
    for person in range(people):
        for number in range(each):
            path = folder / f"p{person}" / f"{number}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = draw_face(seed=person).astype(np.int16) + 9 * number
            # Another half is another look, so that no two pictures are near-duplicates.
            pixels[:, 64 * (number % 2) : 64 * (number % 2) + 30] //= 2
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
            paths.append(path)
    return paths


def write_boxes(path: Path, files: Sequence[str], size: tuple[int, int] = (160, 128)) -> Path:
    """Write a table of detections, one drawn face a file, with five points."""
    left, top, right, bottom = face_box(size)
    names = [f"{point}_{axis}" for point in POINTS for axis in "xy"]
    lines = [",".join(["file", "x", "y", "w", "h", "score", *names])]
    numbers = [left, top, right - left, bottom - top, 0.99]
    numbers += face_points(face_box(size)).ravel().tolist()
    lines += [",".join([name, *(f"{value:.2f}" for value in numbers)]) for name in files]
    path.write_text("\n".join(lines) + "\n")
    return path


POINTS = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")
"""Names of the five points in tables of detections; right and left are those of the person."""


def write_video(path: Path, frames: Sequence[np.ndarray], rate: int = 10) -> Path:
    """Write pictures as a video without loss of the count of frames."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path
