"""A2MIM: fill hidden patches with the mean, mark them inside the network, compare spectra too.

Li et al., "Architecture-Agnostic Masked Image Modeling: From ViT back to CNN", ICML 2023, arXiv
2205.13943. Composition: random mask of large units, mean fill and a token at an inner layer,
BEiT-style ViT or ResNet on the whole grid, linear decoder as trunk, raw pixels with an absolute or
focal error, and a frequency loss on the same prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import Tensor

from ..corruption import FillAndToken
from ..decoders.shared import LinearTrunk, TrunkReader
from ..encoders.resnet import STRIDE, ResNet
from ..grid import Grid
from ..method import Head, Method
from ..objectives.dense import l1
from ..objectives.frequency import FrequencyLoss, absolute, focal, focal_l1
from ..targets.pixels import CentredTarget, PixelTarget
from .config_beit import BEiTConfig, infer_beit
from .simmim import unit_mask
from .spec import MethodSpec
from .swin_weights import pixels_first


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """A ResNet with bottleneck blocks, whose tokens are 32 pixels wide."""

    name: Literal["resnet"] = "resnet"
    """Kind of encoder."""
    depths: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks of the four stages; (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3) ResNet-101."""
    width: int = 64
    """Inner channels of the first stage."""

    @property
    def patch_size(self) -> int:
        """Pixels per side of a token: the stride of the last stage."""
        return STRIDE

    @property
    def embed_dim(self) -> int:
        """Channels of the last map."""
        return self.width * 4 * 2 ** (self.depth - 1)

    @property
    def depth(self) -> int:
        """Stages, whose outputs can be tapped."""
        return len(self.depths)

    def build(self, grid: Grid) -> ResNet:
        """Return the encoder for a grid."""
        return ResNet(grid, self.depths, self.width)


def _vit() -> BEiTConfig:
    return BEiTConfig(relative_positions="block", absolute_positions=True)


@dataclass(frozen=True, kw_only=True)
class A2MIMConfig:
    """A2MIM (Li et al., ICML 2023)."""

    name: Literal["a2mim"] = "a2mim"
    """Name of the method."""
    encoder: BEiTConfig | ResNetConfig = field(default_factory=_vit)
    """The encoder, kept after pre-training."""
    mask_ratio: float = 0.6
    """Share of the units that are hidden and predicted, rounded up."""
    mask_unit: int = 2
    """Tokens per side of a unit that is hidden as a whole (32 pixels as published)."""
    mask_layer: int = 0
    """Where the token is added: 0 behind the patch embedding, k in front of block (or, in a
    ResNet, stage) number k, counted from one; ResNets use 4, the last stage."""
    mask_gamma: float | None = None
    """Start of a factor on hidden features at that layer; none leaves them whole, ResNets use
    1e-6."""
    error: Literal["l1", "focal-l1"] = "l1"
    """Error of a pixel; the focal one, for CNNs, makes little of small errors."""
    focal_alpha: float = 0.2
    """Slope of the focal error's weight, 2 sigmoid(alpha error) - 1."""
    focal_gamma: float = 1.0
    """Power of that weight."""
    residual: bool = False
    """Predict what is to be added to each channel's mean over the image, as one released run."""
    frequency_weight: float = 0.1
    """Factor on the frequency loss; 0 leaves it out."""
    frequency_loss: Literal["focal", "plain"] = "focal"
    """Focal frequency loss, or `error` applied to the coefficients."""
    frequency_visible: float = 0.0
    """Share of the prediction that enters the frequency loss at visible pixels."""
    frequency_fill: Literal["target", "mixed", "prediction"] = "mixed"
    """What else is there: the truth, half of each (released code) or the prediction (paper)."""
    as_published: bool = False
    """Reproduce the released code: the fill is the mean of hidden pixels too, spectra are averaged
    over the batch, the hidden count is the ceiling of a float with its error."""

    @property
    def lr_factor(self) -> float:
        """Factor of the learning-rate rule beside batch / 256."""
        return 1.0


