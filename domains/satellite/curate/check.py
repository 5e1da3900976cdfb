"""Stage `check`: open every scene and make sure that it is what it is taken for.

A scene that fails becomes one manifest row with the reason; the run goes on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from ....core.config_tree import from_plain, to_plain
from ....core.errors import UsageError
from ....datasets.errors import DataError
from ....datasets.manifest import ManifestRow
from ....datasets.readers.scene import Scene, Tile
from ...curation.records import UNREADABLE, StageResult
from ..sensors import (
    Sensor,
    check_values,
    find_bands,
    guess_sensor,
    load_sensor,
    sensor_names,
    unnamed,
)
from .records import SceneFacts, SceneRef
from .tiles import open_ref, scene_uri, with_data

VERSION = 1
_UNIT_SCENES = 128
_BLOCK = 512  # pixels a side of what is looked at
_NUM_LOOKED_AT = 4096  # pixels that tell whether the scale can be right
_NUM_GUESSES = 50  # scenes that are asked for their sensor


@dataclass(frozen=True, kw_only=True)
class CheckParams:
    """What scenes must be.

    Attributes:
        sensor: name of the sensor, with its variant.
        bands: bands that every scene must have; None decides by what most scenes have.
        nodata: stored number that means "no data"; None takes the file's or the sensor's.
        require_crs: reject scenes without a coordinate system.
        array_spec: JSON file that describes arrays without a sidecar.
        source: name of the collection.
        licence: of the pixels.
    """

    sensor: str
    bands: tuple[str, ...] | None
    nodata: float | None
    require_crs: bool
    array_spec: str | None
    source: str | None
    licence: str | None


@dataclass(frozen=True)
class CheckUnit:
    """A shard of work: some scenes."""

    refs: tuple[SceneRef, ...]


class SceneRejectedError(Exception):
    """A scene that is not used: status and reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason


def plan_units(refs: Sequence[SceneRef]) -> list[CheckUnit]:
    """Cut the work into units of many scenes."""
    starts = range(0, len(refs), _UNIT_SCENES)
    return [CheckUnit(tuple(refs[start : start + _UNIT_SCENES])) for start in starts]


def choose_sensor(refs: Sequence[SceneRef], array_spec: str | None) -> str:
    """Return the sensor that most of the first scenes name by their bands and file names.

    Raises:
        UsageError: when none is recognised.
    """
    votes: Counter[str] = Counter()
    for ref in refs[:_NUM_GUESSES]:
        try:
            with open_ref(ref, array_spec) as scene:
                guess = guess_sensor(scene.bands, scene.dtype, ref.paths[0])
        except DataError:
            continue
        if guess is not None:
            votes[guess.name] += 1
    if not votes:
        known = ", ".join(sensor_names(variants=True))
        reason = "the scenes do not say which sensor they are from"
        raise UsageError("sensor", reason, f"name it with --sensor: {known}, or a YAML file")
    return min(votes, key=lambda name: (-votes[name], name))


def check_unit(unit: CheckUnit, params: CheckParams) -> StageResult:
    """Check the scenes of a unit.

    Returns:
        A row for every rejected scene; the facts of all others as plain data.
    """
    sensor = load_sensor(params.sensor)
    rows, facts = [], []
    for ref in unit.refs:
        try:
            facts.append(to_plain(check_scene(ref, sensor, params)))
        except SceneRejectedError as problem:
            rows.append(scene_row(ref, problem.status, problem.reason, params))
        except (DataError, UsageError) as error:
            rows.append(scene_row(ref, UNREADABLE, str(error), params))
    return StageResult(tuple(rows), facts, {"scenes": len(unit.refs)})


def scene_row(ref: SceneRef, status: str, reason: str, params: CheckParams) -> ManifestRow:
    """Return the row of a scene that was rejected as a whole."""
    return ManifestRow(
        id=ref.id,
        uri=scene_uri(ref),
        status=status,
        reason=reason,
        stage="check",
        source=params.source,
        licence=params.licence,
        sensor=params.sensor,
    )


def check_scene(ref: SceneRef, sensor: Sensor, params: CheckParams) -> SceneFacts:
    """Return the facts of a scene that can be used.

    Raises:
        SceneRejectedError: when it cannot.
        DataError: when it cannot be read.
        UsageError: when two of its bands are the same.
    """
    with open_ref(ref, params.array_spec) as scene:
        bands, names = _bands(scene, sensor, params)
        if scene.dtype not in sensor.dtypes:
            wanted = " or ".join(sensor.dtypes)
            raise SceneRejectedError(
                "wrong_dtype", f"{scene.dtype} instead of {wanted} of {sensor.name}"
            )
        if params.require_crs and scene.geometry.crs is None:
            raise SceneRejectedError(
                "missing_crs", "has no coordinate system, which --require-crs asks for"
            )
        chosen = sensor.select(bands)
        geometry = scene.geometry
        facts = SceneFacts(
            ref=ref,
            bands=bands,
            names=names,
            dtype=scene.dtype,
            crs=geometry.crs,
            transform=geometry.transform,
            height=geometry.height,
            width=geometry.width,
            scale=tuple(band.scale for band in chosen),
            offset=tuple(band.offset for band in chosen),
            nodata=_nodata(scene, sensor, params),
            acquired=date_in(ref.paths[0]),
        )
        _check_scale(scene, facts, sensor)
        _check_pixels(scene, facts, sensor)
        return facts


