"""Methods whose decoders read several layers of the encoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from golden import fill_state
from torch import Tensor

from mimkit.core.checkpoints.published import import_published
from mimkit.core.decoders.cross import CrossDecoder
from mimkit.core.decoders.pyramid import CellDecoder
from mimkit.core.encoders.fusion import TapFusion
from mimkit.core.encoders.swin import SwinConfig
from mimkit.core.grid import Grid
from mimkit.core.method import Head, Method, Objective, Output
from mimkit.core.methods import (
    DecoderConfig,
    EncoderConfig,
    HiEndMAEConfig,
    LocalMIMConfig,
    LocalMIMSwinConfig,
    MethodConfig,
    MFFConfig,
)
from mimkit.core.noise import FixedNoise
from mimkit.core.objectives.regions import RegionHead, num_hidden
from mimkit.core.reconstruction import pixel_head
from mimkit.core.tokens import all_tokens, membership, take

from .common import Case, decoder_config, gradient_norms, inputs, own_names, run_step


def sides(length: int | list[int], rank: int) -> tuple[int, ...]:
    """Return a length per axis."""
    return tuple(length) if isinstance(length, list) else (length,) * rank


def loaded(case: Case, config: MethodConfig, size: tuple[int, ...]) -> Method:
    """Build a method for images of a size and load the case's weights with the importer."""
    published = case["config"]
    patch = sides(published["patch_size"], len(size))
    grid = Grid.for_image(size, patch, published["in_chans"])
    state = fill_state(case["state"])
    return import_published(state, config.name, config=config, grid=grid).method


def encoder_of(published: Mapping, rank: int) -> EncoderConfig:
    """Translate the encoder part of a case's configuration."""
    return EncoderConfig(
        embed_dim=published["embed_dim"],
        depth=published["depth"],
        num_heads=published["num_heads"],
        patch_size=sides(published["patch_size"], rank)[0],
        mlp_ratio=float(published["mlp_ratio"]),
    )


def run_hi_end_mae(case: Case) -> dict[str, Tensor]:
    """Compute everything a Hi-End-MAE case may ask for."""
    published, given = case["config"], inputs(case)
    size = tuple(given["volume"].shape[2:])
    reads = tuple(published["tapped_block_indices"])
    config = HiEndMAEConfig(
        encoder=encoder_of(published, len(size)),
        decoder=DecoderConfig(
            dim=published["decoder_embed_dim"],
            depth=published["decoder_self_depth"],
            num_heads=published["decoder_num_heads"],
            mlp_ratio=float(published["mlp_ratio"]),
        ),
        contexts=reads,
        mask_ratio=published["mask_ratio"],
        as_published=True,
    )
    method = loaded(case, config, size)
    output = run_step(method, given["volume"], FixedNoise({"mask": given["noise"]}))
    everything = all_tokens(len(given["volume"]), method.grid.num_tokens, torch.device("cpu"))
    head, features = pixel_head(method), output.features
    decoder = head.predictor
    assert isinstance(decoder, CrossDecoder)
    assert decoder.stem is not None
    prefix = features.num_prefix
    memories = {f"memory{read}": decoder.memory(k, features) for k, read in enumerate(reads)}
    return {
        "loss": output.loss,
        "pred": head.predict(features, output.plan, everything),
        "target": head.target(output.context, everything).values,
        "mask": membership(output.plan.predict, method.grid.num_tokens).float(),
        "query0": decoder.stem.trunk(features, output.plan)[:, 0],
        **memories,
        "encoder_pos_embed": method.get_buffer("encoder.pos_embed")[:, prefix:],
        "decoder_pos_embed": decoder.stem.trunk.pos_embed[:, prefix:],
        **gradient_norms(method, case["outputs"], own_names(case, method.name), ""),
    }


def run_localmim(case: Case) -> dict[str, Tensor]:
    """Compute everything a LocalMIM case on a ViT may ask for."""
    published, given = case["config"], inputs(case)
    size = tuple(given["images"].shape[2:])
    config = LocalMIMConfig(
        encoder=encoder_of(published, len(size)),
        decoder=DecoderConfig(
            dim=published["decoder_embed_dim"],
            depth=published["decoder_depth"],
            num_heads=published["decoder_num_heads"],
            mlp_ratio=float(published["mlp_ratio"]),
        ),
        taps=tuple(published["tapped_blocks"]),
        scales=tuple(map(float, published["scales"])),
        num_bins=published["hog_nbins"],
        hog_bias=published["hog_bias"],
        mask_ratio=published["mask_ratio"],
        as_published=True,
    )
    method = loaded(case, config, size)
    output = run_step(method, given["images"], FixedNoise({"mask": given["noise"]}))
    out = {
        "loss": output.loss,
        "mask": membership(output.plan.predict, method.grid.num_tokens).float(),
        **gradient_norms(method, case["outputs"], own_names(case, method.name), ""),
    }
    for number, head in enumerate(method.objectives.values()):
        truth, guess, weight, latent = one_level(head, output)
        out |= {
            f"hog{number}": truth,
            f"pred{number}": guess,
            f"weight{number}": weight,
            f"loss{number}": output.terms[f"level{number}"],
            f"latent{number}": latent,
        }
    return out


def run_localmim_swin(case: Case) -> dict[str, Tensor]:
    """Compute everything a LocalMIM case on a Swin may ask for; half of it has a bug repaired."""
    repaired = localmim_swin(case, released_places=False)
    released = localmim_swin(case, released_places=True)
    return repaired | {f"published/{name}": value for name, value in released.items()}


