"""From stored numbers to network input: Hounsfield units, a window, 0 to 1.

Nothing is fitted: Hounsfield units mean the same in every scanner, so the window alone decides. It
is stored with the grid (spacing, orientation) that a network was trained on, for whoever prepares
another volume for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...core.config_tree import from_plain, to_plain
from ...core.errors import UsageError
from ...datasets.errors import DataError
from ...datasets.volume_geometry import NETWORK_CODES
from ..domain import Stored, Valid
from ..refusals import refuse_other_bands, refuse_other_channels, refuse_other_scale
from .hounsfield import PADDING, WINDOW, hounsfield_problem

BAND, UNITS = "ct", "HU"
_MOST_LOOKED_AT = 1 << 18  # voxels that tell whether numbers can be HU


@dataclass(frozen=True, kw_only=True)
class Normaliser:
    """Maps a window of Hounsfield units to 0 to 1, as the released Hi-End-MAE does.

    What has no data becomes 0, the window's lower end, which is what air is in it.

    Attributes:
        domain: name of the domain.
        sensor: name of the sensor.
        bands: the one channel.
        scale: HU = stored number * scale + offset.
        offset: HU of a stored 0.
        units: of physical values.
        window: HU that become 0 and 1; others are clipped.
        spacing: mm between voxel centres along depth, height and width of training samples; None
            when volumes kept their own.
        orientation: where depth, height and width of a sample point to in the patient.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    window: tuple[float, float] = WINDOW
    spacing: tuple[float, float, float] | None = None
    orientation: str = NETWORK_CODES
    domain: str = "ct"
    sensor: str = "ct"
    bands: tuple[str, ...] = (BAND,)
    units: str = UNITS

    def __post_init__(self) -> None:
        """Check that the numbers can be used."""
        remedy = "take the file that curation wrote"
        numbers = (*self.scale, *self.offset, *self.window)
        lengths = {len(self.bands), len(self.scale), len(self.offset)}
        if lengths != {1} or not np.isfinite(numbers).all() or 0 in self.scale:
            raise UsageError("normaliser", "needs one band with a scale and an offset", remedy)
        if self.window[0] >= self.window[1]:
            reason = f"is {self.window[0]:g} to {self.window[1]:g} HU"
            raise UsageError("normaliser.window", reason, "give its lower end first")
        if self.spacing is not None and not all(0 < step < np.inf for step in self.spacing):
            raise UsageError("normaliser.spacing", f"is {self.spacing}", "give mm above 0")
        if self.orientation != NETWORK_CODES:
            reason = f"is {self.orientation}, and stores are {NETWORK_CODES}"
            raise UsageError("normaliser.orientation", reason, remedy)

    def __call__(self, images: Stored, valid: Valid = None) -> Float[Tensor, "b 1 *s"]:
        """Turn stored numbers into float32 network input, 0 to 1.

        Args:
            images: stored numbers, one channel.
            valid: True where there is data; None when everywhere.

        Returns:
            0 where there is no data or a number is not finite.

        Raises:
            UsageError: for more than one channel.
        """
        stored = as_tensor(images)
        refuse_other_channels(self.bands, stored.shape[1])
        values = stored.to(torch.float32, copy=True)
        finite = torch.isfinite(values) if stored.is_floating_point() else None
        factor, summand = self.coefficients
        # In this order numbers inside of the window keep all bits that float32 has for them.
        values.mul_(factor).add_(summand).clamp_(0.0, 1.0)
        if finite is not None:
            values.masked_fill_(~finite, 0.0)
        if valid is not None:
            # Bytes become numbers several times as fast as truth values do.
            inside = as_tensor(valid).to(values.device).unsqueeze(1).view(torch.uint8)
            values.mul_(inside.to(torch.float32))
        return values

    @property
    def coefficients(self) -> tuple[float, float]:
        """Factor and summand from stored numbers to network input, before clipping."""
        width = self.window[1] - self.window[0]
        return self.scale[0] / width, (self.offset[0] - self.window[0]) / width

    def physical(self, images: Stored) -> Float[Tensor, "b 1 *s"]:
        """Turn stored numbers into HU, not clipped."""
        return as_tensor(images).to(torch.float32) * self.scale[0] + self.offset[0]

    def denormalise(self, images: Float[Tensor, "b 1 *s"]) -> Float[Tensor, "b 1 *s"]:
        """Turn network input, or a reconstruction of it, into HU; what was clipped stays so."""
        refuse_other_channels(self.bands, images.shape[1])
        return images.to(torch.float32) * (self.window[1] - self.window[0]) + self.window[0]

    def find_data(self, images: Stored, valid: Valid = None) -> Bool[Tensor, "b *s"]:
        """Return where something was measured: finite, and no padding of the field of view.

        Air around the body is found by `body.find_body`, which needs the whole volume.
        """
        stored = as_tensor(images)
        values = self.physical(stored)[:, 0]
        found = torch.isfinite(values) & (values > PADDING)
        return found if valid is None else found & as_tensor(valid).to(found.device)

    def check_values(
        self, images: Stored, valid: Valid = None, subject: object = "the volume"
    ) -> None:
        """Refuse numbers that cannot be Hounsfield units.

        Raises:
            DataError: saying what they look like instead.
        """
        stored = as_tensor(images)
        if stored.dtype in (torch.uint8, torch.int8):
            values = stored.flatten()
        else:
            values = self.physical(stored)[:, 0][self.find_data(stored, valid)]
        step = -(-values.numel() // _MOST_LOOKED_AT) or 1
        problem = hounsfield_problem(values[::step].cpu().numpy(), self.window)
        if problem is not None:
            remedy = "give the scanner's numbers with their rescale slope and intercept"
            raise DataError(subject, problem.reason, remedy)

    def check_scale(
        self, scale: Sequence[float], offset: Sequence[float], subject: object = "the volume"
    ) -> None:
        """Refuse a file that states another scale than the normaliser's.

        Raises:
            DataError: naming both.
        """
        known = list(zip(self.scale, self.offset, strict=True))
        said = list(zip(scale, offset, strict=True))
        refuse_other_scale(self.bands, known, said, subject, self.sensor)

    def check_bands(self, names: Sequence[str], subject: object = "the volume") -> None:
        """Refuse other channels.

        Raises:
            UsageError: naming what is missing or not wanted.
        """
        refuse_other_bands(self.bands, names, subject)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return to_plain(self)

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Normaliser:
        """Read what `to_dict` returned.

        Raises:
            UsageError: naming an entry that is missing, unknown or of the wrong kind.
        """
        return from_plain(Normaliser, stored, "normaliser")


def as_tensor(array: np.ndarray | Tensor) -> Tensor:
    """Return a tensor that shares memory where it can."""
    if isinstance(array, Tensor):
        return array
    return torch.from_numpy(array if array.flags.writeable else array.copy())
