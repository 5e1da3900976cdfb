"""From sensor numbers to network input: physical units, robust clip, zero mean and unit deviation.

The normaliser comes from counts (see `statistics`), so any number of workers that see the pixels in
any order come to the same one, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...core.config_tree import from_plain, to_plain
from ...core.errors import UsageError
from ...datasets.errors import DataError
from ...datasets.store import StoreMeta
from ..domain import Stored, Valid
from ..refusals import refuse_other_bands, refuse_other_channels, refuse_other_scale
from .statistics import Statistics

CLIP_SHARES = (0.005, 0.995)
"""Shares of the valid pixels between which values are not clipped."""

_FAR = 20.0  # widths of the clip range; values further out have another scale
_TINY = 1e-2  # widths of the clip range; an image of values that vary less has another scale


@dataclass(frozen=True, kw_only=True)
class Normaliser:
    """Standardises images in physical units; what it is made of is stored with data and models.

    Attributes:
        domain: name of the domain.
        sensor: name of the sensor.
        bands: names of the channels, in the only order that is accepted.
        scale: factor per band; physical value = stored value * scale + offset.
        offset: summand per band.
        units: physical units.
        mean: per band, of the clipped physical values.
        std: per band, of the clipped physical values.
        low: smallest physical value per band; smaller ones are clipped.
        high: largest physical value per band; larger ones are clipped.
        wavelengths: centre of each band in nm, None where it is not known.
        nodata: stored number that means "no data" when all bands have it, None when none does.
    """

    domain: str
    sensor: str
    bands: tuple[str, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    units: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    wavelengths: tuple[float | None, ...] = ()
    nodata: float | None = None

    def __post_init__(self) -> None:
        """Check that there is one number per band and that each can be used."""
        per_band = ("scale", "offset", "mean", "std", "low", "high")
        lengths = {name: len(getattr(self, name)) for name in per_band}
        lengths["wavelengths"] = len(self.wavelengths or self.bands)
        remedy = "take the file that curation wrote"
        for name, length in lengths.items():
            if length != len(self.bands):
                reason = f"has {length} numbers for {len(self.bands)} bands"
                raise UsageError(f"normaliser.{name}", reason, remedy)
            if name != "wavelengths" and not np.isfinite(getattr(self, name)).all():
                raise UsageError(f"normaliser.{name}", "is not finite", remedy)
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise UsageError("normaliser.bands", "must be distinct names", remedy)
        if min(self.std) <= 0 or 0 in self.scale:
            raise UsageError("normaliser", "std must be positive and scale not zero", remedy)

    def __call__(self, images: Stored, valid: Valid = None) -> Float[Tensor, "b c *s"]:
        """Turn stored numbers into float32 network input.

        Args:
            images: stored numbers of any number type, channels as `bands`.
            valid: True where there is data; None when everywhere.

        Returns:
            Standardised values on the device of `images`; 0, the mean, where a pixel is invalid or
            a value not finite.

        Raises:
            UsageError: when the number of channels is not that of the bands.
        """
        stored = _tensor(images)
        refuse_other_channels(self.bands, stored.shape[1])
        finite = torch.isfinite(stored) if stored.is_floating_point() else None
        factor, summand, low, high = self.coefficients(stored)
        values = torch.addcmul(summand, stored.to(torch.float32), factor)
        values = torch.minimum(torch.maximum(values, low, out=values), high, out=values)
        if finite is not None:
            values.masked_fill_(~finite, 0.0)
        if valid is not None:
            values.masked_fill_(~_tensor(valid).to(values.device).unsqueeze(1), 0.0)
        return values

    def denormalise(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """Turn network input, or a reconstruction of it, into physical units.

        What was clipped stays clipped.

        Raises:
            UsageError: when the number of channels is not that of the bands.
        """
        refuse_other_channels(self.bands, images.shape[1])
        mean, std = _columns(images, [self.mean, self.std])
        return images.to(torch.float32) * std + mean

    def physical(self, images: Stored) -> Float[Tensor, "b c *s"]:
        """Turn stored numbers into physical units, neither clipped nor standardised.

        Raises:
            UsageError: when the number of channels is not that of the bands.
        """
        stored = _tensor(images)
        refuse_other_channels(self.bands, stored.shape[1])
        scale, offset = _columns(stored, [self.scale, self.offset])
        return stored.to(torch.float32) * scale + offset

    def find_data(self, images: Stored, valid: Valid = None) -> Bool[Tensor, "b *s"]:
        """Return where there is data, by what is known and by the stored numbers themselves.

        A file need not say what its numbers outside of the swath mean; the sensor does.

        Args:
            images: stored numbers.
            valid: what is known already; None when nothing is.
        """
        stored = _tensor(images)
        found = torch.ones_like(stored[:, 0], dtype=torch.bool)
        if stored.is_floating_point():
            found = torch.isfinite(stored).all(dim=1)
        if self.nodata is not None:
            found = found & (stored != self.nodata).any(dim=1)
        return found if valid is None else found & _tensor(valid).to(found.device)

    @property
    def zero(self) -> tuple[float, ...]:
        """The network input per band that stands for a physical value of zero."""
        return tuple(-m / s for m, s in zip(self.mean, self.std, strict=True))

    def check_bands(self, names: Sequence[str], subject: object = "the images") -> None:
        """Refuse other channels, or the same in another order.

        Raises:
            UsageError: naming what is missing, not wanted or out of order.
        """
        refuse_other_bands(self.bands, names, subject)

    def check_values(
        self, images: Stored, valid: Valid = None, subject: object = "the images"
    ) -> None:
        """Refuse numbers of another scale, such as reflectance where digital numbers are expected.

        It compares with the range that was seen when the normaliser was made: values are refused
        when half of them lie twenty such ranges away, when an image hardly varies at all and its
        stored numbers are those of physical units, or when a picture's number type ends below what
        is usual (an 8-bit copy of 16-bit data).

        Raises:
            DataError: when the values cannot be of the same kind.
        """
        stored = _tensor(images)
        self._check_type(stored.dtype, subject)
        low, high = _columns(stored, [self.low, self.high])
        values = self.physical(images)
        keep = torch.isfinite(values).all(dim=1)
        if valid is not None:
            keep &= _tensor(valid).to(keep.device)
        if not keep.any():
            return
        width = (high - low).clamp_min(torch.finfo(torch.float32).tiny)
        inside = ((values - low) / width).movedim(1, -1)[keep]
        remedy = f"give the numbers of {self.sensor}, or curate with the right sensor"
        if inside.median() > _FAR:
            raise DataError(
                subject, f"its values look like digital numbers, not {self.units}", remedy
            )
        # With a small scale, physical units all fall onto the offset.
        spread = inside.amax(dim=0) - inside.amin(dim=0)
        numbers = stored.to(torch.float32).movedim(1, -1)[keep].abs()
        small = max(map(abs, self.scale)) < _TINY and 0 < float(numbers.max()) <= 2.0
        if small and bool((spread < _TINY).all()):
            raise DataError(subject, f"its values look like {self.units} already", remedy)

    def check_scale(
        self, scale: Sequence[float], offset: Sequence[float], subject: object = "the images"
    ) -> None:
        """Refuse a file that states another scale than the normaliser's, and trust neither.

        Args:
            scale: factor that the file states per band; 1 with offset 0 states nothing.
            offset: summand that it states.
            subject: the file, for messages.

        Raises:
            DataError: naming both.
        """
        known = list(zip(self.scale, self.offset, strict=True))
        said = list(zip(scale, offset, strict=True))
        refuse_other_scale(self.bands, known, said, subject, self.sensor)

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

    @staticmethod
    def from_statistics(
        statistics: Statistics,
        meta: StoreMeta,
        *,
        wavelengths: Sequence[float | None] = (),
        clip: tuple[float, float] = CLIP_SHARES,
    ) -> Normaliser:
        """Make a normaliser from counts.

        Args:
            statistics: of the stored numbers.
            meta: names, scale and units.
            wavelengths: centre of each band in nm.
            clip: shares of the pixels between which values are not clipped.

        Raises:
            DataError: when a band has no valid pixel.
        """
        values = statistics.values()
        numbers = []
        for band, counts in zip(meta.bands, statistics.counts, strict=True):
            if not counts.any():
                raise DataError(
                    f"band {band} of {meta.sensor}", "has no valid pixel", "leave the band out"
                )
            numbers.append(_describe(values, counts, clip))
        scale, offset = np.array(meta.scale), np.array(meta.offset)
        mean, std, first, last = np.array(numbers).T
        ends = np.stack([first, last]) * scale + offset
        std = std * np.abs(scale)
        return Normaliser(
            domain=meta.domain,
            sensor=meta.sensor,
            bands=tuple(meta.bands),
            scale=tuple(scale.tolist()),
            offset=tuple(offset.tolist()),
            units=meta.units,
            mean=tuple((mean * scale + offset).tolist()),
            # A band of one value is clipped to it and becomes 0 with any deviation.
            std=tuple(np.where(std > 0, std, 1.0).tolist()),
            low=tuple(ends.min(axis=0).tolist()),
            high=tuple(ends.max(axis=0).tolist()),
            wavelengths=tuple(wavelengths),
            # NaN needs no mention: a number that is not finite is never data.
            nodata=meta.nodata if math.isfinite(meta.nodata or 0) else None,
        )

    def _check_type(self, dtype: torch.dtype, subject: object) -> None:
        if dtype not in (torch.uint8, torch.int8):
            return
        most = torch.iinfo(dtype).max
        bands = zip(self.scale, self.offset, self.mean, strict=True)
        if all(max(most * scale, 0.0) + offset < mean for scale, offset, mean in bands):
            reason = f"holds numbers up to {most}, too small for {self.units} of {self.sensor}"
            raise DataError(subject, reason, "give the original and no 8-bit copy of it")

    def coefficients(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return factor, summand, low and high: one multiply-add and one clip do it all.

        Args:
            images: decides the device and the number of axes.
        """
        scale, offset, mean, std, low, high = (
            np.array(getattr(self, name), np.float64)
            for name in ("scale", "offset", "mean", "std", "low", "high")
        )
        rows = [scale / std, (offset - mean) / std, (low - mean) / std, (high - mean) / std]
        return _columns(images, rows)


