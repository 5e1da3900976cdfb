"""Where the body is: everything that is not the air around it.

The air of lungs and bowel belongs to the body. It is told from the air outside by what it is
connected to and by its density: outside air reaches the border of the volume, and much of it is
lighter than foam and blankets (about -900 HU); a lung that is cut by the border of a small volume
is denser nearly everywhere. Lungs with severe emphysema that are cut may be taken for air.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

_COARSE = 4.0  # mm; fine enough for a skin, and some hundred times faster than full resolution
_GAS = -500.0  # HU, half-way between air and tissue
_LIGHT, _LEAST_LIGHT = -885.0, 0.25  # HU, and share of a region below it, of what is no lung
_SMALL = 0.05  # share of the largest part below which a part is table, tube or blanket
_THIN = 2  # coarse voxels; what is thinner is table or clothes


def find_body(
    volume: Shaped[np.ndarray, "d h w"], spacing: Sequence[float]
) -> Bool[np.ndarray, "d h w"]:
    """Return where the body is, with a rim of some mm so that the skin is inside.

    It is found on a grid of about 4 mm. A table that touches the body may stay.

    Args:
        volume: Hounsfield units.
        spacing: mm between voxel centres.

    Returns:
        Nothing but False when there is no body.
    """
    from scipy import ndimage

    steps = [max(1, round(_COARSE / step)) for step in spacing]
    small = volume[tuple(slice(step // 2, None, step) for step in steps)]
    if min(small.shape) == 0:
        steps, small = [1, 1, 1], volume
    gas = small < _GAS
    solid = ~_outside(small, gas)
    thinned = ndimage.binary_opening(solid, iterations=1)
    parts, num = regions_of(thinned if thinned.any() else solid)
    if num == 0:
        return np.zeros(volume.shape, np.bool_)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    body = np.isin(parts, np.flatnonzero(sizes >= max(_SMALL * sizes.max(), 1)))
    # What was opened away at the skin comes back with the rim, but no further than the tissue goes.
    body = ndimage.binary_dilation(body, iterations=_THIN)
    return _spread(body, volume.shape, steps)


def _outside(
    small: Shaped[np.ndarray, "d h w"], gas: Bool[np.ndarray, "d h w"]
) -> Bool[np.ndarray, "d h w"]:
    """Return the regions of gas that are the air around the body."""
    regions, num = regions_of(gas)
    border = np.ones(gas.shape, np.bool_)
    border[1:-1, 1:-1, 1:-1] = False
    every, light, at_border = (
        np.bincount(regions[where], minlength=num + 1)[1:]
        for where in (gas, small < _LIGHT, border)
    )
    outside = (at_border > 0) & (light >= _LEAST_LIGHT * every)
    return np.isin(regions, 1 + np.flatnonzero(outside))


def regions_of(
    mask: Bool[np.ndarray, "d h w"], *, corners: bool = False
) -> tuple[Int[np.ndarray, "d h w"], int]:
    """Return connected regions, numbered from 1, and how many there are.

    Args:
        mask: voxels.
        corners: whether voxels that touch with an edge or a corner are connected, too.
    """
    from scipy import ndimage

    regions: Any = ndimage.label(mask, np.ones((3, 3, 3)) if corners else None)
    return regions[0], int(regions[1])


def _spread(
    mask: Bool[np.ndarray, "p q r"], shape: Sequence[int], steps: Sequence[int]
) -> Bool[np.ndarray, "d h w"]:
    """Return a coarse mask on the full grid, each voxel repeated."""
    for axis, (num, step) in enumerate(zip(shape, steps, strict=True)):
        place = np.minimum(np.arange(num) // step, mask.shape[axis] - 1)
        mask = mask.take(place, axis=axis)
    return mask


def bounding_box(mask: Bool[np.ndarray, "*s"]) -> tuple[tuple[int, int], ...] | None:
    """Return (start, length) per axis of the smallest box around a mask; None if it is empty."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        places = np.flatnonzero(mask.any(axis=others))
        if not len(places):
            return None
        box.append((int(places[0]), int(places[-1]) + 1 - int(places[0])))
    return tuple(box)
