"""The CT domain: volumes in Hounsfield units, in the geometry of the scanner."""

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
from ...datasets.errors import DataError
from ...datasets.samples import Samples
from ...datasets.store import StoreMeta
from ..domain import Normaliser as AnyNormaliser
from ..domain import Valid, of_domain
from ..planes import flat
from .augment import VolumeAugmentConfig, VolumeView, fit_size, random_view
from .export import NormaliserModule
from .hounsfield import WINDOW
from .normalise import UNITS, Normaliser, as_tensor

_SHOWN = (-160.0, 240.0)  # HU of black and white: width 400, level 40, the usual abdominal window


@dataclass(frozen=True)
class CtDomain:
    """Computed tomography.

    Attributes:
        augmentation: what `augment=True` means.
    """

    augmentation: VolumeAugmentConfig = field(default_factory=VolumeAugmentConfig)
    name: str = "ct"

    def normaliser(self, stored: Mapping[str, Any]) -> Normaliser:
        """Rebuild a normaliser from plain data.

        Raises:
            UsageError: for an unknown or missing entry, or one of another domain.
        """
        return of_domain(Normaliser.from_dict(stored), self.name)

    def fit(
        self,
        meta: StoreMeta,
        chunks: Iterable[tuple[np.ndarray, np.ndarray | None]],
    ) -> Normaliser:
        """Make the normaliser of a store; Hounsfield units need no statistics.

        Args:
            meta: of the store, whose facts may say a window (HU) and a spacing (mm).
            chunks: pairs of pixels (b, 1, d, h, w) and valid; one with data is enough.

        Raises:
            DataError: when no voxel is valid.
        """
        if not any(valid is None or bool(valid.any()) for _, valid in chunks):
            raise DataError(f"store of {meta.sensor}", "has no valid pixel", "curate again")
        return Normaliser(
            scale=meta.scale,
            offset=meta.offset,
            window=_window(meta),
            spacing=spacing_of(meta),
            sensor=meta.sensor,
            bands=meta.bands,
            units=meta.units or UNITS,
        )

    def to_batch(
        self,
        samples: Samples,
        meta: StoreMeta,
        normaliser: AnyNormaliser,
        *,
        size: tuple[int, ...] | None = None,
        augment: VolumeAugmentConfig | bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Batch:
        """Turn stored samples into a batch for a network.

        Args:
            samples: what a store or loader handed over.
            meta: what the samples have in common.
            normaliser: of the store, or of the model that is to read the samples.
            size: depth, height and width of the result, cut from the stored sample (the middle, or
                at random) and never resized; None keeps the stored size.
            augment: False for evaluation, True for the usual augmentation, or a configuration.
            generator: source of all randomness; needed when augmenting.
            device: where the batch is made; voxels are moved there as stored.

        Returns:
            Normalised volumes, valid mask and labels, moved together; ids are the rows.

        Raises:
            UsageError: when samples and normaliser differ in channel or spacing, or augmentation
                has no generator.
        """
        own = self._own(normaliser)
        own.check_bands(meta.bands, f"store of {meta.sensor}")
        _check_spacing(own, meta)
        stored = as_tensor(samples.pixels).to(device, non_blocking=True)
        valid = samples.valid if samples.valid is None else as_tensor(samples.valid).to(device)
        if stored.is_floating_point():  # a reader may have missed what is no number
            valid = own.find_data(stored, valid)
        labels = None if samples.labels is None else as_tensor(samples.labels).to(device).long()
        view = VolumeView(own(stored, valid), valid, labels)
        rows = torch.as_tensor(samples.rows, dtype=torch.int64)
        if augment is False:
            view = fit_size(view, size)
        else:
            config = self.augmentation if augment is True else augment
            if not isinstance(config, VolumeAugmentConfig):
                kind = type(config).__name__
                raise UsageError(
                    "augment", f"is {kind}", "use a ct recipe, whose views are volumes"
                )
            if generator is None:
                hint = "pass one made from (seed, epoch, step)"
                raise UsageError("augmentation", "has no generator", hint)
            view = random_view(view, rows, config, generator, size=size)
        return Batch(view.images, view.valid, rows.to(device), view.labels)

    def scene_bands(
        self, normaliser: AnyNormaliser, names: Sequence[str], subject: object = "the volume"
    ) -> tuple[str, ...]:
        """Return what a file calls the one channel.

        Raises:
            UsageError: when there is no such channel.
        """
        missing = [name for name in normaliser.bands if name not in names]
        if missing:
            wanted = f"give a file with {', '.join(normaliser.bands)}"
            raise UsageError(subject, f"lacks {', '.join(missing)}", wanted)
        return normaliser.bands

    def export_module(self, normaliser: AnyNormaliser) -> NormaliserModule:
        """Return a normaliser as a module that exports can hold."""
        return NormaliserModule(self._own(normaliser))

    def display_bands(self, source: StoreMeta | AnyNormaliser) -> tuple[int, int, int]:
        """Return the one channel three times: a CT is shown in grey."""
        del source
        return 0, 0, 0

    def to_rgb(
        self, images: Float[Tensor, "b c *s"], bands: tuple[int, int, int], valid: Valid = None
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Turn Hounsfield units into pictures in the abdominal window (level 40, width 400).

        Args:
            images: HU; of volumes the three planes through the middle are shown.
            bands: channels to show.
            valid: True where there is data; other voxels are black.
        """
        rank = images.ndim - 2
        shown = flat(images[:, list(bands)].detach().float(), rank, fill=_SHOWN[0]).cpu()
        low, high = _SHOWN
        grey = ((shown - low) / (high - low)).nan_to_num(0.0).clamp(0.0, 1.0)
        if valid is not None:
            keep = flat(torch.as_tensor(valid).cpu(), rank)
            grey = grey.masked_fill(~keep.unsqueeze(1), 0.0)
        return (grey * 255).round().to(torch.uint8).movedim(1, -1).numpy()

    def describe(self, source: StoreMeta | AnyNormaliser) -> str:
        """Say in one line what the volumes are."""
        text = f"{source.sensor}, {', '.join(source.bands)} in {source.units or UNITS}"
        spacing = spacing_of(source)
        if spacing is not None:
            text += f", {' x '.join(f'{step:g}' for step in spacing)} mm"
        if isinstance(source, StoreMeta):
            return f"{text}, {' x '.join(map(str, source.size))} voxels, {source.dtype}"
        if isinstance(source, Normaliser):
            text += f", window {source.window[0]:g} to {source.window[1]:g}"
        return text

    def _own(self, normaliser: AnyNormaliser) -> Normaliser:
        if not isinstance(normaliser, Normaliser):
            reason = f"is of domain {normaliser.domain!r}"
            raise UsageError("normaliser", reason, "give one of domain 'ct'")
        return normaliser


def spacing_of(source: StoreMeta | AnyNormaliser) -> tuple[float, float, float] | None:
    """Return mm between voxels along depth, height and width; None where samples differ."""
    if isinstance(source, StoreMeta):
        spacing = source.facts.get("spacing")
    else:
        spacing = getattr(source, "spacing", None)
    return None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2]))


def _window(meta: StoreMeta) -> tuple[float, float]:
    low, high = meta.facts.get("window", WINDOW)
    return float(low), float(high)


def _check_spacing(normaliser: Normaliser, meta: StoreMeta) -> None:
    """Refuse a model that was trained on another grid: things would have another size in it."""
    known, have = normaliser.spacing, spacing_of(meta)
    if known is None or have is None or np.allclose(known, have, rtol=1e-3):
        return
    words = [" x ".join(f"{step:g}" for step in spacing) for spacing in (have, known)]
    reason = f"has voxels of {words[0]} mm, and the normaliser is for {words[1]} mm"
    raise UsageError(f"store of {meta.sensor}", reason, "curate with --spacing of the model")


CT = CtDomain()
