"""The same MAE step built on MONAI's MaskedAutoEncoderViT, with the loss of the MAE paper."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...core import flops
from ...core.grid import Grid, patchify
from ...core.masking.plan import count
from ...core.methods import MAEConfig
from .steps import Step, Workload, plain_step, tiny


@dataclass(frozen=True)
class Monai:
    """A step of MAE from MONAI's network with torch's fused AdamW.

    Attributes:
        name: what tables call it.
        config: sizes of encoder and decoder, and the mask ratio.
    """

    name: str
    config: MAEConfig

    def check(self) -> None:
        """Import MONAI's network, so that memory is measured after it."""
        from monai.networks.nets import masked_autoencoder_vit  # noqa: F401

    def small(self) -> Monai:
        """Return the same with a tiny network, whose width three axes share evenly."""
        config = tiny(self.config)
        encoder = replace(config.encoder, embed_dim=24)
        return replace(
            self, config=replace(config, encoder=encoder, decoder=replace(config.decoder, dim=24))
        )

    def build(self, work: Workload) -> Step:
        """Make the model and its optimiser."""
        torch.manual_seed(0)
        grid = work.grid_of(self.config.encoder.patch_size)
        model = MonaiMAE(self.config, grid).to(work.device).train()
        return plain_step(model, work, monai_flops(self.config, grid))


class MonaiMAE(nn.Module):
    """MONAI's masked autoencoder and the loss on its masked patches.

    Args:
        config: sizes of encoder and decoder, and the mask ratio.
        grid: geometry of the images, of any rank that MONAI knows.
    """

    def __init__(self, config: MAEConfig, grid: Grid) -> None:
        super().__init__()
        from monai.networks.nets.masked_autoencoder_vit import MaskedAutoEncoderViT

        encoder, decoder = config.encoder, config.decoder
        self.grid, self.norm_pix = grid, config.norm_pix
        self.net = MaskedAutoEncoderViT(
            in_channels=grid.channels,
            img_size=grid.image_size,
            patch_size=grid.patch,
            hidden_size=encoder.embed_dim,
            mlp_dim=int(encoder.embed_dim * encoder.mlp_ratio),
            num_layers=encoder.depth,
            num_heads=encoder.num_heads,
            masking_ratio=config.mask_ratio,
            decoder_hidden_size=decoder.dim,
            decoder_mlp_dim=int(decoder.dim * decoder.mlp_ratio),
            decoder_num_layers=decoder.depth,
            decoder_num_heads=decoder.num_heads,
            spatial_dims=grid.ndim,
            qkv_bias=True,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the loss."""
        predicted, mask = self.net(images)
        target = patchify(images, self.grid.patch)
        if self.norm_pix:
            mean, variance = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        per_token = (predicted - target).square().mean(-1)
        return (per_token * mask).sum() / mask.sum()


def monai_flops(config: MAEConfig, grid: Grid) -> int:
    """Return the FLOP of one image in a training step.

    All patches are embedded, all tokens pass through every block of the decoder and its last layer.
    """
    num_tokens, encoder, decoder = grid.num_tokens, config.encoder, config.decoder
    visible = count(num_tokens, 1 - config.mask_ratio)
    embed = flops.linear(num_tokens, grid.patch_dim, encoder.embed_dim)
    encode = encoder.depth * flops.block(1 + visible, encoder.embed_dim, encoder.mlp_ratio)
    decode = decoder.depth * flops.block(1 + num_tokens, decoder.dim, decoder.mlp_ratio)
    edges = flops.linear(1 + visible, encoder.embed_dim, decoder.dim)
    edges += flops.linear(1 + num_tokens, decoder.dim, grid.patch_dim)
    return 3 * (embed + encode + decode + edges) - embed
