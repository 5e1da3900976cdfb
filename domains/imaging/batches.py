"""From stored samples of pictures to a batch, in every domain that has two axes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...core.batch import Batch
from ...core.errors import UsageError
from ...datasets.samples import Samples
from .augment import AugmentConfig, View, fit_size, random_view
from .normalise import Normaliser


def make_batch(
    samples: Samples,
    normaliser: Normaliser,
    *,
    size: tuple[int, ...] | None,
    augment: AugmentConfig | None,
    generator: torch.Generator | None,
    device: torch.device | str,
    mirrored: tuple[int, ...] | None = None,
) -> Batch:
    """Normalise samples and move what belongs to them together.

    Args:
        samples: (b, c, h, w) pixels as stored, with what the store says of them.
        normaliser: that the pixels fit.
        size: height and width of the result; None keeps the stored size.
        augment: random views; None takes the largest central part of the right shape, resized.
        generator: source of all randomness; needed when augmenting.
        device: where the batch is made; pixels are moved there as stored.
        mirrored: what each region is in a mirrored image; None where regions have no sides.

    Returns:
        Normalised images, valid mask, labels and regions; ids are the rows.

    Raises:
        UsageError: when augmentation has no generator.
    """
    pixels = _move(samples.pixels, device)
    valid = None if samples.valid is None else _move(samples.valid, device)
    if pixels.is_floating_point():  # a reader may have missed what is no number
        valid = normaliser.find_data(pixels, valid)
    labels = None if samples.labels is None else _move(samples.labels, device).long()
    regions = None if samples.regions is None else _move(samples.regions, device).long()
    view = View(normaliser(pixels, valid), valid, labels, regions)
    ids = torch.as_tensor(samples.rows, dtype=torch.int64)
    shape = None if size is None else (size[0], size[1])
    if augment is None:
        view = fit_size(view, shape)
    elif generator is None:
        hint = "pass one made from (seed, epoch, step)"
        raise UsageError("augmentation", "has no generator", hint)
    else:
        view = random_view(
            view, ids, augment, generator, size=shape, zero=normaliser.zero, mirrored=mirrored
        )
    return Batch(view.images, view.valid, ids.to(device), view.labels, regions=view.regions)


def _move(array: np.ndarray, device: torch.device | str) -> Tensor:
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.to(device, non_blocking=True)
