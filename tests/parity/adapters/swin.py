"""SimMIM's family on Swin and SwinV2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from golden import fill_state
from torch import Tensor

from mimkit.core.checkpoints.published import import_published
from mimkit.core.encoders.swin import Swin, SwinConfig
from mimkit.core.grid import Grid, unpatchify
from mimkit.core.method import Method, Output
from mimkit.core.methods import DataScalingConfig, SatVisionTOAConfig, SimMIMConfig
from mimkit.core.reconstruction import pixel_head
from mimkit.core.targets.local_norm import LocalNormTarget
from mimkit.core.tokens import all_tokens, membership

from .common import Case, gradient_norms, inputs, names, run_step, unit_draws


def swin_config(published: Mapping, version: int) -> tuple[SwinConfig, int]:
    """Translate a case's encoder; returns it and the tokens per side of a mask unit."""
    stride = published["patch_size"] * 2 ** (len(published["depths"]) - 1)
    token = min(stride, published["mask_patch_size"])
    optional: dict[str, Any] = {
        "extra_norm_period": published.get("extra_norm_period", 0),
        "extra_norm_stage": published.get("extra_norm_stage", False),
        "patch_norm": published.get("patch_norm", True),
    }
    encoder = SwinConfig(
        patch_size=token,
        stem_size=published["patch_size"],
        embed_dim=published["embed_dim"],
        depths=tuple(published["depths"]),
        num_heads=tuple(published["num_heads"]),
        window_size=published["window_size"],
        square_windows=True,  # published constructors shrink them by min(grid)
        version=2 if version == 2 else 1,
        mlp_ratio=float(published["mlp_ratio"]),
        qkv_bias=published["qkv_bias"],
        **optional,
    )
    return encoder, published["mask_patch_size"] // token


def build(case: Case, kind: type, version: int, **options: Any) -> Method:
    """Return the method of a case with its deterministic weights, through the importer."""
    published = case["config"]
    encoder, unit = swin_config(published, version)
    config = kind(
        encoder=encoder,
        mask_ratio=published["mask_ratio"],
        mask_unit=unit,
        as_published=True,
        **options,
    )
    size = published["img_size"]
    sides = tuple(size) if isinstance(size, list) else (size, size)
    grid = Grid.for_image(sides, encoder.patch_size, published["in_chans"])
    state = fill_state(case["state"])
    return import_published(state, config.name, config=config, grid=grid).method


def images_of(method: Method, tokens: Tensor) -> Tensor:
    """Return predicted tokens as images."""
    return unpatchify(tokens, method.grid)


def outputs(case: Case, method: Method, output: Output) -> dict[str, Tensor]:
    """Compute everything a case of this family may ask for."""
    grid, stem = method.grid, case["config"]["patch_size"]
    head, encoder = pixel_head(method), method.encoder
    assert isinstance(encoder, Swin)
    everything = all_tokens(len(output.plan.predict), grid.num_tokens, output.loss.device)
    pixels = images_of(method, head.predict(output.features, output.plan, everything))
    hidden = membership(output.plan.predict, grid.num_tokens).float().reshape(-1, *grid.shape)
    for axis, length in enumerate(grid.patch, 1):
        hidden = hidden.repeat_interleave(length // stem, dim=axis)
    cells = encoder.map_shape(grid.shape)
    features = output.features.last.unflatten(1, cells).movedim(-1, 1)
    out = {
        "loss": output.loss,
        "features": features,
        "reconstruction": pixels,
        "prediction": pixels,
        "mask": hidden,
        **gradient_norms(method, case["outputs"], names(case, method.name), ""),
    }
    if isinstance(head.target, LocalNormTarget):
        truth = head.target(output.context, everything).values
        out["target"] = images_of(method, truth)
    return out


def run_family(case: Case, kind: type, version: int, **options: Any) -> dict[str, Tensor]:
    """Run a case of one of the methods."""
    given, method = inputs(case), build(case, kind, version, **options)
    unit = swin_config(case["config"], version)[1]
    output = run_step(method, given["images"], unit_draws(method, given["noise"], unit))
    with torch.no_grad():
        return outputs(case, method, output)


def run_simmim(case: Case) -> dict[str, Tensor]:
    """Compute everything a SimMIM case may ask for, with either encoder and either target."""
    published = case["config"]
    version = {"swin": 1, "swinv2": 2}[published["encoder"]]
    if published["norm_target_window"] is None:
        return run_family(case, SimMIMConfig, version)
    window = published["norm_target_window"]
    return run_family(case, DataScalingConfig, version, target_window=window)


def run_satvision_toa(case: Case) -> dict[str, Tensor]:
    """Compute everything a SatVision-TOA case may ask for."""
    return run_family(case, SatVisionTOAConfig, 2)


ADAPTERS = {
    "simmim": run_simmim,
    "data-scaling": run_simmim,
    "satvision-toa": run_satvision_toa,
}
