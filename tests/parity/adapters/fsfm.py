"""FSFM: a region hidden whole, and agreement with a teacher that sees the whole face."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from golden import fill
from torch import Tensor
from torch.nn import functional

from mimkit.core.batch import Batch, Progress
from mimkit.core.masking.region_maps import COVERED, RegionMask
from mimkit.core.method import Method
from mimkit.core.methods import FSFMConfig, spec
from mimkit.core.methods.fsfm import SIMILARITIES, PooledDecoderConfig, mask
from mimkit.core.noise import FixedNoise
from mimkit.core.objectives.alignment import WholeImageAlignment
from mimkit.core.reconstruction import pixel_head
from mimkit.core.tokens import all_tokens, membership

from .common import Case, decoder_config, encoder_config, gradient_norms, names, published_method

NUM_CLASSES, CLASS_PIXELS = 11, 4
NUM_DRAWN = 6


def fsfm_config(published: Mapping) -> FSFMConfig:
    """Translate a case's configuration."""
    name = published["cl_loss"].lower()
    return FSFMConfig(
        encoder=encoder_config(published),
        decoder=decoder_config(published),
        pooled_decoder=PooledDecoderConfig(
            depth=published["rep_decoder_depth"],
            num_heads=published["rep_decoder_num_heads"],
            mlp_ratio=float(published["mlp_ratio"]),
        ),
        projection_dim=published["projection_size"],
        projection_hidden=published["projection_hidden_size"],
        mask_ratio=published["mask_ratio"],
        region_weight=published["weight_region"],
        alignment_weight=published["weight_cl"],
        alignment_loss=next(known for known in SIMILARITIES if known == name),
        momentum=published["ema_momentum"],
        norm_pix=published["norm_pix_loss"],
        as_published=True,
    )


def given_inputs(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, parsing map and noise of a case."""
    shapes = {name: tuple(how["shape"]) for name, how in case["inputs"].items()}
    images = fill("input/images", shapes["images"], "normal")
    drawn = fill("input/parsing", shapes["parsing"], "uniform")
    # Every class fills the same number of pixels on both axes of the image.
    height, width = (s // n for s, n in zip(images.shape[2:], drawn.shape[1:], strict=True))
    classes = (NUM_CLASSES * drawn).floor().long()
    parsing = classes.repeat_interleave(height, dim=1).repeat_interleave(width, dim=2)
    return images, parsing, fill("input/noise", shapes["noise"], "uniform")


def run_fsfm(case: Case) -> dict[str, Tensor]:
    """Compute everything an FSFM case may ask for."""
    published = case["config"]
    config, (images, parsing, noise) = fsfm_config(published), given_inputs(case)
    channels = images.shape[1]
    method = published_method({**case, "config": {"in_chans": channels, **published}}, config)
    region = torch.tensor([(published["region_group_index"] + 0.5) / NUM_DRAWN])
    draws = FixedNoise({"mask": noise, "region": region})
    batch = Batch(images, None, torch.arange(len(images)), regions=parsing)
    output = method(batch, Progress(0, 1), draws)
    output.loss.backward()
    num_tokens, whole = method.grid.num_tokens, method.objectives["alignment"]
    assert isinstance(whole, WholeImageAlignment)
    everything = all_tokens(len(images), num_tokens, images.device)
    student = whole.student(output.features, output.plan, num_tokens)
    translate = {key: ours for key, ours in names(case, "fsfm").items() if ours}
    out = {
        "parsing_map": parsing.float(),
        "region_mask": output.plan.subsets[COVERED].float(),
        "mask": membership(output.plan.predict, num_tokens).float(),
        "loss_rec_all": output.terms["pixels"],
        "loss_rec_region": output.terms["region"],
        "loss_cl": output.terms["alignment"],
        "loss": output.loss,
        "online_feature": functional.normalize(student, dim=-1),
        "target_feature": functional.normalize(whole.taught(output.context), dim=-1),
        "pred": pixel_head(method).predict(output.features, output.plan, everything),
        **gradient_norms(method, case["outputs"], translate, ""),
    }
    for key in case["outputs"]:
        head, _, ratio = key.partition("mask_ratio_")
        if ratio:
            other = mask(fsfm_config({**published, "mask_ratio": float(ratio)}), method.grid)
            assert isinstance(other, RegionMask)
            plan = other(output.context)
            hidden = membership(plan.predict, num_tokens)
            out[key] = (plan.subsets[COVERED] if head == "region_" else hidden).float()
        if key.startswith("ema/"):
            out[key] = averaged(method, key.removeprefix("ema/"))
    return out


def averaged(method: Method, name: str) -> Tensor:
    """Return a published tensor of the teacher after an update at the start of a run."""
    follower = copy.deepcopy(method)
    follower.after_step(Progress(0, 1))
    ours = spec("fsfm").translate(f"target.{name}")
    assert ours is not None, name
    return follower.state_dict()[ours]


ADAPTERS = {"fsfm": run_fsfm}
