"""Methods with a teacher, and with several views of an image."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from golden import fill, fill_state
from torch import Tensor

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.published import import_published
from mimkit.core.context import Context
from mimkit.core.decoders.projector import Norm
from mimkit.core.encoders.conv_vit import ConvViTConfig
from mimkit.core.grid import Grid
from mimkit.core.masking.hard import HardMask
from mimkit.core.method import Head, Method
from mimkit.core.methods import DecoderConfig, DMJDConfig, HPMConfig, LUTConfig
from mimkit.core.methods.dmjd import LossName
from mimkit.core.noise import FixedNoise
from mimkit.core.objectives.alignment import CrossViewAlignment
from mimkit.core.objectives.ranking import absolute
from mimkit.core.objectives.visible import VisibleHead
from mimkit.core.reconstruction import pixel_head
from mimkit.core.targets.central_hog import CentralHogTarget, central_hog
from mimkit.core.targets.contract import TargetValue
from mimkit.core.tokens import all_tokens, membership, take

from .common import Case, decoder_config, encoder_config, inputs, names, published_method


def own_gradient_norms(method: Method, case: Case, translate: Callable[[str], str], prefix: str):
    """Return the gradient norms a case asks for; parameters that never learn have zero."""
    own, norms = dict(method.named_parameters()), {}
    for key in case["outputs"]:
        if key.startswith(prefix):
            parameter = own[translate(key.removeprefix(prefix))]
            assert parameter.requires_grad == (parameter.grad is not None), key
            norms[key] = torch.zeros(()) if parameter.grad is None else parameter.grad.norm()
    return norms


def run_hpm(case: Case) -> dict[str, Tensor]:
    """Compute everything an HPM case may ask for."""
    published, given = case["config"], inputs(case)
    config = HPMConfig(
        encoder=encoder_config(published),
        decoder=decoder_config(published),
        mask_ratio=published["mask_ratio"],
        norm_pix=published["norm_pix_loss"],
        as_published=True,
    )
    method = published_method({**case, "config": {"in_chans": 3, **published}}, config)
    batch = Batch(given["images"], None, torch.arange(len(given["images"])))
    progress = Progress(published["epoch"], published["total_epochs"])
    output = method(batch, progress, FixedNoise({"mask": given["noise"]}))
    output.loss.backward()
    assert isinstance(method.mask, HardMask)
    truth = pixel_head(method).target(output.context, output.plan.predict).values
    error = (output.predictions["pixels"] - truth).square().mean(dim=-1).detach()
    scores = output.predictions["hardness"][..., 0]
    total, amount = absolute(scores, error, torch.ones_like(error))
    return {
        "teacher_predicted_loss": method.mask.hardness(output.context),
        "mask": membership(output.plan.predict, method.grid.num_tokens).float(),
        "latent": in_raster_order(output.features.sequence, output.plan.visible),
        "pred_masked": output.predictions["pixels"],
        "patch_loss": error,
        "predicted_loss_masked": scores,
        "loss_reconstruction": output.terms["pixels"],
        "loss_predictor_relative": output.terms["hardness"],
        "loss_predictor_absolute": total.sum() / amount.sum(),
        "loss": output.loss,
        **own_gradient_norms(method, case, names(case, "hpm").__getitem__, "grad_norm/"),
    }


def in_raster_order(sequence: Tensor, visible: Tensor) -> Tensor:
    """Sort encoded tokens by their place; prefix tokens stay in front."""
    num_prefix = sequence.shape[1] - visible.shape[1]
    order = visible.argsort(dim=1)[..., None].expand(-1, -1, sequence.shape[2])
    body = sequence[:, num_prefix:].gather(1, order)
    return torch.cat([sequence[:, :num_prefix], body], dim=1)


NORMS: dict[str, Norm] = {"BN": "batch", "LN": "layer"}


def lut_state(case: Case) -> dict[str, Tensor]:
    """Fill a case's weights and the teacher's running statistics, which its inputs describe."""
    state, batch = fill_state(case["state"]), case["config"]["head_norm"] == "BN"
    for name in [n for n in state if batch and re.fullmatch(r"ema/head\.\d+\.bias", n)]:
        stem, shape = name.removesuffix("bias"), tuple(state[name].shape)
        state[f"{stem}running_mean"] = 0.1 * fill(f"{stem}running_mean", shape, "normal")
        state[f"{stem}running_var"] = 0.5 + fill(f"{stem}running_var", shape, "uniform")
    return state


def lut_config(published: Mapping) -> LUTConfig:
    """Translate a case's configuration."""
    return LUTConfig(
        encoder=encoder_config(published),
        decoder=decoder_config(published),
        mask_ratio=published["mask_ratio"],
        projector_hidden=published["head_hidden"],
        projector_depth=published["head_depth"],
        predictor_depth=published["predictor_depth"],
        projector_norm=NORMS.get(published["head_norm"], "none"),
        projector_activation=published["head_act"].lower(),
        pixel_weight=published["w_mae"],
        alignment_weight=published["w_bc"],
        norm_pix=published["norm_pix_loss"],
        as_published=True,
    )


