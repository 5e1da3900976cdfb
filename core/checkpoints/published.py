"""Importing published weights: names, geometry and a table of what became of every tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import UsageError, UserError, WeightsError
from ..grid import Grid, per_axis
from ..method import Method
from ..methods import (
    DecoderConfig,
    EncoderConfig,
    MethodConfig,
    build,
    spec,
)
from ..positions import resize
from .reading import State, read_tensors

Fate = Literal["loaded", "resized", "ignored", "fresh"]
FATES: tuple[Fate, ...] = get_args(Fate)
# Widths of the published sizes; head counts are not stored in any checkpoint.
ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
DECODER_HEADS = {256: 8, 512: 16}


@dataclass(frozen=True)
class TensorFate:
    """What became of one tensor.

    Args:
        name: its name in the method.
        fate: loaded as it was, resized (position table), fresh (not in the file) or ignored (not
            part of the method).
        shape: its shape in the file, or in the method when it is fresh.
    """

    name: str
    fate: Fate
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Imported:
    """A method with published weights.

    Args:
        method: the composed method.
        config: its configuration.
        fates: one row per tensor.
    """

    method: Method
    config: MethodConfig
    fates: tuple[TensorFate, ...]

    def summary(self) -> str:
        """Return counts per fate, in words."""
        counts = Counter(row.fate for row in self.fates)
        return ", ".join(f"{counts[fate]} {fate}" for fate in FATES)


def fresh_parts(fates: Sequence[TensorFate]) -> list[str]:
    """Return the parts of a method that no file has trained, sorted; empty when all was there.

    They are named like `heads.pixels`; what such a part says means nothing.
    """
    names = (row.name.split(".") for row in fates if row.fate == "fresh")
    return sorted({".".join(words[:2] if words[0] == "heads" else words[:1]) for words in names})


def rename(state: Mapping[str, Tensor], name: str) -> tuple[State, list[TensorFate]]:
    """Translate published parameter names into ours.

    Returns:
        tensors under our names, and a row for each one that is ignored.

    Raises:
        WeightsError: for a tensor that neither the encoder nor the decoder has, which means that
            the file belongs to another method.
    """
    row, out, ignored = spec(name), {}, []
    state = state if row.prepare is None else row.prepare(state)
    for key, value in state.items():
        ours = row.translate(key)
        if ours is not None:
            out[ours] = value
        elif row.is_ignored(key):
            ignored.append(TensorFate(key, "ignored", tuple(value.shape)))
        else:
            raise WeightsError(
                f"tensor {key!r} {tuple(value.shape)}",
                f"has no place in {name}",
                "check --from: the file seems to belong to another method",
            )
    return out, ignored


def load_into(
    method: Method, tensors: Mapping[str, Tensor], *, allow_partial: bool = False
) -> list[TensorFate]:
    """Load tensors under our names; nothing is changed unless everything fits.

    Position tables of another grid are interpolated. Tables are derived from the grid, so one that
    the file lacks is not counted as missing.

    Args:
        method: receives the tensors.
        tensors: by our names.
        allow_partial: accept that parameters outside the encoder (a decoder) are not in the file
            and stay as they were initialised.

    Raises:
        WeightsError: when a tensor does not fit or a parameter has none.
    """
    own = method.state_dict()
    buffers = {name for name, _ in method.named_buffers()}
    fates, ready = [], {}
    for name, value in tensors.items():
        if name not in own:
            raise WeightsError(
                f"tensor {name!r} {tuple(value.shape)}",
                "has no counterpart in the method",
                "check depth and options of the method against the file, and that it is a file of "
                "this method",
            )
        fitted = _fit_table(method, name, value, own[name])
        if fitted.shape != own[name].shape:
            raise WeightsError(
                f"tensor {name!r} {tuple(value.shape)}",
                f"does not fit {tuple(own[name].shape)}",
                "check patch size, width and channels of the method against the file, and that it "
                "is a file of this method",
            )
        fate: Fate = "loaded" if fitted is value else "resized"
        fates.append(TensorFate(name, fate, tuple(value.shape)))
        ready[name] = fitted
    missing = [name for name in own if name not in ready and name not in buffers]
    fatal = [n for n in missing if n.startswith("encoder.") or not allow_partial]
    if fatal:
        raise WeightsError(
            f"parameter {fatal[0]!r} and {len(fatal) - 1} more",
            "are not in the file",
            "use a full checkpoint, or allow a fresh decoder with --allow-partial"
            if not fatal[0].startswith("encoder.")
            else "check depth and width of the encoder against the file",
        )
    method.load_state_dict(ready, strict=False)
    return fates + [TensorFate(n, "fresh", tuple(own[n].shape)) for n in missing]


def _fit_table(method: Method, name: str, value: Tensor, own: Tensor) -> Tensor:
    if not name.endswith("pos_embed") or value.shape == own.shape or value.ndim != 3:
        return value
    shape, prefix = method.grid.shape, own.shape[1] - method.grid.num_tokens
    body, rank = value.shape[1] - prefix, len(shape)
    side = _side(body, rank)
    if value.shape[2] != own.shape[2] or side is None:
        return value
    return resize(value[0].float(), (side,) * rank, shape, num_prefix=prefix)[None]


def _side(num_tokens: int, rank: int) -> int | None:
    """Return the side of a square or cube of so many tokens; None when it is none."""
    side = round(max(num_tokens, 0) ** (1 / rank))
    return side if side > 0 and side**rank == num_tokens else None


def infer_config(
    state: Mapping[str, Tensor],
    name: str,
    *,
    num_heads: int | None = None,
    decoder_heads: int | None = None,
) -> MethodConfig:
    """Read width, depth and patch from the tensors' shapes.

    Args:
        state: published names.
        name: the method.
        num_heads: attention heads of the encoder, where its width is not a published one.
        decoder_heads: the same for the decoder.

    Raises:
        WeightsError: when the file is not a ViT checkpoint.
        UsageError: when head counts have to be given, or shapes do not tell the configuration.
    """
    row = spec(name)
    if row.infer is not None:
        return row.infer(state, num_heads=num_heads, decoder_heads=decoder_heads)
    if not row.plain:
        raise UsageError(
            f"configuration of {name}",
            "cannot be read from the shapes of a checkpoint",
            "say what the weights are of with --recipe, a name of `mimkit recipe list` or a file",
        )
    ours, _ = rename(state, name)
    state = state if row.prepare is None else row.prepare(state)
    kernel = ours.get("encoder.patch_embed.proj.weight")
    if kernel is None:
        reason = "has no patch embedding (patch_embed.proj.weight)"
        raise WeightsError("checkpoint", reason, "give a plain ViT checkpoint")
    width = kernel.shape[0]
    encoder = EncoderConfig(
        embed_dim=width,
        depth=_depth(ours, "encoder.blocks."),
        num_heads=_heads("--num-heads", width, num_heads, ENCODER_HEADS | dict(row.encoder_heads)),
        patch_size=kernel.shape[-1],
        mlp_ratio=_mlp_ratio(ours, "encoder.blocks.0."),
        class_token="encoder.cls_token" in ours,
    )
    config = row.config(encoder=encoder)
    if "mask_token" in state and isinstance(getattr(config, "decoder", None), DecoderConfig):
        # A mask token that is narrowed together with the encoded ones has the encoder's width.
        narrowed = state.get("decoder_embed.bias") if row.translate("decoder_embed.bias") else None
        dim = (state["mask_token"] if narrowed is None else narrowed).shape[-1]
        decoder = DecoderConfig(
            dim=dim,
            depth=_depth(state, "decoder_blocks."),
            num_heads=_heads("--decoder-heads", dim, decoder_heads, DECODER_HEADS),
            mlp_ratio=_mlp_ratio(state, "decoder_blocks.0."),
        )
        config = replace(config, decoder=decoder)
    return config if row.refine is None else row.refine(config, state)


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    place = prefix.count(".")
    numbers = {int(key.split(".")[place]) for key in state if key.startswith(prefix)}
    return max(numbers, default=-1) + 1


def _mlp_ratio(state: Mapping[str, Tensor], block: str) -> float:
    weight = state.get(f"{block}mlp.fc1.weight")
    return 4.0 if weight is None else weight.shape[0] / weight.shape[1]


def _heads(flag: str, width: int, given: int | None, known: Mapping[int, int]) -> int:
    if given is None and width not in known:
        raise UsageError(
            f"width {width}",
            "is not a published size, so its head count is unknown",
            f"give {flag}",
        )
    return known[width] if given is None else given


def infer_grid(
    tensors: Mapping[str, Tensor], config: MethodConfig, image_size: int | None = None
) -> Grid:
    """Read rank and channels from the first kernel and the grid from the position table.

    Args:
        tensors: by our names, as `rename` returns them.
        config: the method's configuration, which knows how large a token is.
        image_size: pixels per side; else the table has to be that of a square or a cube.

    Raises:
        WeightsError: when the encoder does not start with a convolution.
        UsageError: when there is no square table and no image size is given.
    """
    # A linear layer may have the name, and a table as many axes as a kernel.
    kernels = {
        k: v
        for k, v in tensors.items()
        if k.startswith("encoder.") and k.endswith(".weight") and v.ndim > 2
    }
    kernel = kernels.get("encoder.patch_embed.proj.weight", next(iter(kernels.values()), None))
    if kernel is None:
        reason = "has no kernel that reads pixels"
        raise WeightsError("checkpoint", reason, "give a checkpoint that holds the encoder")
    rank, channels, patch = kernel.ndim - 2, kernel.shape[1], config.encoder.patch_size
    if image_size is not None:
        return Grid.for_image((image_size,) * rank, patch, channels)
    table = tensors.get("encoder.pos_embed")
    tokens = -1 if table is None else table.shape[1] - ("encoder.cls_token" in tensors)
    side = _side(tokens, rank)
    if side is None:
        raise UsageError(
            "image size", "cannot be read from the checkpoint's position table", "give --image-size"
        )
    lengths = per_axis(patch, rank)
    return Grid.for_image([side * length for length in lengths], lengths, channels)


def import_published(
    source: str | Path | Mapping[str, Tensor],
    name: str,
    *,
    config: MethodConfig | None = None,
    grid: Grid | None = None,
    image_size: int | None = None,
    num_heads: int | None = None,
    decoder_heads: int | None = None,
    allow_partial: bool = False,
) -> Imported:
    """Build a method and fill it with published weights.

    Args:
        source: a checkpoint file, or tensors by their published names.
        name: the method, a row of `METHODS`.
        config: the configuration, when it is known; else it is read from the shapes.
        grid: the geometry, when it is known; else it is read from the position table.
        image_size: side in pixels for which the method is built.
        num_heads: see `infer_config`.
        decoder_heads: see `infer_config`.
        allow_partial: accept a file without a decoder (released MAE files hold the encoder only).

    Raises:
        WeightsError: when the file cannot be trusted or does not fit.
        UsageError: when something has to be given that the file does not tell.
    """
    if not isinstance(source, Mapping):
        state = read_tensors(source)
        with _naming(source):
            return import_published(
                state,
                name,
                config=config,
                grid=grid,
                image_size=image_size,
                num_heads=num_heads,
                decoder_heads=decoder_heads,
                allow_partial=allow_partial,
            )
    tensors, ignored = rename(source, name)
    if config is None:
        config = infer_config(source, name, num_heads=num_heads, decoder_heads=decoder_heads)
    method = build(config, grid or infer_grid(tensors, config, image_size))
    tensors = {key: value.to(torch.float32) for key, value in tensors.items()}
    fates = load_into(method, tensors, allow_partial=allow_partial)
    return Imported(method, config, (*fates, *ignored))


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Put the file in front of what is said about its tensors."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{path}: {error.subject}", error.reason, error.remedy) from error