def _bands(
    scene: Scene, sensor: Sensor, params: CheckParams
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the sensor's bands that a scene has and what it calls them."""
    wanted = params.bands or sensor.band_names
    have = ", ".join(scene.bands)
    if unnamed(scene.bands):
        if len(scene.bands) != len(wanted):
            reason = f"names none of its {len(scene.bands)} bands, and {len(wanted)} are wanted"
            raise SceneRejectedError("missing_bands", f"{reason}; list them with --bands")
        return wanted, scene.bands
    found = find_bands(sensor, scene.bands)
    missing = [name for name in wanted if name not in found]
    if (params.bands and missing) or len(missing) == len(wanted):
        reason = f"lacks {', '.join(missing)} of {sensor.name}; its bands are {have}"
        raise SceneRejectedError("missing_bands", reason)
    bands = tuple(name for name in wanted if name in found)
    return bands, tuple(found[name] for name in bands)


def date_in(path: str) -> str | None:
    """Return the date (ISO 8601) that a file or folder name holds: 2017-09-18, 20170918, 1988227.

    The last one, year and day of the year, counts only in names of Landsat products.
    """
    for part in reversed(Path(path).parts):
        landsat = re.match(r"L[A-Z]\d{7}(\d{7})", part)
        text = landsat[1] if landsat else None
        found = re.search(r"(?<!\d)((?:19|20)\d\d)[-_]?(\d\d)[-_]?(\d\d)(?!\d)", part)
        try:
            if text:
                return datetime.strptime(text, "%Y%j").date().isoformat()
            if found:
                return datetime.strptime("".join(found.groups()), "%Y%m%d").date().isoformat()
        except ValueError:
            continue
    return None


def _nodata(scene: Scene, sensor: Sensor, params: CheckParams) -> float | None:
    if params.nodata is not None:
        return params.nodata
    return sensor.nodata if scene.nodata is None else scene.nodata


def _check_scale(scene: Scene, facts: SceneFacts, sensor: Sensor) -> None:
    """Refuse a file that says another scale than the sensor's, instead of trusting either."""
    for name, scale, offset in zip(facts.names, facts.scale, facts.offset, strict=True):
        index = scene.bands.index(name)
        said = (float(scene.scale[index]), float(scene.offset[index]))
        if said != (1.0, 0.0) and not np.allclose(said, (scale, offset), rtol=1e-4, atol=1e-9):
            reason = f"the file says scale and offset {said}, {sensor.name} has {scale, offset}"
            raise SceneRejectedError("implausible_scale", reason)


def _check_pixels(scene: Scene, facts: SceneFacts, sensor: Sensor) -> None:
    """Refuse a scene without data, or with numbers that cannot be the sensor's."""
    for tile in _blocks(scene, facts):
        valid = with_data(tile, facts.nodata)
        if valid.any():
            try:
                pixels = tile.pixels[:, valid]
                few = pixels[:, :: max(1, pixels.shape[1] // _NUM_LOOKED_AT)]
                check_values(sensor, facts.bands, few, None, facts.ref.paths[0])
            except DataError as error:
                raise SceneRejectedError("implausible_scale", str(error)) from error
            return
    raise SceneRejectedError("all_nodata", "no pixel has data")


def _blocks(scene: Scene, facts: SceneFacts) -> Iterator[Tile]:
    """Yield the middle of a scene and then all of it, so that most scenes need one reading."""
    height, width = facts.height, facts.width
    if height <= _BLOCK and width <= _BLOCK:
        yield scene.read(0, 0, height, width, bands=facts.names)
        return
    row, col = max(0, height - _BLOCK) // 2, max(0, width - _BLOCK) // 2
    yield scene.read(row, col, min(_BLOCK, height), min(_BLOCK, width), bands=facts.names)
    for row in range(0, height, _BLOCK):
        for col in range(0, width, _BLOCK):
            size = (min(_BLOCK, height - row), min(_BLOCK, width - col))
            yield scene.read(row, col, *size, bands=facts.names)


def merge(
    results: Sequence[StageResult], params: CheckParams
) -> tuple[list[SceneFacts], list[ManifestRow]]:
    """Join the results of all units and settle on one set of bands.

    Where no bands were asked for, those that most scenes have are taken; scenes that lack some of
    them are rejected, and surplus bands are left out.
    """
    rows = [row for result in results for row in result.rows]
    scenes = [from_plain(SceneFacts, plain) for result in results for plain in result.output]
    if not scenes:
        return [], rows
    votes = Counter(scene.bands for scene in scenes)
    bands = min(votes, key=lambda names: (-votes[names], -len(names), names))
    kept = []
    for scene in scenes:
        missing = [name for name in bands if name not in scene.bands]
        if missing:
            reason = f"lacks {', '.join(missing)}, which most scenes have; --bands decides"
            rows.append(scene_row(scene.ref, "missing_bands", reason, params))
        else:
            kept.append(_with_bands(scene, bands))
    return kept, rows


def _with_bands(scene: SceneFacts, bands: tuple[str, ...]) -> SceneFacts:
    place = [scene.bands.index(name) for name in bands]
    return replace(
        scene,
        bands=bands,
        names=tuple(scene.names[i] for i in place),
        scale=tuple(scene.scale[i] for i in place),
        offset=tuple(scene.offset[i] for i in place),
    )
