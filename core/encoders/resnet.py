"""ResNet with bottleneck blocks: torchvision's structure and names, as an encoder of a grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ..errors import UsageError
from ..grid import Grid, unpatchify
from ..tokens import take
from .contract import Encoder, Features, Pass

STRIDE = 32
"""Pixels per side of a cell of the last map, which is a token here."""
_EXPANSION = 4


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Bottleneck(nn.Module):
    """Three convolutions around a shortcut; the one of 3 x 3 pixels takes the stride."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * _EXPANSION
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            shortcut = _conv(inputs, outputs, 1, stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e i j"]:
        """Return the map after the block."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.bn3(self.conv3(out)) + shortcut)


class ResNet(Encoder):
    """He et al., CVPR 2016, in torchvision's form ("ResNet v1.5").

    A block in the sense of taps and corruptions is a stage: a tap is the map of a stage, cells in
    raster order, and layer k of a corruption is the input of stage k - 1, where a hidden token
    covers all its cells. Layer 0, the embedded tokens, is the input of the first stage.

    Args:
        grid: geometry of the tokens, which are 32 pixels wide.
        depths: blocks per stage; (3, 4, 6, 3) for ResNet-50.
        width: inner channels of the first stage; each later one has twice as many.

    Raises:
        UsageError: for another rank than 2 or another token than 32 x 32 pixels.
    """

    def __init__(self, grid: Grid, depths: Sequence[int] = (3, 4, 6, 3), width: int = 64) -> None:
        super().__init__()
        if grid.patch != (STRIDE, STRIDE):
            raise UsageError(
                f"tokens of {grid.patch} pixels",
                f"are not the cells of a ResNet, {STRIDE} x {STRIDE} pixels of an image",
                f"use patch_size {STRIDE} on images with two axes",
            )
        self.grid, self.depths, self.width = grid, tuple(depths), width
        self.depth = len(self.depths)
        self.conv1, self.bn1 = _conv(grid.channels, width, 7, 2), nn.BatchNorm2d(width)
        inputs = width
        for stage, blocks in enumerate(self.depths):
            inner, stride = width * 2**stage, 1 if stage == 0 else 2
            built = [Bottleneck(inputs, inner, stride)]
            inputs = inner * _EXPANSION
            built += [Bottleneck(inputs, inner, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*built))
        self.embed_dim = inputs
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def parts_in_order(self) -> list[tuple[str, ...]]:
        """Return the names of parts in order: the stem, then every block."""
        order: list[tuple[str, ...]] = [("conv1", "bn1")]
        for stage, depth in enumerate(self.depths, 1):
            order += [(f"layer{stage}.{block}",) for block in range(depth)]
        return order

    def width_at(self, layer: int) -> int:
        """Return the channels of the map that a corruption changes at a layer."""
        return self.width if layer < 2 else self.width * _EXPANSION * 2 ** (layer - 2)

    def stem(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e i j"]:
        """Return the map in front of the first stage, a quarter of the image's size."""
        return functional.max_pool2d(functional.relu(self.bn1(self.conv1(images))), 3, 2, 1)

    def embed(
        self,
        patches: Float[Tensor, "b n p"],
        index: Int[Tensor, "b v"] | None = None,
        shape: Sequence[int] | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Return the mean of the stem's map inside every token, or those at `index`."""
        grid = self._grid(tuple(shape or self.grid.shape))
        rows, columns = grid.shape
        cells = self.stem(unpatchify(patches, grid))
        means = functional.adaptive_avg_pool2d(cells, (rows, columns))
        tokens = means.flatten(2).transpose(1, 2)
        return tokens if index is None else take(tokens, index)

    def run(self, patches: Float[Tensor, "b n p"], wanted: Pass) -> Features:
        """Encode the whole grid.

        Raises:
            UsageError: when tokens are to be dropped.
        """
        if wanted.index is not None:
            raise UsageError(
                "a plan without a corruption",
                "asks ResNet to drop tokens, and its convolutions need the whole grid",
                "give the method a corruption such as FillAndToken",
            )
        x = self.stem(unpatchify(patches, self._grid(wanted.shape)))
        x, kept = _corrupted(wanted, 0, x), {}
        for number in range(self.depth):
            x = self.get_submodule(f"layer{number + 1}")(_corrupted(wanted, number + 1, x))
            if number in wanted.taps:
                kept[number] = x.flatten(2).transpose(1, 2)
        out = x.flatten(2).transpose(1, 2)
        out = out if wanted.neck is None else wanted.neck(out, kept)
        return Features(out, 0, kept, wanted.readable)

    def _grid(self, shape: tuple[int, ...]) -> Grid:
        return Grid(shape, self.grid.patch, self.grid.channels)

    def embed_flops(self, num_tokens: int) -> int:
        """Return the FLOP of the first convolution on one sample."""
        weight = self.conv1.weight.numel()
        return 2 * num_tokens * (STRIDE // 2) ** 2 * weight

    def forward_flops(self, num_tokens: int) -> int:
        """Return the FLOP of encoding one sample, embedding included."""
        return self.embed_flops(num_tokens) + sum(
            2 * num_tokens * cells * conv.weight.numel() for conv, cells in self._convolutions()
        )

    def _convolutions(self) -> Iterator[tuple[nn.Conv2d, int]]:
        """Return every convolution behind the stem and its outputs per token."""
        for stage in range(self.depth):
            after = (STRIDE // (4 * 2**stage)) ** 2
            for number, block in enumerate(self.get_submodule(f"layer{stage + 1}").children()):
                before = 4 * after if stage and not number else after
                for name, part in block.named_modules():
                    if isinstance(part, nn.Conv2d):
                        yield part, before if name == "conv1" else after


def _corrupted(wanted: Pass, layer: int, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Let the corruption see the map as cells, each hidden with its token."""
    if wanted.corrupt is None or wanted.hidden is None:
        return x
    cells = x.flatten(2).transpose(1, 2)
    changed = wanted.corrupt(layer, cells, _spread(wanted.hidden, wanted.shape, x.shape[2:]))
    if changed is cells:
        return x
    return changed.transpose(1, 2).unflatten(2, x.shape[2:])


def _spread(
    hidden: Bool[Tensor, "b n"], shape: Sequence[int], size: torch.Size
) -> Bool[Tensor, "b m"]:
    """Repeat what is said of tokens for each of their cells."""
    cells = hidden.unflatten(1, tuple(shape))
    for axis, (tokens, length) in enumerate(zip(shape, size, strict=True), 1):
        cells = cells.repeat_interleave(length // tokens, dim=axis)
    return cells.flatten(1)
