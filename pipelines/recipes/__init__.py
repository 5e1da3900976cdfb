"""Named recipes: functions whose docstrings say data, hardware, time and what to expect."""

from __future__ import annotations

from collections.abc import Callable

from ..recipe import Recipe
from . import beit, ct, faces, multi_scale, published, pyramid, satellite, swin, teachers

RECIPES: dict[str, Callable[[], Recipe]] = {
    **beit.RECIPES,
    **ct.RECIPES,
    **faces.RECIPES,
    **multi_scale.RECIPES,
    **published.RECIPES,
    **pyramid.RECIPES,
    **satellite.RECIPES,
    **swin.RECIPES,
    **teachers.RECIPES,
}
