"""The same MAE step built on the modules of lightly, as its documentation puts them together."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...core import flops
from ...core.errors import UsageError
from ...core.grid import Grid
from ...core.masking.plan import count
from ...core.methods import MAEConfig
from .steps import Step, Workload, plain_step, tiny

if TYPE_CHECKING:
    from types import ModuleType


@dataclass(frozen=True)
class Lightly:
    """A step of MAE from lightly's modules with timm's ViT and torch's fused AdamW.

    Attributes:
        name: what tables call it.
        config: sizes of encoder and decoder, and the mask ratio.
    """

    name: str
    config: MAEConfig

    def check(self) -> None:
        """Import lightly.

        Raises:
            UsageError: when it is not installed.
        """
        lightly_modules()

    def small(self) -> Lightly:
        """Return the same with a tiny network."""
        return replace(self, config=tiny(self.config))

    def build(self, work: Workload) -> Step:
        """Make the model and its optimiser."""
        torch.manual_seed(0)
        model = LightlyMAE(self.config, work.grid).to(work.device).train()
        return plain_step(model, work, lightly_flops(self.config, work.grid))


class LightlyMAE(nn.Module):
    """Masked autoencoder from lightly's encoder, decoder and helpers.

    Args:
        config: sizes of encoder and decoder, and the mask ratio.
        grid: geometry of square images.
    """

    def __init__(self, config: MAEConfig, grid: Grid) -> None:
        super().__init__()
        import timm

        modules, self.utils = lightly_modules()
        self.config, self.patch = config, grid.patch[0]
        self.sequence = (1 + grid.num_tokens,)
        encoder, decoder = config.encoder, config.decoder
        vit = timm.create_model(
            "vit_small_patch16_224",
            img_size=grid.image_size,
            patch_size=self.patch,
            in_chans=grid.channels,
            embed_dim=encoder.embed_dim,
            depth=encoder.depth,
            num_heads=encoder.num_heads,
            mlp_ratio=encoder.mlp_ratio,
            num_classes=0,
        )
        self.encoder = modules.MaskedVisionTransformerTIMM(vit=vit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lightly 1.7 is to replace this decoder
            self.decoder = modules.MAEDecoderTIMM(
                num_patches=grid.num_tokens,
                patch_size=self.patch,
                in_chans=grid.channels,
                embed_dim=encoder.embed_dim,
                decoder_embed_dim=decoder.dim,
                decoder_depth=decoder.depth,
                decoder_num_heads=decoder.num_heads,
                mlp_ratio=decoder.mlp_ratio,
            )

    def forward(self, images: Tensor, roles: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the loss.

        Args:
            images: square images.
            roles: places that are kept and that are masked, in a sequence that the class token
                leads; drawn when not given.
        """
        utils = self.utils
        size = (len(images), *self.sequence)
        keep, mask = roles or utils.random_token_mask(
            size, mask_ratio=self.config.mask_ratio, device=images.device
        )
        encoded = self.encoder.encode(images=images, idx_keep=keep)
        tokens = utils.repeat_token(self.decoder.mask_token, size)
        tokens = utils.set_at_index(tokens, keep, self.decoder.embed(encoded))
        decoded = self.decoder.decode(tokens)
        predicted = self.decoder.predict(utils.get_at_index(decoded, mask))
        target = utils.get_at_index(utils.patchify(images, self.patch), mask - 1)
        if self.config.norm_pix:
            target = utils.normalize_mean_var(target, dim=-1)
        return functional.mse_loss(predicted, target)


def lightly_modules() -> tuple[Any, ModuleType]:
    """Return lightly's modules and helpers.

    Raises:
        UsageError: when it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from lightly.models import modules, utils
    except ImportError as error:
        raise UsageError(
            "benchmark mae",
            f"compares with lightly, which cannot be imported ({error})",
            "run `pip install 'mimkit[bench]'`, or name the other parts",
        ) from error
    return modules, utils


def lightly_flops(config: MAEConfig, grid: Grid) -> int:
    """Return the FLOP of one image in a training step.

    All patches are embedded, all tokens pass through every block of the decoder.
    """
    num_tokens, encoder, decoder = grid.num_tokens, config.encoder, config.decoder
    visible = count(num_tokens, 1 - config.mask_ratio)
    embed = flops.linear(num_tokens, grid.patch_dim, encoder.embed_dim)
    encode = encoder.depth * flops.block(1 + visible, encoder.embed_dim, encoder.mlp_ratio)
    decode = decoder.depth * flops.block(1 + num_tokens, decoder.dim, decoder.mlp_ratio)
    edges = flops.linear(1 + visible, encoder.embed_dim, decoder.dim)
    edges += flops.linear(num_tokens - visible, decoder.dim, grid.patch_dim)
    return 3 * (embed + encode + decode + edges) - embed
