"""Methods that pre-train a feature pyramid on HiViT."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from golden import fill_state
from torch import Tensor

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.published import import_published
from mimkit.core.decoders.feature_pyramid import PyramidConfig, PyramidTrunk
from mimkit.core.encoders.hivit import HiViT, HiViTConfig
from mimkit.core.grid import Grid
from mimkit.core.method import Method, Output
from mimkit.core.methods import ITPNClipConfig, ITPNConfig
from mimkit.core.noise import FixedNoise
from mimkit.core.positions import sincos
from mimkit.core.reconstruction import pixel_head
from mimkit.core.targets.features import FeatureTarget
from mimkit.core.tokens import all_tokens, membership, take

from .common import Case, decoder_config, gradient_norms, inputs, names, own_names, run_step


def hivit_config(published: Mapping) -> HiViTConfig:
    """Translate the encoder part of a case's configuration."""
    both = published.get("mlp_depth")
    return HiViTConfig(
        embed_dim=published["embed_dim"],
        stem_depths=(published.get("mlp_depth1", both), published.get("mlp_depth2", both)),
        depth=published["depth"],
        num_heads=published["num_heads"],
        patch_size=published["patch_size"],
        stem_ratio=float(published["bridge_mlp_ratio"]),
        mlp_ratio=float(published["mlp_ratio"]),
        relative_bias=published["rpe"],
        layer_scale=published.get("layer_scale"),
    )


def pyramid_config(published: Mapping) -> PyramidConfig:
    """Translate the pyramid part of a case's configuration."""
    return PyramidConfig(
        dim=published["fpn_dim"],
        depth=published["fpn_depth"],
        levels=3 if published["num_outs"] == 3 else 2,
    )


def pyramid_method(case: Case, config: ITPNConfig | ITPNClipConfig, channels: int) -> Method:
    """Build the method; a position table that the case lacks is as its code computes it."""
    published = case["config"]
    sides = (published["img_size"],) * 2 if isinstance(published["img_size"], int) else None
    grid = Grid.for_image(sides or published["img_size"], published["patch_size"], channels)
    state = fill_state(case["state"])
    table = sincos(grid.shape, published["embed_dim"])[None]
    state = {"absolute_pos_embed": table} | state
    return import_published(state, config.name, config=config, grid=grid).method


def pyramid_levels(method: Method, output: Output, suffix: str = "") -> dict[str, Tensor]:
    """Return the levels of a pyramid by the size of their cells, units in raster order."""
    trunk, plan, grid = method.trunk, output.plan, method.grid
    assert isinstance(trunk, PyramidTrunk)
    levels = trunk.levels(output.features, plan)
    if output.features.last.shape[1] == plan.visible.shape[1]:
        order = plan.visible.argsort(dim=1)
        levels = [take(level, order) for level in levels]
    return {
        f"pyramid_{grid.patch[0] // side}{suffix}": as_square(level, side)
        for side, level in zip((1, 2, 4), levels, strict=False)
    }


def as_square(level: Tensor, side: int) -> Tensor:
    """Return the cells of each unit as a square."""
    return level.unflatten(2, (side, side))


def run_itpn(case: Case) -> dict[str, Tensor]:
    """Compute everything that a case of the pixel variant may ask for."""
    published, given = case["config"], inputs(case)
    config = ITPNConfig(
        encoder=hivit_config(published),
        pyramid=pyramid_config(published),
        decoder=decoder_config(published),
        mask_ratio=published["mask_ratio"],
        as_published=True,
    )
    images = given["images"]
    method = pyramid_method(case, config, images.shape[1])
    encoder, trunk = method.encoder, method.trunk
    assert isinstance(encoder, HiViT)
    assert isinstance(trunk, PyramidTrunk)
    output = run_step(method, images, FixedNoise({"mask": given["noise"]}))
    everything = all_tokens(len(images), method.grid.num_tokens, images.device)
    head = pixel_head(method)
    with torch.no_grad():
        full = trunk.levels(encoder.encode(images, taps=trunk.taps))
    return {
        "loss": output.loss,
        "mask": membership(output.plan.predict, method.grid.num_tokens).float(),
        "pred": head.predict(output.features, output.plan, everything),
        **pyramid_levels(method, output, "_visible_raster"),
        **{
            f"pyramid_{method.grid.patch[0] // side}_full": as_square(level, side)
            for side, level in zip((1, 2, 4), full, strict=False)
        },
        **gradient_norms(method, case["outputs"], names(case, "itpn") | EXTRA, ""),
    }


def run_itpn_clip(case: Case) -> dict[str, Tensor]:
    """Compute everything that a case of the variant with a teacher may ask for."""
    published, given = case["config"], inputs(case)
    images, teacher_tokens, noise = (
        given[name] for name in ("images", "teacher_tokens", "mask_noise")
    )
    config = ITPNClipConfig(
        encoder=hivit_config(published),
        pyramid=pyramid_config(published),
        teacher_dim=published["teacher_dim"],
        mask="random",
        mask_ratio=published["num_masked"] / noise.shape[1],
        drop_path=0.0,
        as_published=True,
    )
    method = pyramid_method(case, config, images.shape[1])
    method.zero_grad()
    batch = Batch(images, None, torch.arange(len(images)), features=teacher_tokens)
    # The smallest draws are hidden there and seen here.
    output = method(batch, Progress(0.0, 300), FixedNoise({"mask": -noise}))
    output.loss.backward()
    everything = all_tokens(len(images), method.grid.num_tokens, images.device)
    target = FeatureTarget(published["teacher_dim"])
    return {
        "loss": output.loss,
        "loss_pyramid": output.terms["pyramid"],
        "loss_aux": output.terms["auxiliary"],
        "mask": membership(output.plan.predict, method.grid.num_tokens).float(),
        "target": target(output.context, everything).values,
        "prediction": output.predictions["pyramid"],
        "prediction_aux": output.predictions["auxiliary"],
        **pyramid_levels(method, output),
        **gradient_norms(method, case["outputs"], own_names(case, "itpn-clip") | EXTRA, ""),
    }


EXTRA = {"absolute_pos_embed": "encoder.pos_embed"}
"""Parameters that a case may leave out of its state and still ask a gradient of."""

ADAPTERS = {"itpn": run_itpn, "itpn (CLIP target variant)": run_itpn_clip}
