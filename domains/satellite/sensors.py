"""Sensors as data: bands, wavelengths and how stored numbers become physical units.

A sensor is a YAML file, one of ours in the folder `sensors` or one of the user's. It may have
variants, which are the same instrument delivered in other numbers: "sentinel2-l1c@n0400" has
Sentinel-2's radiometric offset, "landsat8-oli@c2-l2" is surface reflectance of Collection 2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...core.config_tree import from_plain
from ...core.errors import UsageError
from ...datasets.errors import DataError

FOLDER = Path(__file__).parent / "sensors"

_WORDS = {"band", "sr", "st", "toa", "boa", "reflectance", "radiance", "temperature"}
_NO_NAME = re.compile(r"band_\d+")
_YAML = (".yaml", ".yml")
_SMALL_SCALE = 0.01  # below it, digital numbers and physical units cannot be confused
_ALREADY_PHYSICAL = 2.0  # stored numbers below this are no digital numbers
_FAR_OUT = 10.0  # times the largest plausible value


@dataclass(frozen=True, kw_only=True)
class Band:
    """A band of a sensor.

    Attributes:
        name: name that stores and models use.
        aliases: further names found in files.
        common: what it shows, in words that all sensors share: blue, red, nir, swir16, ...
        wavelength: centre in nm.
        gsd: ground sampling distance in metres.
        scale: factor from stored numbers to physical units.
        offset: summand after scaling.
        units: physical units; None means the sensor's.
    """

    name: str
    aliases: tuple[str, ...] = ()
    common: str | None = None
    wavelength: float | None = None
    gsd: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    units: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """A sensor whose numbers are delivered in one way.

    Attributes:
        name: name, with the variant after "@".
        title: what it is, for people.
        units: physical units of its bands.
        bands: all bands, in the order that stores use.
        dtypes: number types in which it is delivered.
        nodata: stored number that means "no data", None when none does.
        plausible: smallest and largest physical value that is still believable.
        files: regular expressions of names of its files and folders.
        only: true when nothing else has these band names in these number types.
        variants: names of the other ways of delivery, for messages.
    """

    name: str
    title: str
    units: str
    bands: tuple[Band, ...]
    dtypes: tuple[str, ...]
    nodata: float | None = None
    plausible: tuple[float, float] = (-math.inf, math.inf)
    files: tuple[str, ...] = ()
    only: bool = False
    variants: tuple[str, ...] = ()

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of all bands."""
        return tuple(band.name for band in self.bands)

    def select(self, names: Sequence[str]) -> tuple[Band, ...]:
        """Return bands by name, in the order asked for.

        Raises:
            UsageError: when there is no such band.
        """
        known = {band.name: band for band in self.bands}
        for name in names:
            if name not in known:
                hint = f"it has {', '.join(known)}"
                raise UsageError(f"sensor {self.name}", f"has no band {name!r}", hint)
        return tuple(known[name] for name in names)


@dataclass(frozen=True, kw_only=True)
class _Delivery:
    """What a variant may say differently."""

    title: str | None = None
    units: str | None = None
    dtypes: tuple[str, ...] | None = None
    nodata: float | str | None = None
    plausible: tuple[float, float] | None = None
    files: tuple[str, ...] | None = None
    only: bool | None = None
    scale: float | dict[str, Any] | None = None
    offset: float | dict[str, Any] | None = None
    band_units: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class _SensorFile(_Delivery):
    """The content of a sensor's YAML file."""

    name: str
    bands: tuple[Band, ...]
    variants: dict[str, Any] | None = None


def sensor_names(*, variants: bool = False) -> list[str]:
    """Return the names of our own sensors, with all their variants if asked for."""
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if not variants:
        return names
    sensors = [load_sensor(name) for name in names]
    return [name for sensor in sensors for name in _deliveries(sensor)]


def load_sensor(name: str | Path) -> Sensor:
    """Load a sensor.

    Args:
        name: one of `sensor_names`, or the path of a YAML file; a variant follows after "@".

    Raises:
        UsageError: when there is no such sensor or variant, or its file is wrong.
    """
    base, variant = str(name), ""
    if "@" in base and not base.endswith(_YAML):
        base, _, variant = base.rpartition("@")
    if base.endswith(_YAML):
        return _load(Path(base), variant)
    known = sensor_names()
    if base not in known:
        near = get_close_matches(base, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}"
        raise UsageError(f"sensor {base!r}", "is not known", f"{hint} or give a YAML file")
    return _load(FOLDER / f"{base}.yaml", variant)


