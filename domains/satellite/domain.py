"""The satellite domain: multispectral scenes and overhead photographs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ...core.batch import Batch
from ...core.errors import UsageError
from ...datasets.samples import Samples
from ...datasets.store import StoreMeta
from ..domain import Normaliser as AnyNormaliser
from ..domain import Valid, of_domain
from ..imaging.augment import AugmentConfig
from ..imaging.batches import make_batch
from ..imaging.export import NormaliserModule
from ..imaging.normalise import Normaliser, fit_normaliser
from .sensors import Band, Sensor, band_key, load_sensor, match_bands, sensors_named, unnamed

_RGB = (660.0, 560.0, 485.0)  # nm, centres of red, green and blue of most instruments
_NEAR = 45.0  # nm, how far from it a band still shows the colour
_STRETCH = (0.02, 0.98)  # shares of the pixels that become black and white


@dataclass(frozen=True)
class SatelliteDomain:
    """Multispectral scenes and overhead photographs, seen from above in any direction.

    Attributes:
        augmentation: what `augment=True` means.
    """

    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    name: str = "satellite"

    def normaliser(self, stored: Mapping[str, Any]) -> Normaliser:
        """Rebuild a normaliser from plain data.

        Raises:
            UsageError: for an unknown or missing entry, or one of another domain.
        """
        return of_domain(Normaliser.from_dict(stored), self.name)

    def fit(
        self, meta: StoreMeta, chunks: Iterable[tuple[np.ndarray, np.ndarray | None]]
    ) -> Normaliser:
        """Make the normaliser of a store from chunks of its (pixels, valid), in any order.

        Raises:
            DataError: when a band has no valid pixel.
        """
        return fit_normaliser(meta, chunks, wavelengths=wavelengths(meta.sensor, meta.bands))

    def to_batch(
        self,
        samples: Samples,
        meta: StoreMeta,
        normaliser: AnyNormaliser,
        *,
        size: tuple[int, ...] | None = None,
        augment: AugmentConfig | bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Batch:
        """Turn stored samples into a batch for a network.

        Args:
            samples: what a store or loader handed over.
            meta: what the samples have in common.
            normaliser: of the store, or of the model that is to read the samples.
            size: height and width of the result; None keeps the stored size.
            augment: False for evaluation (the largest central part of the right shape, resized),
                True for the usual augmentation, or a configuration.
            generator: source of all randomness; needed when augmenting.
            device: where the batch is made; pixels are moved there as stored.

        Returns:
            Normalised images, valid mask and labels, moved together; ids are the rows.

        Raises:
            UsageError: when the channels of samples and normaliser differ, or augmentation has no
                generator.
        """
        own = self._own(normaliser)
        own.check_bands(meta.bands, f"store of {meta.sensor}")
        config = (self.augmentation if augment else None) if isinstance(augment, bool) else augment
        return make_batch(
            samples, own, size=size, augment=config, generator=generator, device=device
        )

    def scene_bands(
        self, normaliser: AnyNormaliser, names: Sequence[str], subject: object = "the scene"
    ) -> tuple[str, ...]:
        """Return what a file calls the normaliser's channels, in the normaliser's order.

        A file that names none of its bands is taken by their places, if it has as many.

        Raises:
            UsageError: naming the channels that are missing or ambiguous, or when the file's
                official name says that it is of another sensor or delivery.
        """
        sensor = _sensor(normaliser)
        others = [other.name for other in sensors_named(str(subject))]
        if sensor.files and others and sensor.name not in others:
            reason = f"is of {' or '.join(others)} by its name, and {sensor.name} is wanted"
            hint = "choose what fits, or rename it if its numbers were changed"
            raise UsageError(subject, reason, hint)
        if unnamed(names):
            if len(names) == len(normaliser.bands):
                return tuple(names)
            reason = f"names none of its {len(names)} bands"
            wanted = f"give a file with {', '.join(normaliser.bands)} in this order, or name them"
            raise UsageError(subject, reason, wanted)
        found = match_bands(sensor, names, normaliser.bands, subject)
        return tuple(found.values())

    def export_module(self, normaliser: AnyNormaliser) -> NormaliserModule:
        """Return a normaliser as a module that exports can hold."""
        return NormaliserModule(self._own(normaliser))

    def display_bands(self, source: StoreMeta | AnyNormaliser) -> tuple[int, int, int]:
        """Return which channels to show as red, green and blue.

        Without these colours (radar, elevation) the first three channels are shown, or the first
        as grey.
        """
        centres = _wavelengths(source)
        found = [_closest(centres, wanted) for wanted in _RGB]
        if None not in found and len(set(found)) == 3:
            return found[0] or 0, found[1] or 0, found[2] or 0
        names = [band_key(name) for name in source.bands]
        if {"red", "green", "blue"} <= set(names):
            return names.index("red"), names.index("green"), names.index("blue")
        return (0, 1, 2) if len(names) > 2 else (0, 0, 0)

    def to_rgb(
        self, images: Float[Tensor, "b c *s"], bands: tuple[int, int, int], valid: Valid = None
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Turn images in physical units into pictures for people.

        Each picture is stretched by itself, with one stretch for all three colours so that colours
        stay true; invalid pixels are black.

        Args:
            images: physical units, what `denormalise` returns.
            bands: channels to show as red, green and blue.
            valid: True where there is data.
        """
        shown = images[:, list(bands)].detach().float().cpu().numpy()
        mask = np.asarray(np.isfinite(shown).all(axis=1))
        if valid is not None:
            mask = mask & np.asarray(torch.as_tensor(valid).cpu())
        pictures = [_stretch(image, keep) for image, keep in zip(shown, mask, strict=True)]
        return np.stack(pictures) if pictures else np.zeros((0, *shown.shape[2:], 3), np.uint8)

    def describe(self, source: StoreMeta | AnyNormaliser) -> str:
        """Say in one line what the images are: sensor, bands, units, size."""
        names = ", ".join(source.bands)
        text = f"{source.sensor}, {len(source.bands)} bands ({names})"
        if source.units:
            text += f" in {source.units}"
        if isinstance(source, StoreMeta):
            size = " x ".join(map(str, source.size))
            text += f", {source.num_samples} tiles of {size} pixels as {source.dtype}"
        return text

    def _own(self, normaliser: AnyNormaliser) -> Normaliser:
        if isinstance(normaliser, Normaliser):
            return normaliser
        return self.normaliser(normaliser.to_dict())


