"""Scenes as they pass between the stages of curation."""

from __future__ import annotations

from dataclasses import dataclass

from ....datasets.geometry import Geometry


@dataclass(frozen=True)
class SceneRef:
    """A scene that was found.

    Attributes:
        id: unique name, stable between runs.
        paths: its files.
        uris: what opens it: the files, with the date in an array of several.
        stamp: size and time of change of every file; another stamp is another input.
    """

    id: str
    paths: tuple[str, ...]
    uris: tuple[str, ...]
    stamp: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class SceneFacts:
    """A scene that was opened and fits its sensor.

    Attributes:
        ref: which scene.
        bands: bands of the sensor that are used, in the sensor's order.
        names: what the file calls them.
        dtype: number type of its pixels.
        crs: coordinate system, None when unknown.
        transform: affine transform.
        height: rows.
        width: columns.
        scale: factor to physical units per band.
        offset: summand to physical units per band.
        nodata: stored number that means "no data" where the file does not say so.
        acquired: time of acquisition, None when unknown.
    """

    ref: SceneRef
    bands: tuple[str, ...]
    names: tuple[str, ...]
    dtype: str
    crs: str | None
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    nodata: float | None = None
    acquired: str | None = None

    @property
    def geometry(self) -> Geometry:
        """Position and size."""
        return Geometry(self.crs, self.transform, self.height, self.width)
