"""A fine-tuned UNETR under MONAI's names, and a plan for those who adapt its encoder themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from ..batch import Batch
from ..encoders.vit import ViT
from ..errors import UsageError
from ..files import replacing, write_text
from ..heads.task import LoadedTask, TaskModel
from ..heads.unetr import UnetrHead
from .exporters import difference, plain_vit, probe, require_equal
from .model_dir import CONFIG_FILE
from .to_monai import NORM_EPS, monai_state, set_norm_eps, unetr_arguments

NETWORK_FILE, PLAN_FILE = "unetr.safetensors", "adaptation_plan.json"
_MONAI_TAPS = (3, 6, 9, -1)  # fixed in MONAI's UNETR


def export_unetr(
    task: LoadedTask, out: str | Path, images: Float[Tensor, "b c *s"] | None = None
) -> Path:
    """Write a fine-tuned network for MONAI's UNETR: weights, arguments, classes, normaliser.

    `UNETR(**config["unetr"]["arguments"])` takes the weights of unetr.safetensors strictly. MONAI's
    network has no class token and another epsilon in its norms: scores are compared without the
    token and with ours, and `config["difference"]` says how far each choice is from the model as
    it was trained, as shares of their range. adaptation_plan.json is for other code that builds on
    the encoder.

    Args:
        task: the fine-tuned model.
        out: folder that is made.
        images: normalised images to compare on; noise otherwise.

    Raises:
        UsageError: when it is not MONAI's UNETR: depth 12, patch 16, taps 3, 6, 9 and -1.
        WeightsError: when MONAI's scores differ from ours.
    """
    from monai.networks.nets.unetr import UNETR

    encoder, head, sizes = monai_parts(task)
    arguments = {
        **sizes,
        "out_channels": len(task.config.classes),
        "feature_size": task.config.stem_dim,
        "norm_name": "instance",
    }
    theirs = UNETR(**arguments)
    state = {f"vit.{k}": v for k, v in monai_state(encoder, theirs.vit).items()}
    own = head.state_dict()
    state |= {o: own[n].detach().cpu().contiguous() for n, o in head.monai_names().items()}
    theirs.load_state_dict(state, strict=True)
    theirs.eval()
    images = probe(encoder.grid) if images is None else images
    batch = Batch(images, None, torch.arange(len(images)))
    with torch.no_grad():
        trained, bare = task.model(batch), TaskModel(without_token(encoder), task.config, head)
        apart = {"with MONAI's norms": difference(theirs(images), trained)}
        set_norm_eps(theirs, NORM_EPS)
        require_equal(theirs(images), bare.eval()(batch), "MONAI's UNETR")
        apart["without the class token"] = difference(theirs(images), trained)
    content = {
        "unetr": {"file": NETWORK_FILE, "arguments": arguments},
        "norm_eps": NORM_EPS,
        "classes": list(task.config.classes),
        "normaliser": task.normaliser,
        "difference": apart,
    }
    out = Path(out)
    with replacing(out / NETWORK_FILE) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    write_text(out / PLAN_FILE, json.dumps(adaptation_plan(task), indent=1) + "\n")
    write_text(out / CONFIG_FILE, json.dumps(content, indent=1) + "\n")
    return out


def monai_parts(task: LoadedTask) -> tuple[ViT, UnetrHead, dict[str, Any]]:
    """Return encoder, head and MONAI's arguments of a model that is MONAI's UNETR.

    Raises:
        UsageError: for any other model.
    """
    encoder, head = plain_vit(task.model.encoder, 3, "MONAI"), task.model.head
    sizes, taps = unetr_arguments(encoder), task.config.taps
    if sizes is None or not isinstance(head, UnetrHead) or taps != _MONAI_TAPS:
        kind = f"{encoder.depth} blocks, patch {encoder.grid.patch}, head {task.config.head}"
        remedy = "fine-tune such a network with --head unetr, or use --to onnx --answers"
        reason = "is not MONAI's UNETR, which has 12 blocks, patch 16 and taps 3, 6, 9 and -1"
        raise UsageError(f"model with {kind}, taps {taps}", reason, remedy)
    return encoder, head, sizes


def without_token(encoder: ViT) -> ViT:
    """Return an encoder with the same weights and no class token; itself when it has none."""
    if not encoder.num_prefix_tokens:
        return encoder
    heads = encoder.num_heads, encoder.mlp_ratio
    bare = ViT(encoder.grid, encoder.embed_dim, encoder.depth, *heads, class_token=False)
    state = {k: v for k, v in encoder.state_dict().items() if k != "cls_token"}
    state["pos_embed"] = state["pos_embed"][:, encoder.num_prefix_tokens :]
    bare.load_state_dict(state)
    return bare.eval()


def adaptation_plan(task: LoadedTask) -> dict[str, Any]:
    """Return what other code needs to build on the encoder, in the manner of nnU-Net's plans.

    Patch size of training crops, spacing, window and orientation of voxels, architecture, and where
    the encoder's parts are among the tensors of model.safetensors.
    """
    encoder, normaliser = task.model.encoder, task.normaliser
    assert isinstance(encoder, ViT)
    return {
        "architecture": {
            "name": "ViT",
            "embed_dim": encoder.embed_dim,
            "depth": encoder.depth,
            "num_heads": encoder.num_heads,
            "mlp_ratio": encoder.mlp_ratio,
            "patch_embed_size": list(encoder.grid.patch),
            "class_token": bool(encoder.num_prefix_tokens),
            "input_channels": encoder.grid.channels,
        },
        "patch_size": list(task.config.image_size),
        "spacing": normaliser.get("spacing"),
        "orientation": normaliser.get("orientation"),
        "intensity_window": normaliser.get("window"),
        "taps": list(task.config.taps),
        "weights_file": "model.safetensors",
        "key_to_stem": "patch_embed.proj",
        "key_to_positions": "pos_embed",
        "keys_to_blocks": [f"blocks.{number}" for number in range(encoder.depth)],
        "key_to_norm": "norm",
    }
