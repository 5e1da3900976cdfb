"""A volume as a picture: its three planes side by side, as a radiologist hangs them.

Volumes of stores are (depth, height, width) towards the head, the back and the patient's left (see
`datasets.volume_geometry`). The axial plane is seen from the feet, so the patient's right is on the
left; in the coronal and sagittal planes the head is up, and the sagittal one looks to the left.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

_GAP = 2  # columns between planes


def flat(
    values: Shaped[Tensor, "b *s"],
    rank: int,
    spacing: Sequence[float] | None = None,
    *,
    fill: float = 0,
    centre: Sequence[int] | None = None,
) -> Shaped[Tensor, "b *p"]:
    """Return what can be shown of images of any rank: volumes become three planes.

    Voxels are repeated, never interpolated, so that pixels of labels and masks stay aligned with
    those of the image and mm are as long in each direction.

    Args:
        values: numbers, masks or labels; the last `rank` axes are those of the image.
        rank: 2 returns the values as they are, 3 makes planes.
        spacing: mm between voxels along each axis; None for cubes.
        fill: value between and beside the planes.
        centre: voxel where the planes meet; the middle when it is not given.

    Returns:
        (b, ..., height, width).
    """
    if rank == 2:
        return values
    depth, height, width = values.shape[-3:]
    z, y, x = centre or (depth // 2, height // 2, width // 2)
    steps = [1.0] * 3 if spacing is None else [step / min(spacing) for step in spacing]
    planes = (
        _stretched(values[..., z, :, :], steps[1], steps[2]),
        _stretched(values[..., y, :].flip(-2), steps[0], steps[2]),
        _stretched(values[..., x].flip(-2), steps[0], steps[1]),
    )
    rows = max(plane.shape[-2] for plane in planes)
    columns = sum(plane.shape[-1] for plane in planes) + _GAP * (len(planes) - 1)
    picture = values.new_full((*values.shape[:-3], rows, columns), fill)
    left = 0
    for plane in planes:
        picture[..., : plane.shape[-2], left : left + plane.shape[-1]] = plane
        left += plane.shape[-1] + _GAP
    return picture


def _stretched(plane: Tensor, down: float, along: float) -> Tensor:
    """Repeat rows and columns so that each is as long as it is in mm."""
    for axis, factor in ((-2, down), (-1, along)):
        num = max(1, round(plane.shape[axis] * factor))
        if num != plane.shape[axis]:
            place = (torch.arange(num, device=plane.device) + 0.5) * plane.shape[axis] / num
            plane = plane.index_select(axis, place.long())
    return plane
