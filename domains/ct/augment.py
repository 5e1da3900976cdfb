"""Random views of volumes: crops inside of the stored sample, flips, quarter turns, intensity.

Nothing is interpolated, so spacing and noise stay what they are. All draws of a sample depend on
one key and its row in the store (see `imaging.augment.draw`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ...core.errors import UsageError
from ...datasets.samples import UNLABELLED
from ..imaging.augment import draw

# Which of a sample's numbers decides what: three places, three flips, turn, gain, shift.
_PLACE, _FLIP, _TURN, _GAIN, _SHIFT, _NUM = 0, 3, 6, 7, 9, 11


@dataclass(frozen=True, kw_only=True)
class VolumeAugmentConfig:
    """How volumes are changed from epoch to epoch (defaults: the released Hi-End-MAE)."""

    name: Literal["volume"] = "volume"
    """Kind of augmentation."""
    flip: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Probability of mirroring depth, height and width; a mirrored width swaps left and right."""
    rotate: float = 0.3
    """Probability of a turn by 90, 180 or 270 degrees within the axial plane."""
    gain: float = 0.1
    """Network inputs are multiplied by 1 - gain to 1 + gain."""
    shift: float = 0.1
    """Largest summand, as a share of the window."""
    intensity: float = 0.1
    """Probability of the gain, and of the shift."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        shares = {f"flip[{axis}]": value for axis, value in enumerate(self.flip)}
        shares |= {"rotate": self.rotate, "gain": self.gain, "shift": self.shift}
        shares["intensity"] = self.intensity
        for name, value in shares.items():
            if not 0 <= value <= 1:
                reason = f"is {value}, outside of 0 to 1"
                raise UsageError(f"augment.{name}", reason, "set it between 0 and 1")


@dataclass(frozen=True)
class VolumeView:
    """Volumes with what moves along.

    Attributes:
        images: network input; 0 where invalid.
        valid: true where there is data; None when everywhere.
        labels: class of every voxel, 255 where not known; None without labels.
    """

    images: Float[Tensor, "b c d h w"]
    valid: Bool[Tensor, "b d h w"] | None = None
    labels: Int[Tensor, "b d h w"] | None = None


Part = tuple[tuple[int, int], ...]
"""Start and length per axis; a part may reach over the edges."""


def random_view(
    view: VolumeView,
    rows: Int[Tensor, " b"],
    config: VolumeAugmentConfig,
    generator: torch.Generator,
    *,
    size: Sequence[int] | None = None,
) -> VolumeView:
    """Return one random view of every volume.

    Args:
        view: volumes and what moves along; not changed.
        rows: row of each volume in its store.
        config: what may happen.
        generator: gives one number; the same state and rows give the same views.
        size: voxels per axis of the result, cut at random; None keeps those of the volumes.
    """
    have = tuple(view.images.shape[2:])
    wanted = tuple(size or have)
    numbers = draw(generator, rows, _NUM)
    parts = []
    for number in numbers:
        turns = _turns(number[_TURN], config.rotate)
        # A quarter turn swaps height and width, so the part is cut the other way round.
        cut = wanted if turns % 2 == 0 else (wanted[0], wanted[2], wanted[1])
        places = [_start(n, c, u) for n, c, u in zip(have, cut, number[_PLACE:_FLIP], strict=True)]
        flips = [
            axis
            for axis, (u, p) in enumerate(zip(number[_FLIP:_TURN], config.flip, strict=True))
            if u < p
        ]
        parts.append((tuple(zip(places, cut, strict=True)), flips, turns))
    return _shade(_move(view, parts), numbers, config)


def fit_size(view: VolumeView, size: Sequence[int] | None) -> VolumeView:
    """Return the central part of every volume, padded with absent voxels where it is too small."""
    have = tuple(view.images.shape[2:])
    if size is None or tuple(size) == have:
        return view
    part = tuple((_start(n, c, 0.5), c) for n, c in zip(have, size, strict=True))
    return _move(view, [(part, [], 0)] * len(view.images))


def _turns(number: float, share: float) -> int:
    return 0 if number >= share or share == 0 else 1 + int(number / share * 3)


def _start(have: int, wanted: int, number: float) -> int:
    """Return where a part begins: a random place inside, or the middle when it is larger."""
    free = have - wanted
    return int(number * (free + 1)) if free >= 0 else -((-free) // 2)


def _move(view: VolumeView, parts: Sequence[tuple[Part, list[int], int]]) -> VolumeView:
    """Cut, mirror and turn every volume."""
    valid, have = view.valid, view.images.shape[2:]
    if valid is None and any(_reaches_over(part, have) for part, _, _ in parts):
        valid = torch.ones_like(view.images[:, 0], dtype=torch.bool)

    def moved(values: Tensor, fill: float) -> Tensor:
        return torch.stack([_moved(v, *p, fill) for v, p in zip(values, parts, strict=True)])

    return VolumeView(
        moved(view.images, 0.0),
        None if valid is None else moved(valid, 0),
        None if view.labels is None else moved(view.labels, UNLABELLED),
    )


def _reaches_over(part: Part, have: Sequence[int]) -> bool:
    return any(start < 0 or start + n > num for (start, n), num in zip(part, have, strict=True))


def _moved(values: Tensor, part: Part, flips: list[int], turns: int, fill: float) -> Tensor:
    for axis, (start, length) in enumerate(part, values.ndim - 3):
        low, high = max(start, 0), min(start + length, values.shape[axis])
        values = values.narrow(axis, low, high - low)
        missing = (low - start, start + length - high)
        if any(missing):
            behind = values.ndim - 1 - axis
            values = functional.pad(values, [0, 0] * behind + list(missing), value=fill)
    if flips:
        values = values.flip([axis - 3 for axis in flips])
    return torch.rot90(values, turns, (-2, -1)) if turns else values


def _shade(view: VolumeView, numbers: np.ndarray, config: VolumeAugmentConfig) -> VolumeView:
    """Change brightness and contrast of some volumes; voxels without data stay 0."""
    if not config.intensity or not (config.gain or config.shift):
        return view
    does = numbers[:, [_GAIN, _SHIFT]] < config.intensity
    signed = 2 * numbers[:, [_GAIN + 1, _SHIFT + 1]] - 1
    amount = torch.as_tensor(
        np.where(does, signed * [config.gain, config.shift], 0.0),
        dtype=view.images.dtype,
        device=view.images.device,
    )
    gain, shift = (column.reshape(-1, 1, 1, 1, 1) for column in amount.T)
    images = view.images * (1 + gain) + shift
    if view.valid is not None:
        images = images.masked_fill(~view.valid.unsqueeze(1), 0.0)
    return VolumeView(images, view.valid, view.labels)