def a2mim(config: A2MIMConfig, grid: Grid) -> Method:
    """Compose A2MIM, with a ViT for a grid of any rank, or with a ResNet.

    Raises:
        UsageError: when the mask ratio leaves nothing to see or nothing to predict, or a ResNet
            is to read something else than images of two axes in tokens of 32 pixels.
    """
    encoder, published = config.encoder.build(grid), config.as_published
    target = CentredTarget() if config.residual else PixelTarget(norm_pix=False)
    mask = unit_mask(grid, config.mask_ratio, config.mask_unit, as_published=published)
    is_cnn = isinstance(encoder, ResNet)
    width = encoder.width_at(config.mask_layer) if is_cnn else encoder.embed_dim
    corruption = FillAndToken(width, config.mask_layer, config.mask_gamma, all_pixels=published)
    form = {"alpha": config.focal_alpha, "gamma": config.focal_gamma}
    loss = l1 if config.error == "l1" else partial(focal_l1, **form)
    heads: dict[str, Any] = {"pixels": Head(TrunkReader(), target, loss)}
    if config.frequency_weight:
        plain = absolute if config.error == "l1" else partial(focal, **form)
        heads["frequency"] = FrequencyLoss(
            config.frequency_weight,
            error=plain if config.frequency_loss == "plain" else None,
            visible_share=config.frequency_visible,
            fill=config.frequency_fill,
            target=target,
            over_batch=published,
        )
    trunk = LinearTrunk(grid, encoder.embed_dim, target.out_dim(grid))
    return Method(config.name, grid, mask, encoder, heads, corruption=corruption, trunk=trunk)


_PARTS = {
    "patch_embed.projection": "patch_embed.proj",
    "ln1": "norm1",
    "ln2": "norm2",
    "ffn.layers.0.0": "mlp.fc1",
    "ffn.layers.1": "mlp.fc2",
}
"""Released names inside the ViT, or one of its blocks -> ours."""


def _ours(name: str) -> str:
    """Return our name of a released tensor; the name itself when it is none."""
    if name.startswith("neck.decoder_pred.0."):
        return name.replace("neck.decoder_pred.0", "trunk.decoder.head")
    if not name.startswith("backbone."):
        return name
    name = name.removeprefix("backbone.")
    if name in ("mask_token", "mask_gamma"):
        return f"corruption.{name}"
    block = name.startswith("layers.")
    if name.startswith("ln1."):
        return f"encoder.norm.{name.removeprefix('ln1.')}"
    words = name.split(".", 2)
    where, rest = (f"blocks.{words[1]}.", words[2]) if block else ("", name)
    for theirs, own in _PARTS.items():
        if rest.startswith(f"{theirs}."):
            rest = own + rest.removeprefix(theirs)
            break
    return f"encoder.{where}{rest}"


def _prepare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give released tensors our names and layouts."""
    out = {_ours(k): v for k, v in state.items() if not k.endswith("relative_position_index")}
    first = [out.get(f"encoder.{name}.weight") for name in ("patch_embed.proj", "conv1")]
    channels = next((k.shape[1] for k in first if k is not None and k.ndim > 2), None)
    for part in ("weight", "bias"):
        name = f"trunk.decoder.head.{part}"
        if name in out and channels is not None:
            rows = out[name]
            out[name] = pixels_first(rows.flatten(1) if rows.ndim > 1 else rows, channels)
    for name in ("corruption.mask_token", "corruption.mask_gamma"):
        if name in out:  # maps of a CNN are stored with channels in front
            out[name] = out[name].reshape(1, 1, -1)
    return out


def _infer(
    state: Mapping[str, Tensor], *, num_heads: int | None = None, decoder_heads: int | None = None
) -> A2MIMConfig:
    """Read the configuration from released tensors; those of a ResNet get its published losses."""
    del decoder_heads
    ours = _prepare(state)
    if "encoder.layer1.0.conv1.weight" not in ours:
        return A2MIMConfig(encoder=infer_beit(ours, num_heads))
    blocks = {tuple(k.split(".")[1:3]) for k in ours if k.startswith("encoder.layer")}
    depths = [sum(name == f"layer{stage}" for name, _ in blocks) for stage in range(1, 5)]
    width = ours["encoder.layer1.0.conv1.weight"].shape[0]
    return resnet_config(ResNetConfig(depths=tuple(depths), width=width))


def resnet_config(encoder: ResNetConfig) -> A2MIMConfig:
    """Return the published settings for a ResNet (those of ResNet-50)."""
    return A2MIMConfig(
        encoder=encoder,
        mask_unit=1,
        mask_layer=encoder.depth,
        mask_gamma=1e-6,
        error="focal-l1",
        frequency_weight=0.5,
        frequency_visible=1e-3,
    )


SPEC = MethodSpec(
    A2MIMConfig,
    a2mim,
    "Li et al., ICML 2023",
    {part: part for part in ("encoder", "corruption", "trunk")},
    prepare=_prepare,
    infer=_infer,
    flat_patches=True,
    learned_positions=True,
)
