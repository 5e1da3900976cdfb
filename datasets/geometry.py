"""Where the pixels of an array lie on Earth: coordinate system, affine transform and size."""

from __future__ import annotations

import math
from dataclasses import dataclass

_METRES_PER_DEGREE = 111_320.0

Transform = tuple[float, float, float, float, float, float]
Affine = tuple[float, float, float, float, float, float, float, float, float, float, float, float]
"""Three rows of a 3 x 4 matrix, one after the other."""


@dataclass(frozen=True)
class Geometry:
    """Position of a raster.

    Attributes:
        crs: coordinate reference system as "EPSG:n" or WKT, None when unknown.
        transform: (a, b, c, d, e, f): x = a col + b row + c, y = d col + e row + f, measured from
            the upper left corner of the upper left pixel.
        height: rows.
        width: columns.
    """

    crs: str | None
    transform: Transform
    height: int
    width: int

    @staticmethod
    def unknown(height: int, width: int) -> Geometry:
        """Return a geometry without position: map coordinates are columns and rows."""
        return Geometry(None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), height, width)

    def point(self, row: float, col: float) -> tuple[float, float]:
        """Return map coordinates (x, y) of a position in pixels; +0.5 is a pixel's centre."""
        a, b, c, d, e, f = self.transform
        return a * col + b * row + c, d * col + e * row + f

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Return (row, col) of map coordinates, the inverse of `point`."""
        a, b, c, d, e, f = self.transform
        det = a * e - b * d
        return (a * (y - f) - d * (x - c)) / det, (e * (x - c) - b * (y - f)) / det

    def window(self, row: int, col: int, height: int, width: int) -> Geometry:
        """Return the geometry of a window, which may reach over the edges."""
        a, b, _, d, e, _ = self.transform
        x, y = self.point(row, col)
        return Geometry(self.crs, (a, b, x, d, e, y), height, width)

    def bounds(self) -> tuple[float, float, float, float]:
        """Return (left, bottom, right, top) in map units, also for rotated rasters."""
        corners = [self.point(r, c) for r in (0, self.height) for c in (0, self.width)]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def center_lonlat(self) -> tuple[float, float] | None:
        """Return (longitude, latitude) of the centre in degrees (WGS 84), None without a CRS."""
        if self.crs is None:
            return None
        from rasterio.crs import CRS
        from rasterio.warp import transform

        x, y = self.point(self.height / 2, self.width / 2)
        lon, lat = transform(CRS.from_user_input(self.crs), CRS.from_epsg(4326), [x], [y])[:2]
        return (lon[0], lat[0]) if math.isfinite(lon[0]) and math.isfinite(lat[0]) else None

    def gsd(self) -> float | None:
        """Return the size of a pixel in metres (square root of its area), None without a CRS."""
        if self.crs is None:
            return None
        from rasterio.crs import CRS

        crs = CRS.from_user_input(self.crs)
        a, b, _, d, e, _ = self.transform
        size = math.sqrt(abs(a * e - b * d))
        if crs.is_geographic:
            latitude = self.point(self.height / 2, self.width / 2)[1]
            return size * _METRES_PER_DEGREE * math.sqrt(max(math.cos(math.radians(latitude)), 0))
        return size * (crs.linear_units_factor[1] if crs.is_projected else 1.0)
