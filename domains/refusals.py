"""Refusals that normalisers of all domains share: other channels, another stated scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.errors import UsageError
from ..datasets.errors import DataError


def refuse_other_bands(bands: Sequence[str], names: Sequence[str], subject: object) -> None:
    """Refuse other channels, or the same in another order.

    Args:
        bands: what is wanted.
        names: what there is.
        subject: the file, for messages.

    Raises:
        UsageError: naming what is missing, not wanted or out of order.
    """
    if tuple(names) == tuple(bands):
        return
    missing = [name for name in bands if name not in names]
    surplus = [name for name in names if name not in bands]
    wanted = f"give {', '.join(bands)} in this order"
    parts = [f"lacks {', '.join(missing)}"] if missing else []
    parts += [f"has {', '.join(surplus)} besides"] if surplus else []
    reason = " and ".join(parts) or f"has its bands in another order, {', '.join(names)}"
    raise UsageError(subject, f"{reason}, and the normaliser is for other bands", wanted)


def refuse_other_scale(
    bands: Sequence[str],
    known: Sequence[tuple[float, float]],
    said: Sequence[tuple[float, float]],
    subject: object,
    sensor: str,
) -> None:
    """Refuse a file that states another scale than the normaliser's, and trust neither.

    Args:
        bands: names of the channels.
        known: (scale, offset) of the normaliser per band.
        said: (scale, offset) that the file states; (1, 0) states nothing.
        subject: the file, for messages.
        sensor: what the numbers should be of.

    Raises:
        DataError: naming both.
    """
    for name, ours, theirs in zip(bands, known, said, strict=True):
        if theirs == (1.0, 0.0) or np.allclose(theirs, ours, rtol=1e-4, atol=1e-9):
            continue
        raise DataError(
            subject,
            f"states scale and offset {theirs} for band {name}, and the normaliser has {ours}",
            f"give the numbers of {sensor}, or take a model of this kind of data",
        )


def refuse_other_channels(bands: Sequence[str], num_channels: int) -> None:
    """Raise UsageError when images have another number of channels than there are bands."""
    if num_channels != len(bands):
        reason = f"have {num_channels} channels, and the normaliser is for {len(bands)}"
        raise UsageError("the images", reason, f"give {', '.join(bands)}")
