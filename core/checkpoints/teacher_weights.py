"""Weights of a frozen teacher: CLIP's image towers and plain ViTs, read safely, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..config_tree import from_plain
from ..encoders.clip_vit import ClipViTConfig
from ..errors import UsageError, WeightsError
from ..frozen import FrozenTeacher
from ..method import Method
from ..methods import EncoderConfig, ITPNClipConfig, MethodConfig
from ..positions import resize
from .model_dir import ENCODER_FILE, read_config, sha256, verified
from .published import ENCODER_HEADS
from .reading import State, read_tensors

TeacherConfig = EncoderConfig | ClipViTConfig

_OPENAI = (
    ("transformer.resblocks.", "blocks."),
    ("ln_pre.", "norm_pre."),
    ("ln_post.", "norm."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
    (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    ("conv1.", "patch_embed.proj."),
    ("class_embedding", "cls_token"),
    ("positional_embedding", "pos_embed"),
)
"""Parts of the names in OpenAI's and OpenCLIP's files -> timm's."""
_TRANSFORMERS = (
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("embeddings.patch_embedding.", "patch_embed.proj."),
    ("pre_layrnorm.", "norm_pre."),  # spelt so in the files
    ("post_layernorm.", "norm."),
    ("encoder.layers.", "blocks."),
    (".layer_norm1.", ".norm1."),
    (".layer_norm2.", ".norm2."),
    (".self_attn.out_proj.", ".attn.proj."),
)
"""The same for files of the library transformers, behind `vision_model.`."""
_PARTS = ("cls_token", "pos_embed", "patch_embed", "norm_pre", "blocks", "norm", "head")


@dataclass(frozen=True)
class TeacherWeights:
    """A teacher as a file describes it.

    Args:
        config: its architecture.
        state: tensors by the names of the encoder.
    """

    config: TeacherConfig
    state: State


def read_teacher(path: str | Path, known: TeacherConfig | None = None) -> TeacherWeights:
    """Read a teacher from a weights file, or the encoder of a model directory.

    Understood are image towers of CLIP (OpenAI, OpenCLIP, timm, transformers) and plain ViTs by
    timm's names (MAE, DINO, this suite).

    Args:
        path: the file or directory.
        known: a configuration that tells what no tensor does: heads, and the kind of GELU.

    Raises:
        WeightsError: when it cannot be trusted or is none of these.
    """
    path = Path(path)
    if path.is_dir():
        content = read_config(path)
        plain = content["method"].get("encoder", {})
        if "name" in plain:
            reason = f"holds an encoder of kind {plain['name']!r}"
            raise WeightsError(path, reason, "give a model whose encoder is a plain ViT")
        config = from_plain(EncoderConfig, plain, "config.json method.encoder")
        return TeacherWeights(config, verified(path, ENCODER_FILE, content["sha256"]))
    state = timm_names(read_tensors(path))
    kernel, depth = state.get("patch_embed.proj.weight"), _depth(state)
    if kernel is None or not depth or "norm.weight" not in state or "cls_token" not in state:
        raise WeightsError(
            path,
            "is no image tower of CLIP and no plain ViT with a class token",
            "give a file by the names of OpenAI, OpenCLIP, timm or transformers",
        )
    state.setdefault("patch_embed.proj.bias", torch.zeros(len(kernel)))
    return TeacherWeights(_config(state, kernel, depth, known), state)


def timm_names(tensors: Mapping[str, Tensor]) -> State:
    """Return the tensors of an image encoder by timm's names, those of anything else left out."""
    for prefix, parts in (("visual.", _OPENAI), ("vision_model.", _TRANSFORMERS)):
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if own:
            projection = own.pop("proj", None)
            if "visual_projection.weight" in tensors:
                projection = tensors["visual_projection.weight"].T
            return _translated(own, parts, projection)
    if "conv1.weight" in tensors and "ln_pre.weight" in tensors:
        own = dict(tensors)
        return _translated(own, _OPENAI, own.pop("proj", None))
    bare = {k.removeprefix("encoder."): v for k, v in tensors.items()}
    state = {k: v for k, v in bare.items() if k.split(".")[0] in _PARTS}
    if "norm_pre.weight" in state:
        return state
    return {k: v for k, v in state.items() if not k.startswith("head.")}


