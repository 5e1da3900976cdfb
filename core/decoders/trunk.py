"""The MAE decoder in two parts: what stands in front of its blocks, and towers that share it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .. import flops
from ..encoders.contract import Features
from ..errors import UsageError
from ..grid import Grid
from ..layers import init_transformer
from ..masking.plan import MaskPlan
from ..positions import sincos
from ..tokens import all_tokens, put
from .contract import Predictor, Trunk
from .joint import decoder_blocks


class JointTrunk(Trunk):
    """Narrows encoded tokens and puts mask tokens in the places of hidden ones (hpm.md, step 4).

    Args:
        grid: geometry of the tokens.
        encoder_dim: width of the features.
        dim: width of the decoders.
        num_prefix: class and register tokens of the encoder; they take part without position.
    """

    pos_embed: Tensor

    def __init__(self, grid: Grid, encoder_dim: int, dim: int, num_prefix: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", sincos(grid.shape, dim, num_prefix=num_prefix)[None])
        init_transformer(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, features: Features, plan: MaskPlan) -> Float[Tensor, "b n w"]:
        """Return all tokens of the grid in raster order, prefix tokens in front."""
        batch, prefix = len(plan.visible), features.num_prefix
        leading = all_tokens(batch, prefix, plan.visible.device)
        places = torch.cat([leading, plan.visible + prefix], dim=1)
        known = self.embed(features.sequence) + self.pos_embed[0][places]
        return put((self.mask_token + self.pos_embed).expand(batch, -1, -1), places, known)

    def forward_flops(self, num_context: int) -> int:
        """Return the FLOP of one sample's forward: mask tokens cost nothing."""
        return flops.linear(num_context, self.embed.in_features, self.dim)


class SharedMaskToken(Trunk):
    """A learned vector that several decoders put in the places of hidden tokens (fsfm.md, step 6).

    Args:
        dim: width, that of the encoder.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, features: Features, plan: MaskPlan) -> Float[Tensor, "b 1 w"]:
        """Return the token, the same for all samples."""
        del features
        return self.mask_token.expand(len(plan.visible), -1, -1)

    def forward_flops(self, num_context: int) -> int:
        """Return no FLOP: nothing is computed."""
        del num_context
        return 0


class TrunkDecoder(Predictor):
    """Self-attention blocks of its own on a trunk that it shares with other predictors.

    Args:
        grid: geometry of the tokens.
        dim: width of the trunk.
        depth: blocks.
        num_heads: attention heads.
        out_dim: numbers predicted per token.
        num_prefix: class and register tokens of the encoder.
        mlp_ratio: hidden width of the MLP over the width.

    Raises:
        UsageError: for a depth below one.
    """

    def __init__(
        self,
        grid: Grid,
        dim: int,
        depth: int,
        num_heads: int,
        out_dim: int,
        num_prefix: int,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.length, self.num_prefix = grid.num_tokens + num_prefix, num_prefix
        self.dim, self.mlp_ratio = dim, mlp_ratio
        self.blocks = decoder_blocks(dim, depth, num_heads, mlp_ratio)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, out_dim)
        init_transformer(self)

    def forward(
        self, features: Features, plan: MaskPlan, index: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, "b q t"]:
        """Return predictions for the tokens at `index` (by default those the plan asks for).

        Raises:
            UsageError: when the method has no trunk.
        """
        x = features.trunk
        if x is None:
            raise UsageError(
                "decoder of a trunk", "found no trunk in the features", "give the method one"
            )
        readable = plan.present(self.num_prefix)
        wanted = self.num_prefix + (plan.predict if index is None else index)
        for block in self.blocks[:-1]:
            x = block(x, readable)
        return self.head(self.norm(self.blocks[-1](x, readable, wanted)))

    def forward_flops(self, num_context: int, num_predict: int) -> int:
        """Return the FLOP of one sample's forward; the last block answers for what is asked."""
        del num_context
        one = flops.block(self.length, self.dim, self.mlp_ratio)
        last = flops.block(self.length, self.dim, self.mlp_ratio, num_predict)
        head = flops.linear(num_predict, self.dim, self.head.out_features)
        return (len(self.blocks) - 1) * one + last + head