@lru_cache(maxsize=64)
def _load(path: Path, variant: str) -> Sensor:
    content = _read(path)
    variants = content.variants or {}
    if variant and variant not in variants:
        hint = f"use one of {', '.join(variants)}" if variants else "leave it out"
        raise UsageError(f"sensor {content.name}", f"has no variant {variant!r}", hint)
    where = f"{path.name}: variants.{variant}"
    change = from_plain(_Delivery, variants.get(variant) or {}, where)
    said = {f.name: getattr(content, f.name) for f in fields(_Delivery)}
    changed = {f.name: getattr(change, f.name) for f in fields(_Delivery)}
    for delivery in (content, change):
        _check_names(delivery, content)
    # The names of files belong to one way of delivery and are not inherited.
    kept = {k: v for k, v in changed.items() if v is not None or (variant and k == "files")}
    return _build(content, said | kept, variant)


def _read(path: Path) -> _SensorFile:
    import yaml

    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = f"cannot be read ({type(error).__name__})"
        raise UsageError(path, reason, "give a sensor's YAML file") from error
    return from_plain(_SensorFile, plain, path.name)


def _check_names(delivery: _Delivery, content: _SensorFile) -> None:
    names = [band.name for band in content.bands]
    if len(set(names)) != len(names) or not names:
        raise UsageError(f"sensor {content.name}", "band names are not distinct", "rename one")
    for field in ("scale", "offset", "band_units"):
        value = getattr(delivery, field)
        for key in value if isinstance(value, dict) else ():
            if key not in (*names, "default"):
                hint = f"it has {', '.join(names)}"
                raise UsageError(f"sensor {content.name}", f"{field} of unknown band {key!r}", hint)


def _build(content: _SensorFile, said: dict[str, Any], variant: str) -> Sensor:
    """Make the sensor of one way of delivery."""
    bands = tuple(_band(band, said) for band in content.bands)
    low, high = said["plausible"] or (-math.inf, math.inf)
    nodata = said["nodata"]
    return Sensor(
        name=f"{content.name}@{variant}" if variant else content.name,
        title=said["title"] or content.name,
        units=said["units"] or "",
        bands=bands,
        dtypes=said["dtypes"] or (),
        nodata=None if nodata is None or nodata == "none" else float(nodata),
        plausible=(low, high),
        files=said["files"] or (),
        only=bool(said["only"]),
        variants=tuple(content.variants or ()),
    )


def _band(band: Band, said: Mapping[str, Any]) -> Band:
    scale = _per_band(said["scale"], band.name, band.scale)
    offset = _per_band(said["offset"], band.name, band.offset)
    values = {f.name: getattr(band, f.name) for f in fields(Band)}
    units = (said["band_units"] or {}).get(band.name, band.units)
    return Band(**(values | {"scale": scale, "offset": offset, "units": units}))


def _per_band(value: float | dict[str, Any] | None, name: str, default: float) -> float:
    chosen = value.get(name, value.get("default")) if isinstance(value, dict) else value
    return default if chosen is None else float(chosen)


