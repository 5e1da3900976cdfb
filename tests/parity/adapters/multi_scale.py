"""Methods whose decoders read several layers of the encoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from golden import fill_state
from torch import Tensor

from mimkit.core.checkpoints.published import import_published, rename
from mimkit.core.decoders.cross import CrossDecoder
from mimkit.core.grid import Grid
from mimkit.core.method import Method
from mimkit.core.methods import DecoderConfig, EncoderConfig, HiEndMAEConfig, MethodConfig
from mimkit.core.noise import FixedNoise
from mimkit.core.tokens import all_tokens, membership

from .common import Case, gradient_norms, inputs, run_step


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


def own_names(case: Case, method_name: str) -> dict[str, str]:
    """Return published parameter name -> ours; a file is translated as a whole."""
    state = {key: torch.zeros(shape) for key, shape in case["state"].items()}
    ours = {id(value): name for name, value in rename(state, method_name)[0].items()}
    return {key: ours.get(id(value), "") for key, value in state.items()}


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
    head, features = method.objectives["pixels"], output.features
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


ADAPTERS = {"hi-end-mae": run_hi_end_mae}
