"""UNETR's decoder on a plain encoder of any rank, patch and depth, from MONAI's blocks.

Hatamizadeh et al., "UNETR: Transformers for 3D Medical Image Segmentation", WACV 2022, figure 2.
With patch 16, twelve blocks and taps (3, 6, 9, -1) it is MONAI's `UNETR`, whose weights it takes
and gives (`monai_names`). Other patches have other numbers of levels (`doubling_scales`), axes may
differ, and steps that are no whole factor are resized and convolved, as Hi-End-MAE does with patch
12 (hi-end-mae.md, "Downstream use").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..encoders.contract import Features
from ..errors import UsageError
from ..grid import Grid
from .segmentation import (
    CoarseScores,
    LevelHead,
    conv,
    enlarged,
    token_maps,
)

Scale = tuple[int, ...]


class Resize(nn.Module):
    """One step of upsampling between two scales.

    A transposed convolution where the step is a whole factor on every axis; linear interpolation
    and a convolution where it is not.

    Args:
        channels: of the input.
        out_channels: of the result.
        before: cells per token and axis of the input.
        after: the same of the result.
    """

    def __init__(self, channels: int, out_channels: int, before: Scale, after: Scale) -> None:
        from monai.networks.blocks.dynunet_block import get_conv_layer

        super().__init__()
        self.before, self.after, ndim = before, after, len(before)
        self.whole = all(a % b == 0 for b, a in zip(before, after, strict=True))
        step = tuple(a // b for b, a in zip(before, after, strict=True))
        self.layer = (
            get_conv_layer(
                ndim, channels, out_channels, step, step, conv_only=True, is_transposed=True
            )
            if self.whole
            else conv(ndim, channels, out_channels, bias=False)
        )

    def forward(self, x: Float[Tensor, "b d *s"]) -> Float[Tensor, "b e *t"]:
        """Return maps of the finer scale."""
        if self.whole:
            return self.layer(x)
        sides = zip(x.shape[2:], self.before, self.after, strict=True)
        return self.layer(enlarged(x, [int(n) // before * after for n, before, after in sides]))


class UnetrHead(LevelHead):
    """Class scores for every pixel or voxel.

    Args:
        grid: channels and patch of the encoder; its shape does not matter, any image size works.
        embed_dim: width of the encoder.
        num_classes: classes.
        taps: encoder blocks to read, -1 for the final-normed output; see `tap_levels`. Use the
            blocks that pre-training read.
        feature_size: width at full resolution, doubled per level below (UNETR: 16; Hi-End-MAE's
            fine-tuning: 32).
        deep_supervision: also score coarser levels, for training.

    Raises:
        UsageError: for a head without classes or taps.
    """

    def __init__(
        self,
        grid: Grid,
        embed_dim: int,
        num_classes: int,
        taps: Sequence[int],
        feature_size: int = 16,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__(grid, num_classes, taps)
        ndim, num_levels = grid.ndim, self.num_levels
        widths = [feature_size << (num_levels - level) for level in range(num_levels + 1)]
        widths[0] = embed_dim * len(self.levels[0])
        skipping = [*map(len, self.levels[1:]), 1]  # at full resolution it is the image
        self.image = _res_block(ndim, grid.channels, feature_size)
        self.skips = nn.ModuleDict(
            {
                str(tap): self._skip(embed_dim, widths[level], level)
                for level, here in enumerate(self.levels)
                if level
                for tap in here
            }
        )
        self.ups = nn.ModuleList(
            Resize(widths[i], widths[i + 1], self.scales[i], self.scales[i + 1])
            for i in range(num_levels)
        )
        self.blocks = nn.ModuleList(
            _res_block(ndim, width * (1 + skips), width)
            for width, skips in zip(widths[1:], skipping, strict=True)
        )
        self.classify = conv(ndim, feature_size, num_classes, 1)
        self.deep = CoarseScores(ndim, widths, num_classes) if deep_supervision else None

    def _skip(self, embed_dim: int, width: int, level: int) -> nn.Sequential:
        """Return what brings a tap from the token grid to a level: UNETR's blue blocks."""
        ndim = len(self.patch)
        steps: list[nn.Module] = [Resize(embed_dim, width, *self.scales[:2])]
        for before, after in zip(self.scales[1:level], self.scales[2 : level + 1], strict=True):
            up = Resize(width, width, before, after)
            steps.append(nn.Sequential(up, _res_block(ndim, width, width)))
        return nn.Sequential(*steps)

    def monai_names(self) -> dict[str, str]:
        """Return our parameter names and those of MONAI's UNETR, where it has such a decoder.

        Raises:
            UsageError: when the levels are not those of MONAI's UNETR.
        """
        if [len(taps) for taps in self.levels] != [1, 1, 1, 1] or self.scales[-1] != (16,) * 3:
            raise UsageError(
                f"UNETR head for patch {self.patch} with {sum(map(len, self.levels))} taps",
                "has other levels than MONAI's UNETR",
                "fine-tune with patch 16, four taps and volumes to get MONAI's network",
            )
        parts = {"image": "encoder1.layer", "classify": "out.conv.conv"}
        for level in range(1, 5):
            parts[f"ups.{level - 1}.layer"] = f"decoder{6 - level}.transp_conv"
            parts[f"blocks.{level - 1}"] = f"decoder{6 - level}.conv_block"
        for level, (tap,) in enumerate(self.levels[1:], start=1):
            block, skip = f"encoder{5 - level}", f"skips.{tap}"
            parts[f"{skip}.0.layer"] = f"{block}.transp_conv_init"
            for step in range(1, level):
                parts[f"{skip}.{step}.0.layer"] = f"{block}.blocks.{step - 1}.0"
                parts[f"{skip}.{step}.1"] = f"{block}.blocks.{step - 1}.1"
        names = [name for name in self.state_dict() if not name.startswith("deep.")]
        found = {}
        for name in names:
            part = next(part for part in parts if name.startswith(f"{part}."))
            found[name] = parts[part] + name.removeprefix(part)
        return found

    def score(
        self, x: Float[Tensor, "b d *s"], images: Float[Tensor, "b c *s"]
    ) -> Float[Tensor, "b k *s"]:
        """Return class scores from the finest map."""
        return self.classify(x)

    def maps(
        self, features: Features, images: Float[Tensor, "b c *s"]
    ) -> list[Float[Tensor, "b _ *_"]]:
        """Return the maps of every level above the token grid, coarse to fine."""
        grid = Grid.of(images, self.patch).shape
        as_is = nn.Identity()

        def read(taps: Sequence[int]) -> list[Tensor]:
            return [token_maps(features, tap, grid, as_is) for tap in taps]

        x, maps = torch.cat(read(self.levels[0]), dim=1), []
        for level, (up, block) in enumerate(zip(self.ups, self.blocks, strict=True), start=1):
            if level < len(self.levels):
                here = self.levels[level]
                skips = [self.skips[str(t)](m) for t, m in zip(here, read(here), strict=True)]
            else:
                skips = [self.image(images)]
            x = block(torch.cat([up(x), *skips], dim=1))
            maps.append(x)
        return maps


def _res_block(ndim: int, channels: int, out_channels: int) -> nn.Module:
    from monai.networks.blocks.dynunet_block import UnetResBlock

    return UnetResBlock(ndim, channels, out_channels, 3, 1, norm_name="instance")
