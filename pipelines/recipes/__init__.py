"""Named recipes: functions whose docstrings say data, hardware, time and what to expect."""

from __future__ import annotations

from collections.abc import Callable

from ..recipe import Recipe
from . import multi_scale, published, satellite, teachers

RECIPES: dict[str, Callable[[], Recipe]] = {
    **multi_scale.RECIPES,
    **published.RECIPES,
    **satellite.RECIPES,
    **teachers.RECIPES,
}
