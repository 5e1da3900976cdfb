"""The hybrid of convolutions and a ViT of ConvMAE and DMJD, which computes visible tokens only.

A token of 16 pixels is 4 x 4 cells in the first stage, 2 x 2 in the second and one vector in the
transformer. Depth-wise convolutions alone mix cells, and they see hidden ones as zero, so that
everything else can leave them out (dmjd.md, step 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from .. import flops
from ..errors import UsageError
from ..grid import Grid
from ..layers import Block, Mlp, init_transformer
from ..positions import resize, sincos
from ..tokens import put, take
from .contract import Encoder, Features, Pass
from .hivit import CELLS, CellEmbed

KERNEL = 5
"""Side of the depth-wise convolutions."""


@dataclass(frozen=True, kw_only=True)
class ConvViTConfig:
    """Two convolutional stages and a ViT."""

    embed_dims: tuple[int, int, int] = (256, 384, 768)
    """Width of the three stages."""
    depths: tuple[int, int, int] = (2, 2, 11)
    """Blocks of the three stages."""
    num_heads: int = 12
    """Attention heads of the last stage; must divide its width."""
    mlp_ratios: tuple[float, float, float] = (8.0, 8.0, 4.0)
    """Hidden width of the MLPs over the width of each stage."""
    patch_size: int = 16
    """Pixels per token side, a multiple of 4."""


class CellMerge(nn.Conv2d):
    """A convolution whose stride is its kernel, on the cells of each token (weights as published).

    Args:
        dim: width of a cell.
        out_dim: width of what `side` x `side` cells become.
        side: cells per side that become one.
    """

    def __init__(self, dim: int, out_dim: int, side: int) -> None:
        super().__init__(dim, out_dim, side, stride=side)
        self.side = side
        nn.init.xavier_uniform_(self.weight.data.flatten(1))
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, input: Float[Tensor, "b v c d"]) -> Float[Tensor, "b v e f"]:
        """Merge cells that neighbour each other inside a token."""
        coarse = round(input.shape[2] ** 0.5) // self.side
        x = input.unflatten(2, (coarse, self.side, coarse, self.side)).transpose(3, 4)
        x = x.flatten(4, 6).flatten(2, 3)
        return functional.linear(x, self.weight.movedim(1, -1).flatten(1), self.bias)


class ConvBlock(nn.Module):
    """Depth-wise convolution between two linear maps, then an MLP, each with a residual.

    Args:
        dim: width.
        mlp_ratio: hidden width of the MLP over the width.
    """

    def __init__(self, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.conv1, self.conv2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.attn = nn.Conv2d(dim, dim, KERNEL, padding=KERNEL // 2, groups=dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self,
        x: Float[Tensor, "b v c d"],
        shape: Sequence[int],
        index: Int[Tensor, "b v"] | None,
        shown: Bool[Tensor, "b v"] | None,
    ) -> Float[Tensor, "b v c d"]:
        """Let cells read their neighbours.

        Args:
            x: cells of tokens.
            shape: grid of the tokens.
            index: places of the tokens; None for all.
            shown: tokens that others may read; None for all. Tokens that are not here are not.
        """
        values = self.conv1(self.norm1(x))
        if shown is not None:
            values = values * shown[..., None, None].to(values.dtype)
        x = x + self.conv2(self.mix(values, shape, index))
        return x + self.mlp(x, self.norm2)

    def mix(
        self, x: Float[Tensor, "b v c d"], shape: Sequence[int], index: Int[Tensor, "b v"] | None
    ) -> Float[Tensor, "b v c d"]:
        """Apply the depth-wise convolution on the whole grid, zero where there is no token."""
        (rows, cols), side = shape, round(x.shape[2] ** 0.5)
        if index is not None:
            x = put(x.new_zeros(len(x), rows * cols, *x.shape[2:]), index, x)
        maps = x.unflatten(1, (rows, cols)).unflatten(3, (side, side))
        maps = maps.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        maps = self.attn(maps)
        cells = maps.unflatten(3, (cols, side)).unflatten(2, (rows, side))
        cells = cells.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)
        return cells if index is None else take(cells, index)

    def forward_flops(self, num_cells: int, num_whole: int) -> int:
        """Return the FLOP for some cells of a grid with `num_whole`."""
        dim = self.attn.in_channels
        own = 2 * flops.linear(num_cells, dim, dim)
        own += 2 * flops.linear(num_cells, dim, self.mlp.fc1.out_features)
        return own + flops.linear(num_whole, KERNEL**2, dim)


class ConvStem(nn.Module):
    """The two convolutional stages and what leads to the transformer.

    Args:
        grid: geometry of the tokens.
        config: widths and depths.
    """

    def __init__(self, grid: Grid, config: ConvViTConfig) -> None:
        super().__init__()
        dims, ratios, depths = config.embed_dims, config.mlp_ratios, config.depths
        self.embed = CellEmbed(grid, dims[0])
        self.embed.norm = nn.LayerNorm(dims[0])
        self.merges = nn.ModuleList(CellMerge(dims[k], dims[k + 1], 2) for k in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dims[k + 1]) for k in range(2))
        self.stages = nn.ModuleList(
            nn.ModuleList(ConvBlock(dims[k], ratios[k]) for _ in range(depths[k])) for k in range(2)
        )
        self.laterals = nn.ModuleList(CellMerge(dims[k], dims[2], CELLS >> k) for k in range(2))
        self.proj = nn.Linear(dims[2], dims[2])

    def cells(self, patches: Float[Tensor, "b v p"]) -> Float[Tensor, "b v c d"]:
        """Return the embedded cells of tokens."""
        return functional.gelu(self.embed(patches))

    def forward(
        self,
        patches: Float[Tensor, "b v p"],
        shape: Sequence[int],
        index: Int[Tensor, "b v"] | None,
        shown: Bool[Tensor, "b v"] | None,
    ) -> tuple[Float[Tensor, "b v d"], Float[Tensor, "b v d"]]:
        """Return one vector per token, and what is added behind the transformer."""
        x, lateral = self.cells(patches), None
        for number, stage in enumerate(self.stages):
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                x = block(x, shape, index, shown)
            own = self.laterals[number](x).squeeze(2)
            lateral = own if lateral is None else lateral + own
            x = functional.gelu(self.norms[number](self.merges[number](x)))
        assert lateral is not None
        return self.proj(x.squeeze(2)), lateral

    def forward_flops(self, num_tokens: int, num_whole: int) -> int:
        """Return the FLOP for tokens of one sample, the embedding of cells left out."""
        total = flops.linear(num_tokens, self.proj.in_features, self.proj.out_features)
        for number, stage in enumerate(self.stages):
            assert isinstance(stage, nn.ModuleList)
            cells = (CELLS >> number) ** 2
            blocks = [block for block in stage if isinstance(block, ConvBlock)]
            total += sum(b.forward_flops(num_tokens * cells, num_whole * cells) for b in blocks)
            for merge in (self.merges[number], self.laterals[number]):
                assert isinstance(merge, CellMerge)
                total += flops.linear(num_tokens * cells, merge.in_channels, merge.out_channels)
        return total


class ConvViT(Encoder):
    """Convolutional stages, then transformer blocks, without a class token.

    The position table is a buffer: it is stored, never trained. Attention blocks are `blocks`, with
    timm's names; what leads to them is `patch_embed`.

    Args:
        grid: geometry of the tokens, two axes.
        config: widths and depths.

    Raises:
        UsageError: for other ranks, a patch that 4 does not divide, or heads that do not divide
            the width.
    """

    pos_embed: Tensor

    def __init__(self, grid: Grid, config: ConvViTConfig) -> None:
        super().__init__()
        dim, depth = config.embed_dims[2], config.depths[2]
        if grid.ndim != 2 or any(length % CELLS for length in grid.patch):
            raise UsageError(
                f"patch {grid.patch}", "is not 4 x 4 cells of an image", "use a multiple of 4, 2-D"
            )
        if dim % config.num_heads:
            raise UsageError(
                f"num_heads {config.num_heads}",
                f"does not divide the width {dim}",
                "use one that does",
            )
        self.grid, self.embed_dim, self.depth = grid, dim, depth
        self.mlp_ratio = config.mlp_ratios[2]
        self.patch_embed = ConvStem(grid, config)
        self.register_buffer("pos_embed", sincos(grid.shape, dim)[None])
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, self.mlp_ratio) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        init_transformer(self)

    def embed(
        self,
        patches: Float[Tensor, "b n p"],
        index: Int[Tensor, "b v"] | None = None,
        shape: Sequence[int] | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Return the mean of each token's embedded cells, in the first stage's width."""
        del shape
        tokens = patches if index is None else take(patches, index)
        return self.patch_embed.cells(tokens).mean(dim=2)

    def run(self, patches: Float[Tensor, "b n p"], wanted: Pass) -> Features:
        """Encode the tokens that are wanted; others are neither embedded nor convolved."""
        index, shown = wanted.index, wanted.readable
        if wanted.hidden is not None:
            shown = ~wanted.hidden if shown is None else shown & ~wanted.hidden
        tokens = patches if index is None else take(patches, index)
        x, lateral = self.patch_embed(tokens, wanted.shape, index, shown)
        if wanted.hidden is not None:
            lateral = lateral * ~wanted.hidden[..., None]
        x = wanted.corrupted(0, x)
        table = self.pos_embed[0]
        if tuple(wanted.shape) != self.grid.shape:
            table = resize(table, self.grid.shape, wanted.shape)
        x, kept = x + (table if index is None else table[index]), {}
        for number, block in enumerate(self.blocks):
            x = block(wanted.corrupted(number + 1, x), wanted.readable)
            if number in wanted.taps:
                kept[number] = x
        x = x + lateral
        x = x if wanted.neck is None else wanted.neck(x, kept)
        return Features(self.norm(x), 0, kept, wanted.readable)

    def embed_flops(self, num_tokens: int) -> int:
        """Return the FLOP of embedding the cells of tokens."""
        dim = self.patch_embed.embed.proj.out_channels
        return flops.linear(num_tokens, self.grid.patch_dim, dim)

    def forward_flops(self, num_tokens: int) -> int:
        """Return the FLOP of encoding tokens of one sample; convolutions run on the whole grid."""
        one = flops.block(num_tokens, self.embed_dim, self.mlp_ratio)
        stem = self.patch_embed.forward_flops(num_tokens, self.grid.num_tokens)
        return self.embed_flops(num_tokens) + stem + self.depth * one
