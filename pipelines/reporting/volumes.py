"""How images of any rank are shown on a page: volumes as their three planes."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Int, Shaped
from torch import Tensor

from ...core.objectives.labels import IGNORED
from ...domains.domain import Normaliser
from ...domains.planes import flat

_TOP_DEVIATIONS = 2.0
_TOP_SHARE = 0.25  # of a window, whose width is 1 in network input


class Look:
    """Shows images, masks and labels of one batch, all through the same planes.

    Args:
        normaliser: tells how long a voxel is.
        rank: axes of an image.
        centre: voxel where the planes meet; None for the middle.
        patch: pixels that one value stands for along each axis; None for one.
    """

    def __init__(
        self,
        normaliser: Normaliser,
        rank: int,
        centre: Sequence[int] | None = None,
        patch: Sequence[int] | None = None,
    ) -> None:
        spacing: Sequence[float] = getattr(normaliser, "spacing", None) or (1.0,) * rank
        steps = patch or (1,) * rank
        self.spacing = tuple(a * b for a, b in zip(spacing, steps, strict=True))
        self.rank, self.centre = rank, centre

    def __call__(self, values: Shaped[Tensor, "b *s"], fill: float = 0) -> Shaped[Tensor, "b *p"]:
        """Return what can be shown; see `flat`."""
        return flat(values, self.rank, self.spacing, fill=fill, centre=self.centre)


def middle_of(labels: Int[Tensor, "*s"]) -> tuple[int, ...] | None:
    """Return a place inside of what is labelled, not counting the first class; None without any.

    It is the labelled pixel nearest to the median along each axis, so that no plane misses it.
    """
    places = ((labels > 0) & (labels != IGNORED)).nonzero()
    if not len(places):
        return None
    median = places.median(dim=0).values
    nearest = (places - median).square().sum(dim=1).argmin()
    return tuple(places[nearest].tolist())


def brightest_error(normaliser: Normaliser) -> tuple[float, str]:
    """Return the error, in network input, at which a picture of errors is brightest, and words."""
    window: tuple[float, float] | None = getattr(normaliser, "window", None)
    if window is None:
        words = f"{_TOP_DEVIATIONS:g} deviations of a band, root mean square over bands"
        return _TOP_DEVIATIONS, words
    width = _TOP_SHARE * (window[1] - window[0])
    return _TOP_SHARE, f"{width:.0f} {normaliser.units} and more"


def planes_in_words(rank: int) -> str:
    """Say which planes pictures of volumes show; empty for other images."""
    if rank != 3:
        return ""
    return (
        " Planes from left to right: axial (the patient's right is on the left), coronal and "
        "sagittal (the head is up, the sagittal one looks to the left)."
    )
