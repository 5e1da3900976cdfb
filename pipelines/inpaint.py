"""Masked reconstruction beside interpolation: the same hidden pixels, guessed by both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core.batch import Batch, Progress
from ..core.masking.plan import count
from ..core.masking.strategies import RandomMask
from ..core.method import Method
from ..core.noise import Noise
from ..core.reconstruction import reconstruct
from .progress import track

BIHARMONIC = "biharmonic inpainting"

_FINISHED = Progress(1.0, 1)
_RELAXATIONS = 200  # enough for gaps of a dozen voxels


@dataclass(frozen=True, kw_only=True)
class ReconstructionScore:
    """Mean squared errors over hidden valid pixels, in normalised units (1 = a band's variance).

    Args:
        model: error of the model.
        biharmonic: error of interpolation from the visible pixels.
        visible_mean: error of each band's mean over the image's visible pixels.
        mask_ratio: share of tokens that were hidden, at random.
        num_images: images that were scored.
        leaked_statistics: true when the model's guess was given the mean and scale of each hidden
            patch (targets standardised per patch); it is then no fair comparison.
        interpolation: how it interpolates.
    """

    model: float
    biharmonic: float
    visible_mean: float
    mask_ratio: float
    num_images: int
    leaked_statistics: bool
    interpolation: str = BIHARMONIC

    @property
    def beats_interpolation(self) -> bool:
        """True when the model knew no more than the interpolation and came closer."""
        return not self.leaked_statistics and self.model < self.biharmonic


def biharmonic(
    image: Float[np.ndarray, "c h w"], known: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "c h w"]:
    """Fill the unknown pixels of an image by biharmonic inpainting (scikit-image)."""
    from skimage.restoration import inpaint_biharmonic

    return np.asarray(inpaint_biharmonic(image, ~known, channel_axis=0))


def harmonic(
    image: Float[np.ndarray, "c d h w"], known: Bool[np.ndarray, "d h w"]
) -> Float[np.ndarray, "c d h w"]:
    """Fill the unknown voxels of a volume: the nearest known ones, then each the mean around it.

    Biharmonic inpainting of a volume takes minutes. The mean of the six neighbours, repeated,
    comes to the solution of Laplace's equation.
    """
    from scipy.ndimage import distance_transform_edt

    places = distance_transform_edt(~known, return_distances=False, return_indices=True)
    filled = image[(slice(None), *np.asarray(places))].astype(np.float32)
    inner = (slice(None), *(slice(1, -1),) * 3)
    for _ in range(_RELAXATIONS):
        around = np.pad(filled, ((0, 0), (1, 1), (1, 1), (1, 1)), mode="edge")
        total = np.zeros_like(filled)
        for axis in (1, 2, 3):
            for part in (slice(None, -2), slice(2, None)):
                total += around[(*inner[:axis], part, *inner[axis + 1 :])]
        filled = np.where(known, filled, total / 6)
    return filled


def interpolated(
    image: Float[np.ndarray, "c *s"], known: Bool[np.ndarray, "*s"]
) -> Float[np.ndarray, "c *s"]:
    """Fill the unknown pixels of an image or volume."""
    return harmonic(image, known) if known.ndim == 3 else biharmonic(image, known)


def score_reconstruction(
    method: Method,
    batches: Iterable[Batch],
    *,
    seed: int,
    mask_ratio: float | None = None,
    total: int | None = None,
) -> ReconstructionScore:
    """Hide random tokens of every image and compare guesses of what is there.

    Args:
        method: predicts pixels, in evaluation mode.
        batches: held-out images.
        seed: of the masks, which do not depend on the method.
        mask_ratio: share of hidden tokens; what the method was trained with when None.
        total: number of batches, for the progress bar.

    Raises:
        UsageError: when the method predicts no pixels.
    """
    num_tokens = method.grid.num_tokens
    num_visible = method.mask.num_visible
    if mask_ratio is not None:
        num_visible = count(num_tokens, 1 - mask_ratio)
    strategy = RandomMask(num_visible, num_tokens - num_visible)
    noise = Noise(seed)
    squares, pixels, images, leaked = np.zeros(3), 0, 0, False
    for batch in track(batches, "reconstruction", total):
        with torch.inference_mode():
            plan = strategy(method.context(batch, _FINISHED, noise))
            output = method(batch, _FINISHED, noise, plan)
            result = reconstruct(method, output)
        leaked = result.leaked_statistics
        scored = result.predicted.bool()[:, 0]
        if batch.valid is not None:
            scored = scored & batch.valid
        for guess, truth, seen, where in _images(batch, result.pasted, result.visible, scored):
            squares += _errors(guess, truth, seen, where)
            pixels += int(where.sum()) * truth.shape[0]
            images += 1
    model, smooth, flat = (squares / max(pixels, 1)).tolist()
    return ReconstructionScore(
        model=model,
        biharmonic=smooth,
        visible_mean=flat,
        mask_ratio=1 - num_visible / num_tokens,
        num_images=images,
        leaked_statistics=leaked,
        interpolation=("harmonic interpolation" if method.grid.ndim == 3 else BIHARMONIC),
    )


def _images(
    batch: Batch, pasted: Tensor, visible: Tensor, scored: Tensor
) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (guess, truth, seen, scored) of each image that has something to score."""
    seen = visible.bool()[:, 0]
    if batch.valid is not None:
        seen = seen & batch.valid
    truth = batch.images.float().nan_to_num()
    usable = seen.flatten(1).any(dim=1) & scored.flatten(1).any(dim=1)
    for place in usable.nonzero()[:, 0].tolist():
        yield tuple(part[place].cpu().numpy() for part in (pasted, truth, seen, scored))  # pyright: ignore[reportReturnType]


def _errors(
    guess: np.ndarray, truth: np.ndarray, seen: np.ndarray, scored: np.ndarray
) -> np.ndarray:
    """Return sums of squared errors of the model, of interpolation and of the visible mean."""
    known = np.where(seen, truth, 0.0)
    mean = truth[:, seen].mean(axis=1)[:, None]
    return np.array(
        [
            np.square(guess[:, scored] - truth[:, scored]).sum(),
            np.square(interpolated(known, seen)[:, scored] - truth[:, scored]).sum(),
            np.square(mean - truth[:, scored]).sum(),
        ],
        dtype=np.float64,
    )