def run_lut(case: Case) -> dict[str, Tensor]:
    """Compute everything a LUT case may ask for."""
    published, given = case["config"], inputs(plain_inputs(case))
    config = lut_config(published)
    size, patch = published["img_size"], published["patch_size"]
    sides = tuple(size) if isinstance(size, list) else (size, size)
    grid = Grid.for_image(sides, patch, published["in_chans"])
    method = import_published(lut_state(case), "lut", config=config, grid=grid).method
    num = len(given["view1"])
    batch = Batch(given["view1"], None, torch.arange(num), second=given["view2"])
    output = method(batch, Progress(0, 1), FixedNoise({"mask": given["noise"]}))
    output.loss.backward()
    seen, alignment = output.seen, method.objectives["alignment"]
    assert isinstance(alignment, CrossViewAlignment)
    everything = all_tokens(num, grid.num_tokens, given["view1"].device)
    students = alignment.student(seen.features, 2, torch.ones(2 * num, dtype=torch.bool)).chunk(2)
    teachers = alignment.taught(seen.context).chunk(2)
    hidden = 1 - membership(seen.plan.visible, grid.num_tokens).float()
    return {
        "loss": output.loss,
        "loss_mae": output.terms["pixels"],
        "loss_bc": output.terms["alignment"],
        "pred": pixel_head(method).predict(output.features, output.plan, everything),
        **{f"student{k + 1}": students[k] for k in range(2)},
        **{f"teacher{k + 1}": teachers[k] for k in range(2)},
        **{f"mask{k + 1}": hidden.chunk(2)[k] for k in range(2)},
        "latent2_cls": seen.features.prefix[num:, 0],
        **own_gradient_norms(method, case, names(case, "lut").__getitem__, "grad_norm/"),
        **{key: averaged(method, key) for key in case["outputs"] if key.startswith("ema_update/")},
    }


def plain_inputs(case: Case) -> dict:
    """Leave out inputs that are described in words."""
    tensors = {k: v for k, v in case["inputs"].items() if isinstance(v, Mapping)}
    return {**case, "inputs": tensors}


def averaged(method: Method, key: str) -> Tensor:
    """Return an encoder's tensor of the teacher after an update; key: ema_update/MOMENTUM/NAME."""
    _, keep, name = key.split("/")
    teacher = copy.deepcopy(method.teacher)
    assert teacher is not None
    teacher.momentum = lambda progress: float(keep)
    teacher.update({n: method.get_submodule(n) for n in teacher.names}, Progress(0, 1))
    return teacher.copy_of("encoder").state_dict()[name]


@dataclass(frozen=True)
class OfImages:
    """A target computed from given images, which a case lists beside those that are encoded."""

    target: CentralHogTarget
    images: Tensor

    def out_dim(self, grid: Grid) -> int:
        """Return how many numbers a token has."""
        return self.target.out_dim(grid)

    def __call__(self, context: Context, index: Tensor) -> TargetValue:
        """Return the truth for the tokens at `index`."""
        return self.target(replace(context, images=self.images), index)


