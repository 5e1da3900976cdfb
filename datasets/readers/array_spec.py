"""What the numbers of an array are, and the small JSON file beside it that says so.

`scene.npz` is described by `scene.json`, for example

    {"array": "img", "layout": "hwc", "bands": ["blue", "green", "red"], "nodata": 0}
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..geometry import Geometry, Transform

_LAYOUTS = ("hwc", "chw", "thwc", "tchw", "hw", "thw")


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """What the numbers of an array are.

    Attributes:
        array: name of the array in an .npz file; None where it holds one only.
        layout: order of the axes: hwc, chw, hw, or with dates in front thwc, tchw, thw.
        bands: names of the bands; none calls them band_1, band_2, ...
        crs: coordinate system, "EPSG:n" or WKT; None when unknown.
        transform: (a, b, c, d, e, f) as in `Geometry`; None when unknown.
        nodata: stored number that means "no data"; None when none does (NaN always does).
        scale: factor to physical units, for all bands or for each.
        offset: summand after scaling, for all bands or for each.
        times: what each date is called, such as "2015-08-20"; none leaves them without names.
    """

    array: str | None = None
    layout: str = "hwc"
    bands: tuple[str, ...] = ()
    crs: str | None = None
    transform: Transform | None = None
    nodata: float | None = None
    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    times: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every entry.

        Raises:
            DataError: naming the one that is wrong.
        """
        for name, value in vars(self).items():
            _check("array", name, value)


def find_spec(path: Path, fallback: ArraySpec | str | Path | None) -> ArraySpec:
    """Return the description of an array: its own, the JSON file beside it, or else the fallback.

    Raises:
        DataError: when there is none, or it is wrong.
    """
    own = path.with_suffix(".json")
    if own.is_file():
        return read_spec(own)
    if isinstance(fallback, ArraySpec):
        return fallback
    if fallback is not None:
        return read_spec(Path(fallback))
    remedy = f'write {own.name} beside it, such as {{"layout": "hwc", "bands": ["red", "nir"]}}'
    raise DataError(path, "nothing says what its axes and bands are", remedy)


def read_spec(path: Path) -> ArraySpec:
    """Read the JSON file that describes an array; an entry that is null has its default.

    Raises:
        DataError: naming the entry that is wrong.
    """
    known = [field.name for field in fields(ArraySpec)]
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(path, f"is no JSON file ({error})", "repair it") from error
    wrong = [name for name in plain if name not in known] if isinstance(plain, dict) else ["text"]
    if wrong:
        remedy = f"its entries are {', '.join(known)}"
        raise DataError(path, f"has the unknown entry {wrong[0]!r}", remedy)
    values: dict[str, Any] = {}
    for name, value in plain.items():
        if value is not None:
            values[name] = tuple(value) if isinstance(value, list) else value
            _check(path, name, values[name])
    for name in ("transform", "nodata", "scale", "offset"):
        if name in values:
            values[name] = _as_float(values[name])
    return ArraySpec(**values)


_EXAMPLES = {
    "array": 'name an array of the file, as in "img"',
    "layout": f"use one of {', '.join(_LAYOUTS)}",
    "bands": 'list distinct names, as in ["red", "nir"]',
    "crs": 'use a text such as "EPSG:32633", or null',
    "transform": "give six numbers a, b, c, d, e, f with a e - b d other than 0, or null",
    "nodata": "use a number or null",
    "scale": "use a number, or a list with one for each band",
    "offset": "use a number, or a list with one for each band",
    "times": 'list texts, as in ["2015-08-20"]',
}


def _check(subject: object, name: str, value: Any) -> None:
    if not _fits(name, value):
        raise DataError(subject, f"{name} is {str(value)[:80]}", _EXAMPLES[name])


def _as_float(value: Any) -> Any:
    return tuple(map(float, value)) if isinstance(value, tuple) else float(value)


def _fits(name: str, value: Any) -> bool:
    if name in ("bands", "times"):
        texts = isinstance(value, tuple) and all(isinstance(v, str) and v for v in value)
        return texts and (name == "times" or len(set(value)) == len(value))
    if name in ("scale", "offset"):
        return all(map(_is_finite, value if isinstance(value, tuple) else (value,)))
    if value is None:
        return name != "layout"
    if name == "transform":
        six = isinstance(value, tuple) and len(value) == 6 and all(map(_is_finite, value))
        return six and value[0] * value[4] != value[1] * value[3]
    if name == "nodata":
        return _is_number(value)
    return value in _LAYOUTS if name == "layout" else isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def locate(path: Path, spec: ArraySpec, height: int, width: int) -> Geometry:
    """Return where an array of so many rows and columns lies.

    Raises:
        DataError: when its coordinate system is not known.
    """
    if spec.transform is None:
        return Geometry.unknown(height, width)
    if spec.crs is None:
        return Geometry(None, spec.transform, height, width)
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        crs = CRS.from_user_input(spec.crs).to_string()
    except CRSError as error:
        raise DataError(
            path, f"crs {spec.crs!r} is not known ({error})", _EXAMPLES["crs"]
        ) from error
    return Geometry(crs, spec.transform, height, width)