def wavelengths(sensor: str, bands: Sequence[str]) -> tuple[float | None, ...]:
    """Return the centre of each band in nm; empty for a sensor that is not one of ours.

    Args:
        sensor: name of the sensor.
        bands: names of its bands.
    """
    try:
        return tuple(band.wavelength for band in load_sensor(sensor).select(bands))
    except UsageError:
        return ()


def _sensor(normaliser: AnyNormaliser) -> Sensor:
    """Return the normaliser's sensor; a user's own one is known by its band names alone."""
    try:
        sensor = load_sensor(normaliser.sensor)
        sensor.select(normaliser.bands)
        return sensor
    except UsageError:
        bands = tuple(Band(name=name) for name in normaliser.bands)
        return Sensor(
            name=normaliser.sensor,
            title=normaliser.sensor,
            units=normaliser.units,
            bands=bands,
            dtypes=(),
        )


def _wavelengths(source: StoreMeta | AnyNormaliser) -> tuple[float | None, ...]:
    if isinstance(source, Normaliser) and source.wavelengths:
        return source.wavelengths
    return wavelengths(source.sensor, source.bands)


def _closest(centres: Sequence[float | None], wanted: float) -> int | None:
    """Return the band nearest to a wavelength, None when none is near."""
    gaps = {i: abs(c - wanted) for i, c in enumerate(centres) if c is not None}
    best = min(gaps, key=gaps.__getitem__, default=None)
    return best if best is not None and gaps[best] <= _NEAR else None


def _stretch(image: Float[np.ndarray, "3 h w"], keep: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture whose darkest and brightest shares of valid pixels are black and white."""
    picture = np.zeros((*image.shape[1:], 3), np.uint8)
    if keep.any():
        low, high = np.quantile(image[:, keep], _STRETCH)
        scaled = (image[:, keep] - low) / max(float(high - low), 1e-12)
        picture[keep] = (scaled.clip(0, 1) * 255).round().astype(np.uint8).T
    return picture


SATELLITE = SatelliteDomain()
