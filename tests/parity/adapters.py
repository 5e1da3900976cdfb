"""How a case of a published implementation is run with our methods: one function per method."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from golden import fill, fill_state
from torch import Tensor

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.published import import_published
from mimkit.core.grid import Grid
from mimkit.core.method import Method, Output
from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig, SelectiveMAEConfig
from mimkit.core.noise import FixedNoise
from mimkit.core.targets.gradients import cells_to_tokens, hog
from mimkit.core.tokens import all_tokens, membership

Case = Mapping


def inputs(case: Case) -> dict[str, Tensor]:
    """Fill a case's inputs; names lose their "input/" prefix."""
    out = {}
    for key, how in case["inputs"].items():
        name = key.removeprefix("input/")
        out[name] = fill(f"input/{name}", tuple(how["shape"]), how["kind"])
    return out


def published_method(case: Case, config: MAEConfig | SelectiveMAEConfig) -> Method:
    """Build the method and load the case's deterministic weights through the public importer."""
    published = case["config"]
    size = published["img_size"]
    sides = tuple(size) if isinstance(size, list) else (size, size)
    grid = Grid.for_image(sides, published["patch_size"], published["in_chans"])
    state = fill_state(case["state"])
    return import_published(state, config.name, config=config, grid=grid).method


def encoder_config(published: Mapping) -> EncoderConfig:
    """Translate the encoder part of a case's configuration."""
    return EncoderConfig(
        embed_dim=published["embed_dim"],
        patch_size=published["patch_size"],
        mlp_ratio=float(published["mlp_ratio"]),
        depth=published["depth"],
        num_heads=published["num_heads"],
    )


def decoder_config(published: Mapping) -> DecoderConfig:
    """Translate the decoder part of a case's configuration."""
    return DecoderConfig(
        dim=published["decoder_embed_dim"],
        mlp_ratio=float(published["mlp_ratio"]),
        depth=published["decoder_depth"],
        num_heads=published["decoder_num_heads"],
    )


def run_step(method: Method, images: Tensor, noise: FixedNoise, epoch: float = 0.0) -> Output:
    """Run forward and backward once, from zero gradients."""
    method.zero_grad()
    batch = Batch(images, None, torch.arange(len(images)))
    output = method(batch, Progress(epoch, 800), noise)
    output.loss.backward()
    return output


def gradient_norms(method: Method, wanted: Mapping, published: Mapping[str, str], prefix: str):
    """Return the gradient norms a case asks for; `published` translates their names."""
    own = dict(method.named_parameters())
    head = f"{prefix}grad_norm/"
    norms = {}
    for key in wanted:
        if key.startswith(head):
            grad = own[published[key.removeprefix(head)]].grad
            assert grad is not None, f"{key}: no gradient"
            norms[key] = grad.norm()
    return norms


def names(case: Case, method_name: str) -> dict[str, str]:
    """Return published parameter name -> ours, for every parameter of a case."""
    from mimkit.core.checkpoints.published import rename

    return {
        key: next(iter(rename({key: torch.zeros(1)}, method_name)[0]), "") for key in case["state"]
    }


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
    head = method.objectives["pixels"]
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
        "pos_embed": method.encoder.pos_embed,
        "decoder_pos_embed": head.predictor.get_buffer("pos_embed"),
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
    )
    rows, cols = grid.shape
    tokens = cells_to_tokens(cells, (rows, cols))
    variance, mean = torch.var_mean(tokens, dim=-1, keepdim=True)
    score = ((tokens - mean) / (variance + 1e-6).sqrt()).mean(dim=-1)
    return {"hog": tokens, "hog_score_abs_max": score.abs().max()}


ADAPTERS: dict[str, Callable[[Case], dict[str, Tensor]]] = {
    "mae": run_mae,
    "selectivemae": run_selectivemae,
}