def triple(values: list, kind: type) -> tuple:
    """Return the numbers of the three stages."""
    first, second, third = map(kind, values)
    return first, second, third


def dmjd_loss(name: str) -> LossName:
    """Return the loss of a name: the published code takes any other one for squared errors."""
    return "smooth_l1" if name == "smooth_l1" else "l2"


def dmjd_config(published: Mapping) -> DMJDConfig:
    """Translate a case's configuration."""
    return DMJDConfig(
        encoder=ConvViTConfig(
            embed_dims=triple(published["embed_dim"], int),
            depths=triple(published["depth"], int),
            num_heads=published["num_heads"],
            mlp_ratios=triple(published["mlp_ratio"], float),
        ),
        decoder=DecoderConfig(
            dim=published["decoder_embed_dim"],
            depth=published["decoder_depth"],
            num_heads=published["decoder_num_heads"],
            mlp_ratio=float(published["mlp_ratio"][0]),
        ),
        mask_ratio=published["mask_ratio"],
        unit=2 if published["mask_type"] == "block" else 1,
        hidden_loss=dmjd_loss(published["mim_loss_type"]),
        visible_loss=dmjd_loss(published["vis_loss_type"]),
        visible_weight=published["theta"],
        as_published=True,
    )


def run_dmjd(case: Case) -> dict[str, Tensor]:
    """Compute everything a DMJD case may ask for, with published and with matched targets."""
    published, config = case["config"], dmjd_config(case["config"])
    given = {
        name.removeprefix("input/"): fill(
            f"input/{name.removeprefix('input/')}",
            tuple(how["shape"]),
            "normal" if how["kind"] == "normal" else "uniform",
        )
        for name, how in case["inputs"].items()
    }
    raw, num = (256 * given["raw_images"]).floor(), len(given["images"])
    size = published["img_size"]
    grid = Grid.for_image(tuple(size) if isinstance(size, list) else (size, size), 16, raw.shape[1])
    state = fill_state(case["state"])
    method = import_published(state, "dmjd", config=config, grid=grid).method
    hidden, visible = method.objectives["hog"], method.objectives["visible"]
    assert isinstance(hidden, Head)
    assert isinstance(visible, VisibleHead)
    assert isinstance(visible.target, CentralHogTarget)
    target = OfImages(visible.target, raw.repeat(2, 1, 1, 1))
    hidden.target = visible.target = target
    coarse = tuple(length // config.unit for length in grid.shape)
    draws = {**given, "unit": given["noise"].unflatten(1, (1, *coarse))}
    batch, out = Batch(given["images"], None, torch.arange(num)), {}
    for kind in ("as_published", "matched"):
        visible.raster_targets = kind == "as_published"
        method.zero_grad()
        step = method(batch, Progress(0, 1), FixedNoise(draws))
        step.loss.backward()
        prefix = f"grad_norm_{kind.removeprefix('as_')}/"
        out |= own_gradient_norms(method, case, names(case, "dmjd").__getitem__, prefix)
        out |= {f"loss_{kind}": step.loss, f"loss_visible_{kind}": step.terms["visible"]}
    seen = step.seen
    everything = all_tokens(2 * num, grid.num_tokens, raw.device)
    order = seen.plan.visible.argsort(dim=1)
    return out | {
        "hog_histogram": central_hog(raw, config.cell),
        "target": target(seen.context, everything).values[:num],
        "mask": 1 - membership(seen.plan.visible, grid.num_tokens).float(),
        "pred_all": hidden.predict(seen.features, seen.plan, everything),
        "pred_visible_raster": take(visible.predict(seen.features, seen.plan), order),
        "loss_masked": step.terms["hog"],
    }


ADAPTERS = {"dmjd": run_dmjd, "hpm": run_hpm, "lut": run_lut}
