"""Geometry: windows, bounds, centres and ground sampling distance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimkit.datasets.geometry import Geometry

UTM = Geometry("EPSG:32629", (10.0, 0.0, 476530.0, 0.0, -10.0, 5867260.0), 158, 214)
number = st.floats(-1e4, 1e4)


@given(
    number, number, st.integers(-99, 99), st.integers(-99, 99), st.floats(0.1, 50), st.floats(-3, 3)
)
def test_windows_keep_every_pixel_in_place(
    x: float, y: float, row: int, col: int, size: float, angle: float
) -> None:
    cos, sin = size * math.cos(angle), size * math.sin(angle)
    whole = Geometry(None, (cos, -sin, x, sin, cos, y), 80, 90)
    part = whole.window(row, col, 7, 5)
    assert (part.height, part.width) == (7, 5)
    assert np.allclose(part.point(3, 2), whole.point(row + 3, col + 2), atol=1e-6)
    assert np.allclose(whole.pixel(*part.point(0, 0)), (row, col), atol=1e-4)
    left, bottom, right, top = part.bounds()
    xs, ys = zip(*[part.point(r, c) for r in (0, 7) for c in (0, 5)], strict=True)
    assert (left, bottom, right, top) == (min(xs), min(ys), max(xs), max(ys))


def test_utm_scene_lies_in_ireland() -> None:
    center = UTM.center_lonlat()
    assert center is not None
    assert center == pytest.approx((-9.336, 52.949), abs=0.01)
    assert UTM.gsd() == pytest.approx(10.0)
    assert UTM.bounds() == (476530.0, 5865680.0, 478670.0, 5867260.0)


def test_geographic_pixels_shrink_towards_the_pole() -> None:
    degrees = Geometry("EPSG:4326", (0.001, 0.0, 10.0, 0.0, -0.001, 60.005), 10, 10)
    assert degrees.gsd() == pytest.approx(111.32 * math.sqrt(0.5), rel=1e-3)
    assert degrees.center_lonlat() == pytest.approx((10.005, 60.0), abs=1e-6)


def test_feet_are_turned_into_metres() -> None:
    feet = Geometry("EPSG:2263", (100.0, 0.0, 1e6, 0.0, -100.0, 2e5), 10, 10)
    assert feet.gsd() == pytest.approx(30.48, rel=1e-4)


def test_without_crs_nothing_is_invented() -> None:
    unknown = Geometry.unknown(4, 6)
    assert unknown.center_lonlat() is None
    assert unknown.gsd() is None
    assert unknown.window(1, 2, 2, 2).point(0, 0) == (2.0, 1.0)
