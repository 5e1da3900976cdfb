"""Held-out images, what an encoder saw of them, and what its decoder made of that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from ...core.batch import Batch, Progress
from ...core.checkpoints.model_dir import LoadedModel
from ...core.context import Context
from ...core.method import Method
from ...core.noise import Noise
from ...core.reconstruction import Reconstruction, pixel_head, reconstruct
from ...core.targets.pixels import PixelTarget
from ...core.tokens import all_tokens
from ...domains.domain import Domain, Normaliser
from .blocks import Gallery, Picture
from .pictures import HIDDEN, Rgb, heat, painted, picture_uri, tiled
from .regions import MAP, region_legend, region_pictures
from .volumes import Look, brightest_error, planes_in_words

_HEAD = ("original", "what the encoder saw", "reconstruction", "error")
_HIDDEN = "Hidden patches are grey."
_MIXED = (
    "The encoder saw no patch as it is but, in its place, the mean of a few patches with random "
    "signs; what that mean loses is what training asks for."
)


@dataclass(frozen=True)
class Shown:
    """Pictures of one image, all with the same stretch.

    Args:
        original: the image; black where it has no data.
        visible: what the encoder was shown of it, grey where that was nothing.
        pasted: visible patches as they are, hidden ones as predicted.
        error: of the predicted pixels.
    """

    original: UInt8[np.ndarray, "h w 3"]
    visible: UInt8[np.ndarray, "h w 3"]
    pasted: UInt8[np.ndarray, "h w 3"]
    error: UInt8[np.ndarray, "h w 3"]

    @property
    def parts(self) -> tuple[Rgb, ...]:
        """The pictures from left to right."""
        return self.original, self.visible, self.pasted, self.error


@dataclass(frozen=True)
class Reconstructed:
    """Pictures and what they tell about a method.

    Args:
        shown: one per image.
        leaked_statistics: whether mean and scale of predicted patches came from the truth.
        legend: what the pictures show, in words.
        error: mean squared error of predicted pixels in normalised units.
        constant_share: share of the tokens with data that hardly vary.
        constants_count: whether such tokens are trained on although standardised.
    """

    shown: tuple[Shown, ...]
    leaked_statistics: bool
    legend: str
    error: float
    constant_share: float
    constants_count: bool


@torch.no_grad()
def reconstruct_batch(
    method: Method, batch: Batch, domain: Domain, normaliser: Normaliser, seed: int
) -> Reconstructed:
    """Hide tokens as at the end of training, predict them and make pictures.

    Args:
        method: predicts pixels, in evaluation mode.
        batch: normalised images; of volumes three planes are shown.
        domain: shows them.
        normaliser: undoes the normalisation.
        seed: of the masks.

    Raises:
        UsageError: when the method predicts no pixels.
    """
    target = pixel_head(method).target
    assert isinstance(target, PixelTarget)
    output = method(batch, Progress(1.0, 1), Noise(seed, batch.images.device))
    result = reconstruct(method, output)
    valid = _valid(batch)
    scored = result.predicted.bool() & valid[:, None]
    square = (result.pasted - result.original).square()
    hidden = scored.expand_as(square)
    context = output.context
    everything = all_tokens(context.batch_size, context.grid.num_tokens, batch.images.device)
    return Reconstructed(
        shown=show(result, valid, domain, normaliser),
        leaked_statistics=result.leaked_statistics,
        legend=(
            f"{_HIDDEN if output.plan.sketch is None else _MIXED} Error: from black (none) to "
            f"pale yellow ({brightest_error(normaliser)[1]}).{planes_in_words(valid.ndim - 1)}"
        ),
        error=float(square[hidden].mean()) if hidden.any() else 0.0,
        constant_share=_constant_share(target, context, everything),
        constants_count=target.norm_pix and target.noise_floor == 0,
    )


def show(
    result: Reconstruction, valid: Bool[Tensor, "b *s"], domain: Domain, normaliser: Normaliser
) -> tuple[Shown, ...]:
    """Return pictures of a reconstruction.

    All are stretched as one picture, so a visible pixel has exactly the same colour in each.
    """
    look = Look(normaliser, valid.ndim - 1)
    original, pasted, keep = look(result.original), look(result.pasted), look(valid)
    three = domain.to_rgb(
        normaliser.denormalise(torch.cat([original, pasted, look(result.shown)], dim=-1)),
        domain.display_bands(normaliser),
        torch.cat([keep] * 3, dim=-1),
    )
    width = original.shape[-1]
    seen = (look(result.visible).bool()[:, 0] & keep).cpu().numpy()
    predicted = (look(result.predicted).bool()[:, 0] & keep).cpu().numpy()
    error = (pasted - original).square().mean(dim=1).sqrt().cpu().numpy()
    top, _ = brightest_error(normaliser)
    return tuple(
        Shown(
            original=row[:, :width],
            visible=painted(row[:, 2 * width :], ~s & v, HIDDEN),
            pasted=row[:, width : 2 * width],
            error=heat(np.where(p, e, 0.0), top),
        )
        for row, s, v, p, e in zip(three, seen, keep.cpu().numpy(), predicted, error, strict=True)
    )


def _valid(batch: Batch) -> Bool[Tensor, "b *s"]:
    if batch.valid is not None:
        return batch.valid
    return torch.ones_like(batch.images[:, 0], dtype=torch.bool)


def _constant_share(target: PixelTarget, context: Context, index: Int[Tensor, "b n"]) -> float:
    """Return the share of tokens with data whose deviation is not above the noise floor."""
    floor = target.noise_floor or PixelTarget().noise_floor
    standardising = PixelTarget(norm_pix=True, unbiased=target.unbiased)
    statistics = standardising.statistics(context, index)
    assert statistics is not None
    flat: Float[Tensor, "b n"] = (statistics.variance[..., 0] <= floor**2).float()
    if context.absent is None:
        return float(flat.mean())
    present = (~context.absent).float()
    return float((flat * present).sum() / present.sum().clamp_min(1.0))


def never_trained(module: nn.Module) -> bool:
    """Say whether all biases and norms still have the values they are made with.

    A decoder that came without weights looks like that; one step of training changes it.
    """
    small = [(name, value) for name, value in module.named_parameters() if value.ndim == 1]
    starts = (
        bool((value == (1.0 if name.endswith("weight") else 0.0)).all()) for name, value in small
    )
    return bool(small) and all(starts)


def untrained_heads(loaded: LoadedModel) -> tuple[str, ...]:
    """Return the names of the objectives that were never trained.

    An import records them; a fine-tuning from scratch leaves them as they were made.
    """
    fresh = loaded.extra.get("fresh", ())
    heads = loaded.method.objectives
    return tuple(n for n, head in heads.items() if f"heads.{n}" in fresh or never_trained(head))


def strip(found: Reconstructed, num: int) -> UInt8[np.ndarray, "p q 3"]:
    """Return original, visible patches and reconstruction of the first images, a row each."""
    return tiled([shown.parts[:3] for shown in found.shown[:num]])


def gallery(
    found: Reconstructed,
    labels: tuple[str, ...],
    what: str,
    regions: Int[Tensor, "b h w"] | None = None,
) -> Gallery:
    """Return the pictures as a block of the page.

    Args:
        found: pictures.
        labels: name of every image.
        what: which images these are.
        regions: parsing maps, shown beside the images.
    """
    maps = () if regions is None else region_pictures([s.original for s in found.shown], regions)
    names = _HEAD if regions is None else (_HEAD[0], MAP, *_HEAD[1:])
    rows = []
    for place, (label, shown) in enumerate(zip(labels, found.shown, strict=True)):
        parts = (shown.parts[0], *maps[place : place + 1], *shown.parts[1:])
        pictures = tuple(
            Picture(picture_uri(part), f"{head} of {label}")
            for part, head in zip(parts, names, strict=True)
        )
        rows.append((label, pictures))
    caption = f"{what} {found.legend}"
    if found.leaked_statistics:
        caption += (
            " The targets of this method are standardised patch by patch, so mean and contrast of "
            "each hidden patch are taken from the truth: judge the structure inside of a patch, "
            "not its brightness."
        )
    return Gallery(names, tuple(rows), caption, () if regions is None else region_legend())