def _translated(
    own: Mapping[str, Tensor], parts: tuple[tuple[str, str], ...], projection: Tensor | None
) -> State:
    out: State = {}
    for key, value in own.items():
        name = f".{key}"
        for theirs, ours in parts:
            name = name.replace(theirs, ours)
        out[name.removeprefix(".")] = value
    for key in [k for k in out if ".self_attn.q_proj." in k]:
        three = [out.pop(key.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        out[key.replace(".self_attn.q_proj.", ".attn.qkv.")] = torch.cat(three)
    if projection is not None:
        out["head.weight"] = projection.T
    for name in {"cls_token", "pos_embed"} & set(out):
        out[name] = out[name].reshape(1, -1, out[name].shape[-1])
    return {k: v for k, v in out.items() if k.split(".")[0] in _PARTS}


def _depth(state: Mapping[str, Tensor]) -> int:
    return len({key.split(".")[1] for key in state if key.startswith("blocks.")})


def _config(state: State, kernel: Tensor, depth: int, known: TeacherConfig | None) -> TeacherConfig:
    """Read an architecture from shapes."""
    width, patch = kernel.shape[0], kernel.shape[-1]
    heads = ENCODER_HEADS.get(width, max(width // 64, 1))
    if known is not None and known.embed_dim == width:
        heads = known.num_heads
    if "norm_pre.weight" not in state:
        ratio = state["blocks.0.mlp.fc1.weight"].shape[0] / width
        return EncoderConfig(
            embed_dim=width, depth=depth, num_heads=heads, patch_size=patch, mlp_ratio=ratio
        )
    head = state.get("head.weight")
    config = ClipViTConfig(
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        patch_size=patch,
        out_dim=width if head is None else head.shape[0],
    )
    if head is None:  # a tower without its projection gives its own normalised tokens
        state["head.weight"] = torch.eye(width)
    state.setdefault("head.bias", torch.zeros(config.out_dim))
    quick = not isinstance(known, ClipViTConfig) or known.quick_gelu
    return replace(config, quick_gelu=quick)


def with_teacher(config: MethodConfig, path: str | Path) -> MethodConfig:
    """Return a method's configuration with the teacher that a file holds.

    Raises:
        UsageError: for a method that has no frozen teacher.
        WeightsError: see `read_teacher`.
    """
    if not isinstance(config, ITPNClipConfig):
        reason = "learns from no frozen teacher"
        raise UsageError(f"method {config.name}", reason, "leave --teacher out, or use itpn-clip")
    return replace(config, teacher=read_teacher(path, config.teacher).config)


def fingerprint(path: str | Path) -> str:
    """Return the checksum of a teacher's weights."""
    path = Path(path)
    return sha256(path / ENCODER_FILE if path.is_dir() else path)


def load_teacher(method: Method, path: str | Path) -> None:
    """Fill the frozen teacher of a method; position tables of another grid are interpolated.

    Raises:
        UsageError: for a method that has none.
        WeightsError: when the file cannot be trusted or does not fit.
    """
    teacher = method.teacher
    if not isinstance(teacher, FrozenTeacher):
        raise UsageError(f"method {method.name}", "has no frozen teacher", "name it one")
    encoder = teacher.encoder
    own, state = encoder.state_dict(), dict(read_teacher(path).state)
    state |= _with_positions(state, own["pos_embed"].shape[1], encoder.grid.shape)
    for name, value in own.items():
        given = state.pop(name, None)
        if given is None or given.shape != value.shape:
            found = "is missing" if given is None else f"is {tuple(given.shape)}"
            raise WeightsError(
                path,
                f"tensor {name!r} {found}, where {tuple(value.shape)} is wanted",
                "give a teacher made for these channels, by names that are understood",
            )
        value.copy_(given)
    if state:
        reason = f"holds {len(state)} tensors that the teacher has not, such as {next(iter(state))}"
        raise WeightsError(path, reason, "give a plain ViT or an image tower of CLIP")


def _with_positions(state: State, num_rows: int, shape: tuple[int, ...]) -> State:
    """Return the position table of a grid, and the class token with its own position added.

    Args:
        state: of the teacher.
        num_rows: of the table that is wanted; more than tokens where the class token has a row.
        shape: tokens per axis. The table of a file is one of a square or a cube.
    """
    table, num_prefix = state["pos_embed"].float()[0], int("cls_token" in state)
    body, num_tokens = table[num_prefix:], len(table) - num_prefix
    side = round(num_tokens ** (1 / len(shape)))
    if side ** len(shape) == num_tokens:
        body = resize(body, (side,) * len(shape), shape)
    rows = torch.cat([body.new_zeros(max(num_rows - len(body), 0), body.shape[1]), body])
    out = {"pos_embed": rows[None]}
    return out | {"cls_token": state["cls_token"].float() + table[:1]} if num_prefix else out
