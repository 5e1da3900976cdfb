"""Stage `slice`: cut scenes into tiles, measure them, and reject those that are not worth it.

Pixels are not kept: a row says where its tile is, and packing reads it again. That costs a second
decoding and saves a second copy of the archive on disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ....core.errors import UsageError
from ....datasets.errors import DataError
from ....datasets.manifest import KEPT, ManifestRow
from ...curation.phash import perceptual_hash
from ...curation.records import UNREADABLE, StageResult
from ..quality import Quality, measure
from ..sensors import Sensor
from .labels import LabelPlan, SceneLabels
from .records import SceneFacts
from .tiles import CutTile, open_ref, read_tiles, scene_uri, tile_id, tile_starts

VERSION = 1
_UNIT_VALUES = 64 << 20  # pixel values of a unit of work, some seconds
_UNIT_SCENES = 256


@dataclass(frozen=True, kw_only=True)
class SliceParams:
    """How scenes are cut and which tiles are kept.

    Attributes:
        size: pixels a side.
        stride: pixels from tile to tile.
        min_valid: least share of pixels with data.
        max_cloud: largest share of pixels that look like cloud; 1 keeps all.
        min_contrast: least standard deviation divided by mean.
        main: positions of the bands in the sensor's own units, which the numbers are taken from;
            a mean of reflectance and temperature would mean nothing.
        visible: positions of blue, green, red among them for the cloud test, None without it.
        array_spec: JSON file that describes arrays without a sidecar.
        labels: dense labels, to count labelled pixels.
        sensor: name of the sensor.
        source: name of the collection.
        licence: of the pixels.
    """

    size: int
    stride: int
    min_valid: float
    max_cloud: float
    min_contrast: float
    main: tuple[int, ...]
    visible: tuple[int, int, int] | None
    array_spec: str | None
    labels: LabelPlan | None
    sensor: str
    source: str | None
    licence: str | None


@dataclass(frozen=True)
class Piece:
    """Some rows of tiles of one scene.

    Attributes:
        scene: which scene.
        tops: where the rows of tiles begin.
    """

    scene: SceneFacts
    tops: tuple[int, ...]


@dataclass(frozen=True)
class SliceUnit:
    """A shard of work: pieces of one or many scenes."""

    pieces: tuple[Piece, ...] = field(default=())


def main_bands(sensor: Sensor, bands: Sequence[str]) -> tuple[int, ...]:
    """Return the positions of the bands in the sensor's own units, of all where there is none."""
    chosen = sensor.select(bands)
    main = tuple(i for i, band in enumerate(chosen) if band.units in (None, sensor.units))
    return main or tuple(range(len(chosen)))


def visible_bands(
    sensor: Sensor, bands: Sequence[str], max_cloud: float
) -> tuple[int, int, int] | None:
    """Return the positions of blue, green and red among the main bands for the cloud test.

    Raises:
        UsageError: when clouds are to be rejected and the sensor does not allow the test.
    """
    chosen = sensor.select(bands)
    common = [chosen[i].common for i in main_bands(sensor, bands)]
    if sensor.units == "reflectance" and {"blue", "green", "red"} <= set(common):
        return common.index("blue"), common.index("green"), common.index("red")
    if max_cloud < 1 and bands:
        reason = f"is {max_cloud}, but {sensor.name} has no blue, green and red reflectance"
        raise UsageError("max_cloud", reason, "leave it at 1")
    return None


def plan_units(scenes: Sequence[SceneFacts], params: SliceParams) -> list[SliceUnit]:
    """Cut the work into units of similar size: many small scenes, or part of a large one.

    The units depend on nothing but the scenes and parameters, never on the number of workers.
    """
    units: list[SliceUnit] = []
    pieces: list[Piece] = []
    size = 0
    for piece, cost in _pieces(scenes, params):
        if pieces and (size + cost > _UNIT_VALUES or len(pieces) >= _UNIT_SCENES):
            units.append(SliceUnit(tuple(pieces)))
            pieces, size = [], 0
        pieces.append(piece)
        size += cost
    return [*units, SliceUnit(tuple(pieces))] if pieces else units


