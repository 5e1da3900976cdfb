"""Methods on BEiT-style ViTs, which compute the whole grid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from golden import fill_state
from torch import Tensor

from mimkit.core.checkpoints.published import import_published
from mimkit.core.corruption import FillAndToken
from mimkit.core.encoders.beit import BEiT
from mimkit.core.grid import Grid, unpatchify
from mimkit.core.method import Method
from mimkit.core.methods import A2MIMConfig, MethodConfig, RoPIMConfig, SimMIMViTConfig
from mimkit.core.methods.a2mim import ResNetConfig
from mimkit.core.methods.config_beit import BEiTConfig
from mimkit.core.noise import FixedNoise
from mimkit.core.reconstruction import pixel_head
from mimkit.core.targets.pixels import PixelTarget
from mimkit.core.tokens import all_tokens, membership

from .common import Case, gradient_norms, inputs, names, run_step, unit_draws


def build(case: Case, config: MethodConfig, patch: int) -> Method:
    """Return the method of a case with its deterministic weights, through the importer."""
    published = case["config"]
    size = published["img_size"]
    sides = tuple(size) if isinstance(size, list) else (size, size)
    kernels = [
        s
        for k, s in case["state"].items()
        if k.endswith(("projection.weight", "proj.weight", "conv1.weight")) and len(s) > 3
    ]
    grid = Grid.for_image(sides, patch, kernels[0][1])
    return import_published(fill_state(case["state"]), config.name, config=config, grid=grid).method


def beit_config(case: Case) -> BEiTConfig:
    """Translate the encoder part of a SimMIM case's configuration."""
    published = case["config"]
    shared, own = published["use_shared_rel_pos_bias"], published["use_rel_pos_bias"]
    return BEiTConfig(
        embed_dim=published["embed_dim"],
        depth=published["depth"],
        num_heads=published["num_heads"],
        patch_size=published["patch_size"],
        mlp_ratio=float(published["mlp_ratio"]),
        relative_positions="shared" if shared else "block" if own else "none",
        absolute_positions=published["use_abs_pos_emb"],
        # A scale that starts at zero is one too.
        layer_scale=0.1 if "encoder.blocks.0.gamma_1" in case["state"] else None,
        qkv_bias=published["qkv_bias"],
        drop_path=published["drop_path"],
    )


def every(method: Method, num: int) -> Tensor:
    """Return the index of every token, for each image."""
    return all_tokens(num, method.grid.num_tokens, torch.device("cpu"))


def run_simmim_vit(case: Case) -> dict[str, Tensor]:
    """Compute everything a case of SimMIM on a ViT may ask for."""
    published, images = case["config"], inputs(case)["images"]
    unit = published["mask_patch_size"] // published["patch_size"]
    config = SimMIMViTConfig(
        encoder=beit_config(case),
        mask_ratio=published["mask_ratio"],
        mask_unit=unit,
        as_published=True,
    )
    method = build(case, config, published["patch_size"])
    output = run_step(method, images, unit_draws(method, inputs(case)["noise"], unit))
    shape, num = method.grid.shape, len(images)
    tokens = pixel_head(method).predict(output.features, output.plan, every(method, num))
    hidden = membership(output.plan.predict, method.grid.num_tokens).float()
    return {
        "loss": output.loss,
        "features": output.features.last.transpose(1, 2).unflatten(2, shape),
        "reconstruction": unpatchify(tokens, method.grid),
        "mask": hidden.unflatten(1, shape),
        **gradient_norms(method, case["outputs"], names(case, "simmim-vit"), ""),
    }


