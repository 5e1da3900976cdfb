"""Pictures of what a method predicts: its normalisation undone, visible patches pasted in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from .errors import UsageError
from .grid import unpatchify
from .method import Head, Method, Output
from .targets.pixels import CentredTarget, PixelTarget
from .tokens import membership, put


@dataclass(frozen=True)
class Reconstruction:
    """Images in the normaliser's units.

    Args:
        original: what was given, invalid pixels zero.
        shown: what the encoder was shown of it: the same, or the mixtures of a sketch.
        pasted: visible patches as given, predicted patches as predicted.
        visible: one where the encoder saw the pixel, or a mixture in its place.
        predicted: one where `pasted` shows a prediction.
        leaked_statistics: true when mean or scale of predictions were read from the truth: a
            method with normalised targets cannot know them (mae.md, "Gotchas").
    """

    original: Float[Tensor, "b c *s"]
    shown: Float[Tensor, "b c *s"]
    pasted: Float[Tensor, "b c *s"]
    visible: Float[Tensor, "b 1 *s"]
    predicted: Float[Tensor, "b 1 *s"]
    leaked_statistics: bool


def pixel_heads(method: Method) -> dict[str, Head]:
    """Return the heads that predict pixels, by name."""
    return {
        name: head
        for name, head in method.objectives.items()
        if isinstance(head, Head) and isinstance(head.target, PixelTarget)
    }


def pixel_head(method: Method) -> Head:
    """Return the head that predicts pixels.

    Raises:
        UsageError: when the method predicts something else.
    """
    for head in pixel_heads(method).values():
        return head
    raise UsageError(
        f"method {method.name!r}", "predicts no pixels", "reconstruct with a method that does"
    )


def hidden_tokens(output: Output) -> Int[Tensor, "b q"]:
    """Return all tokens that the encoder did not see, in raster order."""
    num_tokens = output.context.grid.num_tokens
    seen = membership(output.plan.visible, num_tokens)
    amount = num_tokens - output.plan.visible.shape[1]
    return (~seen).to(torch.uint8).topk(amount, dim=1).indices.sort(dim=1).values


@torch.no_grad()
def predict_pixels(
    method: Method, output: Output, index: Int[Tensor, "b q"]
) -> Float[Tensor, "b q t"]:
    """Return predicted pixels in image units, patch statistics of the truth put back."""
    head = pixel_head(method)
    target = head.target
    assert isinstance(target, PixelTarget)
    values = head.predict(output.features, output.plan, index).float()
    statistics = target.statistics(output.context, index)
    return values if statistics is None else values * statistics.scale + statistics.mean


@torch.no_grad()
def reconstruct(method: Method, output: Output, *, all_hidden: bool = True) -> Reconstruction:
    """Paste predictions into the input.

    Args:
        method: gave `output`.
        output: of one forward.
        all_hidden: predict every hidden token, also those that training does not ask for.
    """
    context, plan = output.context, output.plan
    index = hidden_tokens(output) if all_hidden else plan.predict
    patches = put(context.patches.float(), index, predict_pixels(method, output, index))
    target = pixel_head(method).target
    assert isinstance(target, PixelTarget)
    original = context.images.float()
    return Reconstruction(
        original,
        original if plan.sketch is None else _sketched(output),
        unpatchify(patches, context.grid),
        _pixel_mask(output, plan.visible if plan.sketch is None else index),
        _pixel_mask(output, index),
        target.norm_pix or isinstance(target, CentredTarget),
    )


def _sketched(output: Output) -> Float[Tensor, "b c *s"]:
    """Return the mixtures of patches that stand in the place of each."""
    context, sketch = output.context, output.plan.sketch
    assert sketch is not None
    weight = None if context.absent is None else (~context.absent)[..., None].float()
    return unpatchify(sketch.kept(context.patches.float(), weight), context.grid)


def _pixel_mask(output: Output, index: Int[Tensor, "b q"]) -> Shaped[Tensor, "b 1 *s"]:
    grid = output.context.grid
    chosen = membership(index, grid.num_tokens)
    if output.plan.absent is not None:
        chosen = chosen & ~output.plan.absent
    cells = chosen.reshape(-1, 1, *grid.shape).float()
    for axis, length in enumerate(grid.patch):
        cells = cells.repeat_interleave(length, dim=2 + axis)
    return cells
