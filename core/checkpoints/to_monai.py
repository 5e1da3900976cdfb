"""A 3-D encoder under MONAI's names, for its ViT and UNETR; compared before it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from ..encoders.vit import ViT
from ..files import replacing, write_text
from .exporters import difference, opened, plain_vit, probe, require_equal
from .model_dir import CONFIG_FILE, LoadedModel
from .reading import State

NORM_EPS = 1e-6  # of our layer norms; MONAI's are built with torch's 1e-5
UNETR_DEPTH, UNETR_PATCH = 12, (16, 16, 16)  # fixed in MONAI's UNETR
_NAMES = {
    "patch_embed.proj": "patch_embedding.patch_embeddings",
    "attn.proj": "attn.out_proj",
    "mlp.fc1": "mlp.linear1",
    "mlp.fc2": "mlp.linear2",
}


def monai_arguments(encoder: ViT) -> dict[str, Any]:
    """Return the arguments of MONAI's ViT that describe an encoder.

    With a class token MONAI's ViT is a classifier; its head then passes the token's features on.
    """
    token = bool(encoder.num_prefix_tokens)
    head = {"num_classes": encoder.embed_dim, "post_activation": "none"} if token else {}
    return {
        "in_channels": encoder.grid.channels,
        "img_size": list(encoder.grid.image_size),
        "patch_size": list(encoder.grid.patch),
        "hidden_size": encoder.embed_dim,
        "mlp_dim": int(encoder.embed_dim * encoder.mlp_ratio),
        "num_layers": encoder.depth,
        "num_heads": encoder.num_heads,
        "proj_type": "conv",
        "pos_embed_type": "learnable",
        "spatial_dims": encoder.grid.ndim,
        "qkv_bias": True,
        "classification": token,
        **head,
    }


def unetr_arguments(encoder: ViT) -> dict[str, Any] | None:
    """Return the arguments of MONAI's UNETR around an encoder; None when UNETR is not of its size.

    `out_channels`, the number of classes, is the user's.
    """
    if encoder.depth != UNETR_DEPTH or encoder.grid.patch != UNETR_PATCH:
        return None
    names = ("in_channels", "img_size", "hidden_size", "mlp_dim", "num_heads", "proj_type")
    arguments = monai_arguments(encoder)
    return {name: arguments[name] for name in (*names, "spatial_dims", "qkv_bias")}


def monai_state(encoder: ViT, theirs: nn.Module) -> State:
    """Return an encoder's tensors under MONAI's names.

    Args:
        encoder: a plain ViT.
        theirs: MONAI's ViT, with or without a class token. Its norms of a cross-attention that is
            not there are kept as they are: nothing reads them.
    """
    prefix = encoder.num_prefix_tokens
    state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    table = state.pop("pos_embed")[:, prefix:].contiguous()
    out = {"patch_embedding.position_embeddings": table}
    for name, value in state.items():
        for ours, monai in _NAMES.items():
            name = name.replace(ours, monai)
        out[name] = value
    own = theirs.state_dict()
    out |= {k: v.clone() for k, v in own.items() if "cross_attn" in k}
    if "classification_head.weight" in own:
        width = encoder.embed_dim
        out |= {"classification_head.weight": torch.eye(width)}
        out |= {"classification_head.bias": torch.zeros(width)}
    else:
        out.pop("cls_token", None)
    return out


def export_monai(
    model: str | Path | LoadedModel, out: str | Path, images: Float[Tensor, "b c *s"] | None = None
) -> Path:
    """Write `model.safetensors` and `config.json` for MONAI's ViT, and for its UNETR.

    `ViT(**config["monai"])` takes the weights strictly. Where MONAI's UNETR has the encoder's depth
    and patch, `UNETR(out_channels=..., **config["unetr"]["arguments"]).vit` takes those of the file
    that is named beside the arguments: its ViT has no class token, so a model with one gets a
    second file without it. MONAI builds its norms with another epsilon: features are compared with
    ours, `config["norm_eps"]`, and `config["difference"]` says how far they are apart without that
    and without the class token, as shares of their range.

    Args:
        model: a model directory, or what was loaded from one.
        out: folder that is made.
        images: normalised images to compare on, real ones if there are any; noise otherwise.

    Raises:
        UsageError: when the encoder is not a plain 3-D ViT.
        WeightsError: when MONAI's features differ from ours.
    """
    from monai.networks.nets.vit import ViT as Theirs

    loaded = opened(model)
    encoder = plain_vit(loaded.method.encoder.eval(), 3, "MONAI")
    arguments = monai_arguments(encoder)
    images = probe(encoder.grid) if images is None else images
    vit, state = _filled(encoder, Theirs(**arguments))
    files = {"model.safetensors": state}
    content: dict[str, Any] = {"monai": arguments, "norm_eps": NORM_EPS}
    with torch.no_grad():
        wanted = encoder(images)
        apart = {"with MONAI's norms": difference(_features(vit, images), wanted)}
        set_norm_eps(vit, NORM_EPS)
        require_equal(_features(vit, images), wanted, "MONAI's ViT")
        sizes = unetr_arguments(encoder)
        if sizes is not None:
            content["unetr"] = {"file": "model.safetensors", "arguments": sizes}
        if sizes is not None and arguments["classification"]:
            bare, files["unetr.safetensors"] = _filled(encoder, Theirs(**_without_token(arguments)))
            set_norm_eps(bare, NORM_EPS)
            apart["without the class token"] = difference(_features(bare, images), wanted[:, 1:])
            content["unetr"]["file"] = "unetr.safetensors"
    out = Path(out)
    for name, tensors in files.items():
        with replacing(out / name) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
    content |= {"difference": apart, "normaliser": loaded.normaliser}
    write_text(out / CONFIG_FILE, json.dumps(content, indent=1) + "\n")
    return out


def set_norm_eps(module: nn.Module, eps: float) -> None:
    """Give all layer norms of a module an epsilon."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = eps


def _filled(encoder: ViT, theirs: nn.Module) -> tuple[nn.Module, State]:
    state = monai_state(encoder, theirs)
    theirs.load_state_dict(state, strict=True)
    return theirs.eval(), state


def _features(vit: nn.Module, images: Tensor) -> Tensor:
    """Return the normed sequence of MONAI's ViT, whose classifier would only return one token."""
    _, hidden = vit(images)
    return vit.get_submodule("norm")(hidden[-1])


def _without_token(arguments: dict[str, Any]) -> dict[str, Any]:
    dropped = ("num_classes", "post_activation")
    return {k: v for k, v in arguments.items() if k not in dropped} | {"classification": False}
