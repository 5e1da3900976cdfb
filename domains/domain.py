"""The contract that every domain fills, and how a domain is found by its name.

A domain says what is true of its images and nothing else: how stored numbers become physical units
and network input, which changes of an image keep its meaning, and how to show it to a person. It
does so for any number of axes: a slice, photograph or scene has (b, c, h, w), a volume
(b, c, d, h, w).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import UsageError
from ..datasets.samples import Samples
from ..datasets.store import StoreMeta

Stored = Shaped[np.ndarray, "b c *s"] | Shaped[Tensor, "b c *s"]
"""Numbers as a file or store holds them."""

Valid = Bool[np.ndarray, "b *s"] | Bool[Tensor, "b *s"] | None
"""Where there is data; None when everywhere."""

DOMAINS = {
    "ct": "mimkit.domains.ct.domain:CT",
    "faces": "mimkit.domains.faces.domain:FACES",
    "satellite": "mimkit.domains.satellite.domain:SATELLITE",
}
"""Domain by name, as "module:attribute"; a module is imported when its domain is asked for."""


@runtime_checkable
class Normaliser(Protocol):
    """From stored numbers to network input and back; part of every store, model and export."""

    @property
    def domain(self) -> str:
        """Name of the domain that made it."""
        ...

    @property
    def sensor(self) -> str:
        """Name of the sensor."""
        ...

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the channels, in the only order that is accepted."""
        ...

    @property
    def units(self) -> str:
        """Physical units between scaling and standardising."""
        ...

    def __call__(self, images: Stored, valid: Valid = None) -> Float[Tensor, "b c *s"]:
        """Turn stored numbers into float32 network input; 0 where there is no data."""
        ...

    def find_data(self, images: Stored, valid: Valid = None) -> Bool[Tensor, "b *s"]:
        """Return where there is data: where `valid` says so and no number means "no data"."""
        ...

    def check_values(
        self, images: Stored, valid: Valid = None, subject: object = "the images"
    ) -> None:
        """Raise DataError when the stored numbers are of another scale than the normaliser's."""
        ...

    def check_scale(
        self, scale: Sequence[float], offset: Sequence[float], subject: object = "the images"
    ) -> None:
        """Raise DataError when a file states another scale per channel than the normaliser's."""
        ...

    def denormalise(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """Turn network input or a reconstruction of it into physical units."""
        ...

    def check_bands(self, names: Sequence[str], subject: object) -> None:
        """Raise UsageError unless names and order of the channels are the normaliser's."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON that `Domain.normaliser` reads."""
        ...


class ExportModule(nn.Module, ABC):
    """A normaliser whose operations a tracer can record, for graphs that run without us."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """Turn stored numbers, given as float32, into what `Normaliser.__call__` gives."""

    @abstractmethod
    def invert(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """Return the stored numbers, as float32, that stand for a network input."""


@runtime_checkable
class Domain(Protocol):
    """What is true of a domain."""

    @property
    def name(self) -> str:
        """Name under which it is registered and which stores and models carry."""
        ...

    def normaliser(self, stored: Mapping[str, Any]) -> Normaliser:
        """Rebuild a normaliser from plain data.

        Raises:
            UsageError: for an unknown or missing entry, or one of another domain.
        """
        ...

    def fit(
        self, meta: StoreMeta, chunks: Iterable[tuple[np.ndarray, np.ndarray | None]]
    ) -> Normaliser:
        """Make the normaliser of a store from chunks of its (pixels, valid), in any order.

        Raises:
            DataError: when there is no valid pixel.
        """
        ...

    def to_batch(
        self,
        samples: Samples,
        meta: StoreMeta,
        normaliser: Normaliser,
        *,
        size: tuple[int, ...] | None = None,
        augment: Any = False,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Batch:
        """Turn stored samples into a batch for a network.

        Args:
            samples: what a store or loader handed over.
            meta: what the samples have in common.
            normaliser: of the store, or of the model that is to read the samples.
            size: pixels per axis of the result; None keeps the stored size.
            augment: False for evaluation, True for the domain's usual augmentation, or the
                domain's own configuration.
            generator: source of all randomness; needed when augmenting.
            device: where the batch is made.

        Returns:
            A batch whose images, valid mask and labels were moved together; ids are the rows.

        Raises:
            UsageError: when the channels of samples and normaliser differ.
        """
        ...

    def scene_bands(
        self, normaliser: Normaliser, names: Sequence[str], subject: object = "the scene"
    ) -> tuple[str, ...]:
        """Return what a file calls the normaliser's channels, in the normaliser's order.

        Raises:
            UsageError: naming the channels that are missing or ambiguous.
        """
        ...

    def export_module(self, normaliser: Normaliser) -> ExportModule:
        """Return a normaliser as a module that exports can hold."""
        ...

    def display_bands(self, source: StoreMeta | Normaliser) -> tuple[int, int, int]:
        """Return which channels to show as red, green and blue."""
        ...

    def to_rgb(
        self, images: Float[Tensor, "b c *s"], bands: tuple[int, int, int], valid: Valid = None
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Turn images in physical units into pictures for people."""
        ...

    def describe(self, source: StoreMeta | Normaliser) -> str:
        """Say in one line what the images are: sensor, bands, units, size."""
        ...


N = TypeVar("N", bound=Normaliser)


def of_domain(normaliser: N, name: str) -> N:
    """Return a normaliser that was read, if it is one of a domain.

    Raises:
        UsageError: when it is of another domain.
    """
    if normaliser.domain != name:
        reason = f"belongs to domain {normaliser.domain!r}"
        raise UsageError("normaliser", reason, f"give one of domain {name!r}")
    return normaliser


def get_domain(name: str) -> Domain:
    """Return a domain by name; imports it when it is asked for the first time.

    Raises:
        UsageError: when there is no such domain.
    """
    if name not in DOMAINS:
        raise UsageError(f"domain {name!r}", "is not known", f"use one of {', '.join(DOMAINS)}")
    module, attribute = DOMAINS[name].split(":")
    return getattr(import_module(module), attribute)
