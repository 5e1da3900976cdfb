"""What stands in for hidden tokens when an encoder works on the whole grid."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .context import Context
from .encoders.contract import Encoder, Features, Neck
from .grid import Grid
from .masking.plan import MaskPlan
from .tokens import membership

Tokens = Float[Tensor, "b n d"]
Hidden = Bool[Tensor, "b n"]


class Corruption(nn.Module, ABC):
    """Changes pixels before and tokens inside an encoder that works on the whole grid.

    A method without a corruption drops hidden tokens: its encoder never computes them.
    """

    def fill(self, context: Context, plan: MaskPlan) -> Float[Tensor, "b n p"]:
        """Return the patches that the encoder embeds; by default as they are."""
        del plan
        return context.patches

    def encode(
        self, encoder: Encoder, context: Context, taps: Sequence[int], neck: Neck | None
    ) -> Features:
        """Let an encoder see the corrupted grid; see `Encoder.encode_patches`.

        Args:
            encoder: of the method.
            context: of the step, its plan known.
            taps: blocks whose raw output is wanted.
            neck: what is normalised last.
        """
        plan = context.roles
        corrupt, patches = partial(self, context=context), self.fill(context, plan)
        return encoder.encode_patches(patches, plan, taps=taps, corrupt=corrupt, neck=neck)

    def num_encoded(self, grid: Grid, num_visible: int) -> int:
        """Return the tokens of a sample that heads are given, prefix tokens not counted."""
        del num_visible
        return grid.num_tokens

    def encoder_flops(self, encoder: Encoder, grid: Grid) -> int:
        """Return the FLOP of one sample's pass through the encoder."""
        return encoder.forward_flops(grid.num_tokens)

    def selection_flops(self, encoder: Encoder, grid: Grid, num_visible: int) -> int:
        """Return the FLOP of one sample that have no gradient."""
        del encoder, grid, num_visible
        return 0

    def forward(
        self,
        layer: int,
        tokens: Float[Tensor, "b n d"],
        hidden: Bool[Tensor, "b n"],
        context: Context,
    ) -> Float[Tensor, "b n d"]:
        """Return the tokens, changed at hidden places; the same object when nothing changes.

        By default nothing does.

        Args:
            layer: 0 after embedding and before positions, k before block k - 1.
            tokens: of the whole grid in raster order, without prefix.
            hidden: true where the plan does not show a token (absent ones included). An encoder
                with smaller patches inside a token repeats it for each of them.
            context: of the step.
        """
        del layer, hidden, context
        return tokens


class MaskToken(Corruption):
    """One learned vector replaces every hidden token after embedding (simmim.md, step 2).

    Args:
        dim: width of an embedded token.
        std: of the initial value.
    """

    def __init__(self, dim: int, std: float = 0.02) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        nn.init.trunc_normal_(self.mask_token, std=std)

    def forward(
        self,
        layer: int,
        tokens: Float[Tensor, "b n d"],
        hidden: Bool[Tensor, "b n"],
        context: Context,
    ) -> Float[Tensor, "b n d"]:
        """Replace hidden tokens at layer 0."""
        del context
        if layer:
            return tokens
        return torch.where(hidden[..., None], self.mask_token.to(tokens.dtype), tokens)


class Mixing(Corruption):
    """Every token is replaced by its projection after embedding (ropim.md, step 3).

    Positions come after it, so that the encoder knows where a mixture stands. Absent tokens take
    part in no mixture.
    """

    def forward(self, layer: int, tokens: Tokens, hidden: Hidden, context: Context) -> Tokens:
        """Project tokens at layer 0 by the sketch of the plan."""
        del hidden
        if layer:
            return tokens
        assert context.plan is not None
        assert context.plan.sketch is not None
        weight = None if context.absent is None else (~context.absent)[..., None].to(tokens.dtype)
        return context.plan.sketch.kept(tokens, weight)


class FillAndToken(Corruption):
    """Hidden pixels become the image's mean; a token marks their place at a later layer.

    For networks that cannot drop pixels, and whose statistics a constant such as zero would shift
    (a2mim.md, steps 2 and 3).

    Args:
        dim: width of a token at the layer.
        layer: where the token is added, see `Corruption.forward`.
        gamma: start of a factor per channel on hidden tokens; None leaves them whole.
        all_pixels: take the mean over hidden pixels too, as published; it tells something of them.
    """

    mask_gamma: Tensor | None

    def __init__(
        self, dim: int, layer: int = 0, gamma: float | None = None, *, all_pixels: bool = False
    ) -> None:
        super().__init__()
        self.layer, self.all_pixels = layer, all_pixels
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        start = None if gamma is None else torch.full((1, 1, dim), gamma)
        self.register_parameter("mask_gamma", None if start is None else nn.Parameter(start))

    def mean(self, context: Context, plan: MaskPlan) -> Float[Tensor, "b 1 1 c"]:
        """Return the mean of each channel over the pixels that are shown, zero without any."""
        pixels = context.patches.unflatten(-1, (-1, context.grid.channels))
        weight = torch.ones_like(pixels[..., :1])
        if context.weight is not None:
            weight = weight * context.weight[..., None]
        if not self.all_pixels:
            weight = weight * membership(plan.visible, pixels.shape[1])[..., None, None]
        if context.absent is not None:
            weight = weight * ~context.absent[..., None, None]
        total = weight.sum(dim=(1, 2), keepdim=True).clamp_min(1.0)
        return (pixels * weight).sum(dim=(1, 2), keepdim=True) / total

    def fill(self, context: Context, plan: MaskPlan) -> Float[Tensor, "b n p"]:
        """Return the patches with the mean in hidden ones."""
        pixels = context.patches.unflatten(-1, (-1, context.grid.channels))
        seen = membership(plan.visible, pixels.shape[1])[..., None, None]
        return torch.where(seen, pixels, self.mean(context, plan)).flatten(2)

    def forward(self, layer: int, tokens: Tokens, hidden: Hidden, context: Context) -> Tokens:
        """Scale hidden tokens and add the learned one at the layer."""
        del context
        if layer != self.layer:
            return tokens
        scaled = tokens if self.mask_gamma is None else tokens * self.mask_gamma
        return torch.where(hidden[..., None], (scaled + self.mask_token).to(tokens.dtype), tokens)