def localmim_swin(case: Case, *, released_places: bool) -> dict[str, Tensor]:
    """Compute everything with cells of the middle stages in their places or not."""
    published, given = case["config"], inputs(case)
    size = tuple(given["images"].shape[2:])
    config = LocalMIMSwinConfig(
        encoder=SwinConfig(
            patch_size=published["mask_unit"],
            stem_size=published["patch_size"],
            embed_dim=published["embed_dim"],
            depths=tuple(published["depths"]),
            num_heads=tuple(published["num_heads"]),
            window_size=published["window_size"],
            square_windows=True,  # published constructors shrink them by min(grid)
            mlp_ratio=float(published["mlp_ratio"]),
            qkv_bias=published["qkv_bias"],
            patch_norm="encoder.patch_embed.norm.weight" in case["state"],
            eps=published["layer_norm_eps"],
        ),
        decoder=DecoderConfig(
            depth=published["decoder_depth"],
            num_heads=published["decoder_num_heads"],
            mlp_ratio=float(published["mlp_ratio"]),
        ),
        decoder_dims=tuple(published["decoder_embed_dims"]),
        target="hog" if published["target"] == "HOG" else "pixels",
        num_bins=published.get("hog_nbins", 9),
        hog_bias=published.get("hog_bias", False),
        norm_pix=published.get("norm_pix_loss", True),
        mask_ratio=published["mask_ratio"],
        as_published=True,
        released_places=released_places,
    )
    grid = Grid.for_image(size, published["mask_unit"], published["in_chans"])
    state = fill_state(case["state"])
    method = import_published(state, config.name, config=config, grid=grid).method
    # The release hides the units whose number in a random order is small.
    order = given["noise"].argsort().float()
    output = run_step(method, given["images"], FixedNoise({"mask": -order[None]}))
    plan = output.plan
    out = {
        "loss": output.loss,
        "mask": membership(plan.predict, grid.num_tokens)[0].float(),
        **gradient_norms(method, case["outputs"], own_names(case, method.name), ""),
    }
    for number, head in enumerate(method.objectives.values()):
        assert isinstance(head, Head)
        truth, guess, weight, latent = one_level(head, output)
        units = latent.unflatten(1, (plan.visible.shape[1], -1))
        out |= {
            f"target{number}": truth,
            f"hog{number}": truth,
            f"pred{number}": guess,
            f"weight{number}": weight,
            f"loss{number}": output.terms[f"level{number}"],
            f"latent{number}": take(units, plan.visible.argsort(dim=1)).flatten(1, 2),
        }
    return out


def one_level(head: Objective, output: Output) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return target, prediction and weight of all cells of a level, and the layer it reads."""
    context, plan, features = output.context, output.plan, output.features
    shape, num_tokens = context.grid.shape, context.grid.num_tokens
    if isinstance(head, RegionHead):
        factor, rank = head.predictor.factor, len(shape)
        weight = num_hidden(plan, context.grid, factor) / factor**rank
        guess = head.predictor(features, plan)
        return head.target(context).values, guess, weight, head.predictor.reader.layer(features)
    assert isinstance(head, Head)
    assert isinstance(head.predictor, CellDecoder)
    everything = all_tokens(len(plan.predict), num_tokens, plan.predict.device)
    side = head.predictor.reader.parts[0] * 2 ** len(head.predictor.doublings)
    truth = in_raster_order(head.target(context, everything).values, shape, side)
    guess = in_raster_order(head.predict(features, plan, everything), shape, side)
    hidden = membership(plan.predict, num_tokens).float()[..., None]
    weight = in_raster_order(hidden.repeat(1, 1, side * side), shape, side)[..., 0]
    return truth, guess, weight, head.predictor.reader.layer(features)


def in_raster_order(tokens: Tensor, shape: tuple[int, ...], side: int) -> Tensor:
    """Return cells (b, m, d) in raster order from tokens whose numbers are (d, row, column)."""
    rows, cols = shape
    cells = tokens.unflatten(2, (-1, side, side)).unflatten(1, (rows, cols))
    return cells.permute(0, 1, 4, 2, 5, 3).flatten(1, 4)


def run_mff(case: Case) -> dict[str, Tensor]:
    """Compute everything an MFF case may ask for."""
    published, given = case["config"], inputs(case)
    config = MFFConfig(
        encoder=encoder_of(published, 2),
        decoder=decoder_config(published),
        fused_blocks=tuple(published["fused_blocks"]),
        mask_ratio=published["mask_ratio"],
        norm_pix=published["norm_pix_loss"],
        as_published=True,
    )
    method = loaded(case, config, tuple(given["images"].shape[2:]))
    output = run_step(method, given["images"], FixedNoise({"mask": given["noise"]}))
    everything = all_tokens(len(given["images"]), method.grid.num_tokens, torch.device("cpu"))
    assert isinstance(method.neck, TapFusion)
    return {
        "loss": output.loss,
        "pred": pixel_head(method).predict(output.features, output.plan, everything),
        "mask": membership(output.plan.predict, method.grid.num_tokens).float(),
        "latent": output.features.sequence,
        "fusion_weights": method.neck.weights,
        "pos_embed": method.get_buffer("encoder.pos_embed"),
        "decoder_pos_embed": method.get_buffer("heads.pixels.predictor.pos_embed"),
        **gradient_norms(method, case["outputs"], own_names(case, method.name), ""),
    }


ADAPTERS = {
    "hi-end-mae": run_hi_end_mae,
    "localmim": run_localmim,
    "localmim-swin": run_localmim_swin,
    "mff": run_mff,
}