def fit_normaliser(
    meta: StoreMeta,
    chunks: Iterable[tuple[np.ndarray, np.ndarray | None]],
    *,
    wavelengths: Sequence[float | None] = (),
    clip: tuple[float, float] = CLIP_SHARES,
) -> Normaliser:
    """Make a normaliser from chunks of pixels, in any order and of any size.

    Args:
        meta: names, scale and units.
        chunks: pairs of pixels (b, c, *s) as stored and valid (b, *s) or None.
        wavelengths: centre of each band in nm.
        clip: shares of the pixels between which values are not clipped.

    Raises:
        DataError: when a band has no valid pixel.
    """
    statistics: Statistics | None = None
    for pixels, valid in chunks:
        statistics = statistics or Statistics(len(meta.bands), pixels.dtype.name)
        statistics.update(pixels, valid)
    empty = Statistics(len(meta.bands), "uint8")
    return Normaliser.from_statistics(statistics or empty, meta, wavelengths=wavelengths, clip=clip)


def _describe(
    values: np.ndarray, counts: np.ndarray, clip: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Return mean and deviation of the clipped values, and the ends of the clip."""
    seen = np.flatnonzero(counts)
    values, counts = values[seen], counts[seen]
    total = counts.cumsum()
    ranks = [max(1, int(np.ceil(share * int(total[-1])))) for share in clip]
    first, last = (float(values[np.searchsorted(total, rank)]) for rank in ranks)
    clipped = np.clip(values, first, last)
    # Weights of an average over keys, which come in one order whoever counted.
    mean = float(np.average(clipped, weights=counts))
    std = float(np.sqrt(np.average((clipped - mean) ** 2, weights=counts)))
    return mean, std, first, last


def _tensor(array: np.ndarray | Tensor) -> Tensor:
    if isinstance(array, Tensor):
        return array
    if not array.flags.writeable:
        array = array.copy()  # torch would warn, and nothing here writes into its input
    return torch.from_numpy(array)


def _columns(images: Tensor, rows: Sequence[Sequence[float] | np.ndarray]) -> tuple[Tensor, ...]:
    """Return per-band numbers that broadcast over (b, c, *s), with one copy to the device."""
    table = torch.tensor(np.array(rows, np.float64), dtype=torch.float32, device=images.device)
    return tuple(table.reshape(len(rows), 1, -1, *[1] * (images.ndim - 2)))