def _pieces(scenes: Sequence[SceneFacts], params: SliceParams) -> Iterator[tuple[Piece, int]]:
    for scene in scenes:
        cost = len(scene.bands) * params.size * max(scene.width, params.size)
        tops = tile_starts(scene.height, params.size, params.stride)
        step = max(1, _UNIT_VALUES // cost)
        for start in range(0, len(tops), step):
            part = tuple(tops[start : start + step])
            yield Piece(scene, part), cost * len(part)


def slice_unit(unit: SliceUnit, params: SliceParams) -> StageResult:
    """Cut the pieces of a unit.

    Returns:
        Rows of tiles; a piece that cannot be read gives one row of its scene with the status
        "unreadable" instead.
    """
    rows: list[ManifestRow] = []
    for piece in unit.pieces:
        try:
            rows.extend(slice_piece(piece, params))
        except DataError as error:
            rows.append(_unreadable(piece.scene, error, params))
    return StageResult(tuple(rows), counters=dict(Counter(row.status for row in rows)))


def slice_piece(piece: Piece, params: SliceParams) -> list[ManifestRow]:
    """Return the rows of the tiles of a piece.

    Raises:
        DataError: when its pixels or labels cannot be read.
    """
    scene = piece.scene
    uri = scene_uri(scene.ref)
    lefts = tile_starts(scene.width, params.size, params.stride)
    starts = [(top, left) for top in piece.tops for left in lefts]
    labels = params.labels and SceneLabels(params.labels, uri, scene.geometry)
    with open_ref(scene.ref, params.array_spec) as source:
        return [
            _row(tile, scene, labels, params)
            for tile in read_tiles(source, scene, starts, params.size)
        ]


def _row(
    tile: CutTile, scene: SceneFacts, labels: SceneLabels | None, params: SliceParams
) -> ManifestRow:
    main = list(params.main)
    pixels = tile.pixels[main]
    quality = measure(
        pixels,
        tile.valid,
        scale=np.array(scene.scale)[main],
        offset=np.array(scene.offset)[main],
        visible=params.visible,
    )
    status, reason = judge(quality, params)
    row = ManifestRow(
        id=tile_id(scene.ref, tile.top, tile.left),
        uri=scene_uri(scene.ref),
        status=status,
        reason=reason,
        stage="slice",
        source=params.source,
        licence=params.licence,
        sensor=params.sensor,
        acquired=scene.acquired,
        group=scene.ref.id,
        top=tile.top,
        left=tile.left,
        **vars(quality),
    )
    row = _placed(row, scene, params.size)
    if status != KEPT:
        return row
    hashed = perceptual_hash(pixels, tile.valid)
    labelled = labels and labels.share(tile.top, tile.left, params.size, params.size)
    return replace(
        row,
        sha=tile.checksum(),
        phash=None if hashed is None else f"{hashed:016x}",
        labelled=labelled,
    )


def _placed(row: ManifestRow, scene: SceneFacts, size: int) -> ManifestRow:
    """Add where the tile lies."""
    window = scene.geometry.window(row.top or 0, row.left or 0, size, size)
    lon, lat = window.center_lonlat() or (None, None)
    return replace(
        row,
        crs=window.crs,
        transform=window.transform if window.crs is not None else None,
        height=size,
        width=size,
        lon=lon,
        lat=lat,
        gsd=window.gsd(),
    )


def judge(quality: Quality, params: SliceParams) -> tuple[str, str | None]:
    """Return status and reason of a tile with these quality numbers."""
    if quality.valid < max(params.min_valid, 1e-9):
        return "low_valid", f"{quality.valid:.1%} of the pixels have data"
    if quality.cloud is not None and quality.cloud > params.max_cloud:
        return "cloudy", f"{quality.cloud:.1%} of the pixels look like cloud"
    if quality.contrast < params.min_contrast:
        return "low_contrast", f"contrast {quality.contrast:.2g} below {params.min_contrast:g}"
    return KEPT, None


def _unreadable(scene: SceneFacts, error: DataError, params: SliceParams) -> ManifestRow:
    return ManifestRow(
        id=scene.ref.id,
        uri=scene_uri(scene.ref),
        status=UNREADABLE,
        reason=str(error),
        stage="slice",
        source=params.source,
        licence=params.licence,
        sensor=params.sensor,
    )


def merge(results: Sequence[StageResult]) -> list[ManifestRow]:
    """Join the rows of all units; a scene with an unreadable part is one rejected row.

    Half a scene is not kept because nobody knows what else is wrong with the file.
    """
    rows = [row for result in results for row in result.rows]
    broken = {row.id: row for row in reversed(rows) if row.status == UNREADABLE}
    return [*broken.values(), *(r for r in rows if r.id not in broken and r.group not in broken)]