def run_ropim(case: Case) -> dict[str, Tensor]:
    """Compute everything a RoPIM case may ask for."""
    published, given = case["config"], inputs(case)
    encoder = BEiTConfig(
        embed_dim=published["embed_dim"],
        depth=published["depth"],
        num_heads=published["num_heads"],
        patch_size=published["patch_size"],
        mlp_ratio=float(published["mlp_ratio"]),
        relative_positions="shared" if published["shared_rel_pos"] else "none",
        absolute_positions=published["abs_pos"],
    )
    config = RoPIMConfig(
        encoder=encoder,
        sketch_ratio=published["sketch_ratio"],
        complement=published["complement"],
        as_published=True,
    )
    method, images = build(case, config, published["patch_size"]), given["images"]
    noise = FixedNoise({"hash": given["hash_noise"], "sign": given["sign_noise"]})
    output = run_step(method, images, noise)
    sketch, encoder_of = output.plan.sketch, method.get_submodule("encoder")
    assert sketch is not None
    assert isinstance(encoder_of, BEiT)
    unit = torch.eye(method.grid.num_tokens).expand(len(images), -1, -1)
    before = encoder_of.patch_embed(output.context.patches)
    error = output.context.patches - output.predictions["pixels"]
    channels = images.shape[1]
    lost = sketch.removed(error).unflatten(2, (-1, channels)).transpose(2, 3).flatten(2)
    return {
        "projection": sketch.kept(unit),
        "tokens_before": before,
        "tokens_projected": sketch.kept(before),
        "reconstruction": unpatchify(output.predictions["pixels"], method.grid),
        "residual_projected": lost.transpose(1, 2),
        "loss": output.loss,
        **gradient_norms(method, case["outputs"], names(case, "ropim"), ""),
    }


def a2mim_config(published: Mapping) -> A2MIMConfig:
    """Translate an A2MIM case's configuration."""
    head, is_vit = published["head"], published["arch"] == "vit"
    encoder = ResNetConfig(depths=DEPTHS.get(published["arch"], (3, 4, 6, 3)))
    if is_vit:
        encoder = BEiTConfig(
            embed_dim=published["dim"],
            depth=published["depth"],
            num_heads=published["heads"],
            patch_size=published["patch"],
            relative_positions="block" if published["relative_position"] else "none",
            absolute_positions=True,
            layer_scale=published["init_values"] or None,
        )
    return A2MIMConfig(
        encoder=encoder,
        mask_ratio=published["mask_ratio"],
        mask_unit=published["mask_patch"] // encoder.patch_size,
        # Released CNNs count the stages that a map has passed.
        mask_layer=published["mask_layer"] + (0 if is_vit else 1),
        mask_gamma=published["mask_init"] or None,
        error="l1" if head["loss"]["mode"] == "l1_loss" else "focal-l1",
        focal_alpha=head["loss"].get("alpha", 0.2),
        focal_gamma=head["loss"].get("gamma", 1.0),
        residual=published["residual"],
        frequency_weight=head["fft_weight"],
        frequency_loss="focal" if head["fft_focal"] else "plain",
        frequency_visible=head["fft_unmask_weight"],
        frequency_fill=head["fft_unmask_replace"],
        as_published=True,
    )


def run_a2mim(case: Case) -> dict[str, Tensor]:
    """Compute everything an A2MIM case may ask for."""
    published, given = case["config"], inputs(case)
    config = a2mim_config(published)
    method, images = build(case, config, config.encoder.patch_size), given["images"]
    for part in method.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()
    trunk, corruption = method.get_submodule("trunk"), method.corruption
    assert isinstance(corruption, FillAndToken)
    seen: list[Tensor] = []
    trunk.register_forward_hook(lambda *found: (found[2].retain_grad(), seen.append(found[2]))[1])
    output = run_step(method, images, unit_draws(method, given["noise"], config.mask_unit))
    filled, target = corruption.fill(output.context, output.plan), pixel_head(method).target
    assert isinstance(target, PixelTarget)
    statistics = target.statistics(output.context, every(method, len(images)))
    mean = 0.0 if statistics is None else statistics.mean
    hidden = membership(output.plan.predict, method.grid.num_tokens)[..., None]
    parts = {
        "masked_input": filled,
        "prediction": seen[0] + mean,
        "grad_prediction": seen[0].grad,
        "mask": hidden.expand_as(filled).float(),
    }
    pictures = {name: unpatchify(tokens, method.grid) for name, tokens in parts.items()}
    return {
        "loss": output.loss,
        "loss_spatial": output.terms["pixels"],
        **pictures,
        "mask": pictures["mask"][:, 0],
        **gradient_norms(method, case["outputs"], names(case, "a2mim"), ""),
    }


DEPTHS = {
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
    "resnet200": (3, 24, 36, 3),
}
ADAPTERS = {
    "a2mim ViT": run_a2mim,
    "a2mim ResNet-50": run_a2mim,
    "ropim": run_ropim,
    "simmim-vit": run_simmim_vit,
}
