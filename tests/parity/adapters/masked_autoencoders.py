"""MAE and the methods that change its mask or its decoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mimkit.core.grid import Grid
from mimkit.core.methods import MAEConfig, SelectiveMAEConfig
from mimkit.core.noise import FixedNoise
from mimkit.core.reconstruction import pixel_head
from mimkit.core.targets.gradients import cells_to_tokens, hog
from mimkit.core.tokens import all_tokens, membership

from .common import (
    Case,
    decoder_config,
    encoder_config,
    gradient_norms,
    inputs,
    names,
    published_method,
    run_step,
)


def run_mae(case: Case) -> dict[str, Tensor]:
    """Compute everything an MAE case may ask for."""
    published, given = case["config"], inputs(case)
    config = MAEConfig(
        encoder=encoder_config(published),
        decoder=decoder_config(published),
        mask_ratio=published["mask_ratio"],
        norm_pix=published["norm_pix_loss"],
        as_published=True,
    )
    method = published_method(case, config)
    output = run_step(method, given["images"], FixedNoise({"mask": given["noise"]}))
    num_tokens = method.grid.num_tokens
    head = pixel_head(method)
    everything = all_tokens(len(given["images"]), num_tokens, given["images"].device)
    hidden = membership(output.plan.predict, num_tokens)
    # Published order: kept tokens in sampling order, then the others by their noise.
    rest = given["noise"].masked_fill(~hidden, torch.inf).argsort(dim=1)
    shuffle = torch.cat([output.plan.visible, rest[:, : int(hidden[0].sum())]], dim=1)
    return {
        "loss": output.loss,
        "pred": head.predict(output.features, output.plan, everything),
        "mask": hidden.float(),
        "ids_restore": shuffle.argsort(dim=1),
        "latent": output.features.sequence,
        "pos_embed": method.get_buffer("encoder.pos_embed"),
        "decoder_pos_embed": method.get_buffer("heads.pixels.predictor.pos_embed"),
        **gradient_norms(method, case["outputs"], names(case, "mae"), ""),
    }


def run_selectivemae(case: Case) -> dict[str, Tensor]:
    """Compute everything a SelectiveMAE case may ask for, at each epoch that it names."""
    published, given = case["config"], inputs(case)
    steps = published["expansion_step"]
    config = SelectiveMAEConfig(
        encoder=encoder_config(published),
        decoder=decoder_config(published),
        mask_ratio=published["mask_ratio"],
        predict_ratio=published["kept_mask_ratio"],
        published_epochs=tuple(steps[1:]),
        num_rounds=published["expansion_rounds"],
        self_attn=published["decoder_self_attn"],
        norm_pix=published["norm_pix_loss"],
        as_published=True,
    )
    method = published_method(case, config)
    translate = names(case, "selectivemae")
    out = dict(descriptors(given["images"], published, method.grid))
    draws = {"seed": given["weights"], "target": given["weights"]}
    draws |= {f"rank/{row}": perm for row, perm in enumerate(given["perm"])}
    epochs = {k.split("/")[0] for k in case["outputs"] if k.startswith("epoch")}
    for epoch in sorted(epochs):
        step = run_step(method, given["images"], FixedNoise(draws), float(epoch[5:]))
        num_tokens = method.grid.num_tokens
        seeds = step.plan.visible[:, : config.selection(num_tokens).num_seeds]
        out["seed_mask"] = membership(seeds, num_tokens).float()
        out |= {
            f"{epoch}/loss": step.loss,
            f"{epoch}/loss_per_sample": step.per_sample,
            f"{epoch}/selected_mask": membership(step.plan.visible, num_tokens).float(),
            f"{epoch}/target_mask": membership(step.plan.predict, num_tokens).float(),
            f"{epoch}/pred": step.predictions["pixels"],
            f"{epoch}/cls": step.features.prefix[:, 0],
            **gradient_norms(method, case["outputs"], translate, f"{epoch}/"),
        }
    return out


def descriptors(images: Tensor, published: Mapping, grid: Grid) -> dict[str, Tensor]:
    """Return the HOG descriptor per token and the size of the score published code makes of it."""
    how = published["hog"]
    cells = hog(
        images,
        cell=how["pool"],
        num_bins=how["nbins"],
        average=False,
        window=how["gaussian_window"],
        convolved=True,
    )
    rows, cols = grid.shape
    tokens = cells_to_tokens(cells, (rows, cols))
    variance, mean = torch.var_mean(tokens, dim=-1, keepdim=True)
    score = ((tokens - mean) / (variance + 1e-6).sqrt()).mean(dim=-1)
    return {"hog": tokens, "hog_score_abs_max": score.abs().max()}


ADAPTERS = {"mae": run_mae, "selectivemae": run_selectivemae}
