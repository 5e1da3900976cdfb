"""The face domain: crops of faces in red, green and blue."""

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
from ..imaging.normalise import fit_normaliser
from .crop import refuse_other_crop
from .normalise import FaceNormaliser, crop_of, fit_faces
from .parsing import MIRRORED

Views = AugmentConfig | bool
"""Random views: a configuration, True for the usual one, False for none."""


@dataclass(frozen=True)
class FaceDomain:
    """Crops of faces, upright, mirrored at most.

    Attributes:
        augmentation: what `augment=True` means.
    """

    augmentation: AugmentConfig = field(default_factory=lambda: AugmentConfig(rotate=False))
    name: str = "faces"

    def normaliser(self, stored: Mapping[str, Any]) -> FaceNormaliser:
        """Rebuild a normaliser from plain data.

        Raises:
            UsageError: for an unknown or missing entry, or one of another domain.
        """
        return of_domain(FaceNormaliser.from_dict(stored), self.name)

    def fit(
        self, meta: StoreMeta, chunks: Iterable[tuple[np.ndarray, np.ndarray | None]]
    ) -> FaceNormaliser:
        """Make the normaliser of a store from chunks of its (pixels, valid), in any order.

        Raises:
            DataError: when there is no valid pixel.
        """
        return fit_faces(fit_normaliser(meta, chunks, clip=(0.0, 1.0)), meta.facts)

    def to_batch(
        self,
        samples: Samples,
        meta: StoreMeta,
        normaliser: AnyNormaliser,
        *,
        size: tuple[int, ...] | None = None,
        augment: Views = False,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Batch:
        """Turn stored faces into a batch for a network; maps of regions move with the pixels.

        Args:
            samples: what a store or loader handed over.
            meta: what the samples have in common.
            normaliser: of the store, or of the model that is to read the samples.
            size: height and width of the result; None keeps the stored size.
            augment: False for evaluation, True for the usual augmentation, or a configuration.
            generator: source of all randomness; needed when augmenting.
            device: where the batch is made.

        Raises:
            UsageError: when the channels of samples and normaliser differ, augmentation has no
                generator, or it would turn faces upside down.
            DataError: when the samples were cropped by another transform than the normaliser's.
        """
        own = self._own(normaliser)
        own.check_bands(meta.bands, f"store of {meta.sensor}")
        if own.crop is not None:
            refuse_other_crop(own.crop, crop_of(meta.facts), f"store of {meta.sensor}")
        config = (self.augmentation if augment else None) if isinstance(augment, bool) else augment
        if config is not None and config.rotate:
            remedy = "use --augment.no-rotate, or a recipe of faces"
            raise UsageError("augment.rotate", "would turn faces upside down", remedy)
        return make_batch(
            samples,
            own,
            size=size,
            augment=config,
            generator=generator,
            device=device,
            mirrored=MIRRORED,
        )

    def scene_bands(
        self, normaliser: AnyNormaliser, names: Sequence[str], subject: object = "the picture"
    ) -> tuple[str, ...]:
        """Return what a file calls the normaliser's channels, in the normaliser's order.

        Raises:
            UsageError: naming the channels that are missing.
        """
        called = {name.lower(): name for name in names}
        missing = [band for band in normaliser.bands if band not in called]
        if missing:
            reason = f"lacks {', '.join(missing)}"
            raise UsageError(subject, reason, f"give {', '.join(normaliser.bands)}")
        return tuple(called[band] for band in normaliser.bands)

    def export_module(self, normaliser: AnyNormaliser) -> NormaliserModule:
        """Return a normaliser as a module that exports can hold."""
        return NormaliserModule(self._own(normaliser))

    def display_bands(self, source: StoreMeta | AnyNormaliser) -> tuple[int, int, int]:
        """Return which channels to show as red, green and blue."""
        del source
        return 0, 1, 2

    def to_rgb(
        self, images: Float[Tensor, "b c *s"], bands: tuple[int, int, int], valid: Valid = None
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Turn intensities, 0 to 1, into pictures; they are shown as they are, never stretched."""
        shown = images[:, list(bands)].detach().float().cpu().nan_to_num().clamp(0, 1)
        if valid is not None:
            shown = shown * torch.as_tensor(valid).cpu().unsqueeze(1)
        return (shown * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def describe(self, source: StoreMeta | AnyNormaliser) -> str:
        """Say in one line what the images are."""
        text = f"faces ({', '.join(source.bands)}) in {source.units}"
        crop = source.crop if isinstance(source, FaceNormaliser) else None
        if isinstance(source, StoreMeta):
            crop = crop_of(source.facts)
            size = " x ".join(map(str, source.size))
            text += f", {source.num_samples} crops of {size} pixels as {source.dtype}"
        return text if crop is None else f"{text}, cropped as {crop.name}"

    def _own(self, normaliser: AnyNormaliser) -> FaceNormaliser:
        if isinstance(normaliser, FaceNormaliser):
            return normaliser
        return self.normaliser(normaliser.to_dict())


FACES = FaceDomain()
