"""Named recipes: functions whose docstrings say data, hardware, time and what to expect."""

from __future__ import annotations

from collections.abc import Callable

from ..recipe import Recipe
from . import published, satellite, teachers

RECIPES: dict[str, Callable[[], Recipe]] = {
    **published.RECIPES,
    **satellite.RECIPES,
    **teachers.RECIPES,
}