def band_key(name: str) -> str:
    """Return what is left of a band's name without spelling: "SR_B4" and "band 04" give "b4"."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word not in _WORDS]
    joined = "".join(words)
    numbered = re.fullmatch(r"(?:band|b)?0*(\d+)(a?)", joined)
    return f"b{numbered[1]}{numbered[2]}" if numbered else joined


def unnamed(names: Sequence[str]) -> bool:
    """Return whether a file names none of its bands.

    Readers then count them, and a number is a place and no name: the ninth band of Sentinel-2 is
    B8A and not B9.
    """
    return all(_NO_NAME.fullmatch(name) for name in names)


def find_bands(
    sensor: Sensor, names: Sequence[str], subject: object = "the scene"
) -> dict[str, str]:
    """Return which of a scene's bands are which of the sensor's.

    Args:
        sensor: the sensor.
        names: band names of the scene; bands that the sensor does not have are left out.
        subject: the scene, for messages.

    Returns:
        Name in the scene by name of the sensor, in the sensor's order.

    Raises:
        UsageError: when two bands of the scene answer to one of the sensor.
    """
    found: dict[str, str] = {}
    names = [name for name in names if not _NO_NAME.fullmatch(name)] or names
    for band in sensor.bands:
        keys = {band_key(name) for name in (band.name, *band.aliases)}
        hits = [name for name in names if band_key(name) in keys]
        if len(hits) > 1:
            hits = [name for name in hits if name == band.name] or hits
        if len(hits) > 1:
            reason = f"has {' and '.join(hits)} for band {band.name} of {sensor.name}"
            raise UsageError(subject, reason, "rename or remove one")
        if hits:
            found[band.name] = hits[0]
    return found


def match_bands(
    sensor: Sensor,
    names: Sequence[str],
    wanted: Sequence[str] | None = None,
    subject: object = "the scene",
) -> dict[str, str]:
    """Return which band of a scene is which of the sensor's; all that are wanted must be there.

    Args:
        sensor: the sensor.
        names: band names of the scene.
        wanted: bands of the sensor, in the order of the result; None means all.
        subject: the scene, for messages.

    Returns:
        Name in the scene by name of the sensor, in the order wanted.

    Raises:
        UsageError: naming the bands that are missing, or an unknown or ambiguous one.
    """
    bands = sensor.band_names if wanted is None else tuple(b.name for b in sensor.select(wanted))
    found = find_bands(sensor, names, subject)
    missing = [name for name in bands if name not in found]
    if missing:
        reason = (
            f"lacks {', '.join(missing)} of sensor {sensor.name} (its bands are {', '.join(names)})"
        )
        raise UsageError(subject, reason, "choose another sensor, or only bands that it has")
    return {name: found[name] for name in bands}


def guess_sensor(names: Sequence[str], dtype: str, uri: str = "") -> Sensor | None:
    """Return the sensor of a scene when band names, number type and file name leave no doubt.

    Args:
        names: band names of the scene.
        dtype: number type of its pixels.
        uri: its file or folder; products are recognised by their official names.
    """
    fitting = [s for s in _all_sensors() if dtype in s.dtypes and find_bands(s, names)]
    named = [sensor for sensor in sensors_named(uri) if sensor in fitting]
    if not named:
        # Nothing but the names speaks for it, so all of them have to.
        named = [s for s in fitting if s.only and len(find_bands(s, names)) == len(names)]
        named = [s for s in named if len(s.bands) == len(names)]
    return named[0] if len(named) == 1 else None


def sensors_named(uri: str) -> list[Sensor]:
    """Return the sensors, with all their variants, whose products have such names."""
    parts = re.split(r"[/\\]", uri)
    return [s for s in _all_sensors() if any(re.search(f, part) for f in s.files for part in parts)]


def _all_sensors() -> Iterator[Sensor]:
    return (load_sensor(name) for name in sensor_names(variants=True))


def check_values(
    sensor: Sensor,
    bands: Sequence[str],
    pixels: np.ndarray,
    valid: np.ndarray | None = None,
    subject: object = "the scene",
) -> None:
    """Refuse numbers that cannot be the sensor's, such as reflectance taken for digital numbers.

    Args:
        sensor: the sensor, with the scale that is to be applied.
        bands: name of each channel.
        pixels: (c, *s) stored numbers; a few thousand pixels of a scene are enough.
        valid: (*s) bool, True where there is data.
        subject: the scene, for messages.

    Raises:
        DataError: when the physical values are implausible.
    """
    chosen = sensor.select(bands)
    same = [i for i, band in enumerate(chosen) if band.units in (None, sensor.units)]
    keep = np.ones(pixels.shape[1:], bool) if valid is None else valid
    stored = pixels[same][:, keep].astype(np.float64)
    stored = stored[:, np.isfinite(stored).all(axis=0)]
    if not stored.size:
        return
    scale = np.array([chosen[i].scale for i in same])[:, None]
    values = stored * scale + np.array([chosen[i].offset for i in same])[:, None]
    problem = _problem(stored, values, float(scale.min()), sensor)
    if problem:
        others = [name for name in _deliveries(sensor) if name != sensor.name]
        hint = f"use a sensor or variant that fits, such as {', '.join(others)}"
        raise DataError(subject, problem, hint if others else "describe its scale in a YAML file")


def _problem(stored: np.ndarray, values: np.ndarray, scale: float, sensor: Sensor) -> str | None:
    low, high = sensor.plausible
    middle, top = np.quantile(values, (0.5, 0.99))
    seen = f"stored {np.quantile(stored, 0.01):.4g} to {np.quantile(stored, 0.99):.4g}"
    what = f"{sensor.name} in {sensor.units}"
    if middle > high or top > _FAR_OUT * high:
        return f"its values look like digital numbers, not {what} ({seen})"
    if scale < _SMALL_SCALE and stored.max() <= _ALREADY_PHYSICAL and stored.max() > 0:
        return f"its values look like physical units already, not numbers of {what} ({seen})"
    if middle < low:
        return f"half of its values are below what {what} can be ({seen})"
    return None


def _deliveries(sensor: Sensor) -> list[str]:
    base = sensor.name.partition("@")[0]
    return [base, *(f"{base}@{variant}" for variant in sensor.variants)]
