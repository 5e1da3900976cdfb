"""What running a case of a published implementation needs, whatever the method."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from golden import fill, fill_state
from torch import Tensor

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.published import import_published, rename
from mimkit.core.grid import Grid
from mimkit.core.method import Method, Output
from mimkit.core.methods import DecoderConfig, EncoderConfig, MethodConfig
from mimkit.core.noise import FixedNoise

Case = Mapping


def inputs(case: Case) -> dict[str, Tensor]:
    """Fill a case's inputs; names lose their "input/" prefix."""
    out = {}
    for key, how in case["inputs"].items():
        name = key.removeprefix("input/")
        out[name] = fill(f"input/{name}", tuple(how["shape"]), how["kind"])
    return out


def published_method(case: Case, config: MethodConfig) -> Method:
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


def unit_draws(method: Method, noise: Tensor, unit: int) -> FixedNoise:
    """Return a case's noise, by which the least is hidden, as ours, by which the least is seen."""
    coarse = [-(-n // unit) for n in method.grid.shape]
    if unit == 1:
        return FixedNoise({"mask": -noise})
    return FixedNoise({"unit": -noise.reshape(len(noise), 1, *coarse)})


def gradient_norms(method: Method, wanted: Mapping, published: Mapping[str, str], prefix: str):
    """Return the gradient norms a case asks for; `published` translates their names."""
    own = dict(method.named_parameters())
    head = f"{prefix}grad_norm/"
    norms = {}
    for key in wanted:
        if key.startswith(head):
            grad = own[published[key.removeprefix(head)]].grad
            assert grad is not None, f"{key}: no gradient"
            norms[key] = grad.double().norm()
    return norms


def names(case: Case, method_name: str) -> dict[str, str]:
    """Return published parameter name -> ours, for every parameter of a case."""
    return {
        key: next(iter(rename({key: torch.zeros(1)}, method_name)[0]), "") for key in case["state"]
    }


def own_names(case: Case, method_name: str) -> dict[str, str]:
    """Return published parameter name -> ours; a file is translated as a whole."""
    keys = list(case["state"])
    state = {key: torch.full(case["state"][key], float(n)) for n, key in enumerate(keys)}
    return {keys[int(value.max())]: name for name, value in rename(state, method_name)[0].items()}
