"""Trained encoders for other libraries; each export is opened again and compared first."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from ..encoders.contract import Encoder
from ..encoders.vit import ViT
from ..errors import UsageError, WeightsError
from ..files import replacing, write_text
from ..grid import Grid
from .model_dir import CONFIG_FILE, LoadedModel, load_model

TOLERANCE = 1e-4
_OPSET = 17


class Preprocessed(nn.Module):
    """An encoder with what has to be done to pixels before it.

    Args:
        encoder: the encoder.
        preprocess: from stored numbers to the encoder's input; identity when None.
    """

    def __init__(self, encoder: Encoder, preprocess: nn.Module | None = None) -> None:
        super().__init__()
        self.preprocess = preprocess or nn.Identity()
        self.encoder = encoder

    def forward(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b t d"]:
        """Return the final-normed sequence, prefix tokens in front."""
        return self.encoder(self.preprocess(images))


def plain_vit(encoder: Encoder, rank: int, library: str) -> ViT:
    """Return the encoder when it is a plain ViT of a rank.

    Raises:
        UsageError: when the library has no such model, with what can be written instead.
    """
    if type(encoder) is not ViT:
        raise UsageError(
            f"encoder {type(encoder).__name__}",
            f"is not a plain ViT, the only one that is written under {library}'s names",
            "use --to onnx for a graph or --to hub for a copy",
        )
    if encoder.grid.ndim != rank:
        fitting = {2: "--to timm, ", 3: "--to monai, "}.get(encoder.grid.ndim, "")
        raise UsageError(
            f"encoder of rank {encoder.grid.ndim}",
            f"does not fit {library}'s ViT, which is written for {rank}-D images",
            f"use {fitting}--to onnx or --to hub",
        )
    return encoder


def timm_arguments(encoder: Encoder) -> dict[str, Any]:
    """Return the arguments of timm's VisionTransformer that describe an encoder.

    Raises:
        UsageError: when timm has no such model (other ranks than 2-D, other encoders).
    """
    vit = plain_vit(encoder, 2, "timm")
    return {
        "img_size": list(vit.grid.image_size),
        "patch_size": list(vit.grid.patch),
        "in_chans": vit.grid.channels,
        "embed_dim": vit.embed_dim,
        "depth": vit.depth,
        "num_heads": vit.num_heads,
        "mlp_ratio": vit.mlp_ratio,
        "class_token": bool(vit.num_prefix_tokens),
        "num_classes": 0,
        "global_pool": "",
    }


def timm_folder(arguments: Mapping[str, Any], grid: Grid) -> dict[str, Any]:
    """Return the entries of config.json with which timm opens a folder by `local-dir:FOLDER`."""
    cfg = {"input_size": [grid.channels, *grid.image_size], "num_classes": 0, "tag": "mimkit"}
    return {
        "architecture": "vit_base_patch16_224",  # all its sizes are replaced by `model_args`
        "num_classes": 0,
        "model_args": {k: v for k, v in arguments.items() if k != "num_classes"},
        "pretrained_cfg": cfg,
    }


def export_timm(
    model: str | Path | LoadedModel, out: str | Path, images: Float[Tensor, "b c *s"] | None = None
) -> Path:
    """Write `model.safetensors` and `config.json` for timm's VisionTransformer.

    Args:
        model: a model directory, or what was loaded from one.
        out: folder that is made; `VisionTransformer(**config["timm"])` takes the weights strictly,
            and `timm.create_model("local-dir:FOLDER", pretrained=True)` opens it.
        images: normalised images to compare on, real ones if there are any; noise otherwise.

    Raises:
        UsageError: when timm has no such model.
        WeightsError: when timm's features differ from ours.
    """
    from timm.models.vision_transformer import VisionTransformer

    loaded = opened(model)
    encoder = loaded.method.encoder.eval()
    arguments = timm_arguments(encoder)
    sizes: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()
    }
    theirs = VisionTransformer(**sizes).eval()
    state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    theirs.load_state_dict(state, strict=True)
    images = probe(encoder.grid) if images is None else images
    with torch.no_grad():
        require_equal(theirs.forward_features(images), encoder(images), "timm's VisionTransformer")
    out = Path(out)
    with replacing(out / "model.safetensors") as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    content = timm_folder(arguments, encoder.grid)
    content |= {"timm": arguments, "normaliser": loaded.normaliser}
    write_text(out / CONFIG_FILE, json.dumps(content, indent=1) + "\n")
    return out


def export_onnx(
    model: str | Path | LoadedModel,
    out: str | Path,
    preprocess: nn.Module | None = None,
    samples: Float[Tensor, "b c *s"] | None = None,
) -> Path:
    """Write `encoder.onnx` and compare it with onnxruntime before it gets its name.

    The image size is the one of pre-training; only the number of images is free.

    Args:
        model: a model directory, or what was loaded from one.
        out: folder that is made.
        preprocess: turns stored numbers into the encoder's input; it becomes part of the graph.
        samples: inputs of the graph to compare on, real ones if there are any; noise otherwise.

    Raises:
        UsageError: when onnx or onnxruntime is not installed, or the encoder does something that
            the graph's version of ONNX cannot.
        WeightsError: when onnxruntime gives other features.
    """
    check_onnx()
    loaded = opened(model)
    encoder = loaded.method.encoder.eval()
    whole = Preprocessed(encoder, preprocess).eval()
    images = probe(encoder.grid) if samples is None else samples.float()
    out = Path(out)
    write_checked(whole, images, out / "encoder.onnx", "tokens")
    content = {"normaliser_inside": preprocess is not None, "normaliser": loaded.normaliser}
    write_text(out / CONFIG_FILE, json.dumps(content, indent=1) + "\n")
    return out


def check_onnx() -> None:
    """Raise UsageError unless onnx, which torch needs to write, and onnxruntime are installed."""
    for name in ("onnx", "onnxruntime"):
        if find_spec(name) is None:
            remedy = "pip install onnx onnxruntime"
            raise UsageError("export to onnx", f"needs {name}", remedy)


def write_checked(whole: nn.Module, images: Tensor, path: Path, output: str) -> None:
    """Write a graph and compare it with onnxruntime before it gets its name.

    Args:
        whole: from stored numbers to one tensor, in evaluation mode.
        images: inputs to compare on.
        path: the file.
        output: name of what it returns.

    Raises:
        UsageError: when the model does something that the graph's version of ONNX cannot.
        WeightsError: when onnxruntime gives other numbers.
    """
    import onnxruntime

    with replacing(path) as temporary:
        write_onnx(whole, images, temporary, output)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        doubled = torch.cat([images, images])
        (got,) = session.run(None, {"images": doubled.numpy()})
        with torch.no_grad():
            require_equal(torch.as_tensor(got), whole(doubled), "onnxruntime")


def opened(model: str | Path | LoadedModel) -> LoadedModel:
    """Return a model that is loaded, or load it."""
    return model if isinstance(model, LoadedModel) else load_model(model)


def write_onnx(model: nn.Module, images: Tensor, path: Path, output: str = "tokens") -> None:
    """Trace a model; sizes are constants of the graph, the batch is free."""
    try:
        with warnings.catch_warnings():
            # The tracer warns at every shape check; those are constant, and the result is compared.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (images,),
                str(path),
                input_names=["images"],
                output_names=[output],
                dynamic_axes={"images": {0: "batch"}, output: {0: "batch"}},
                opset_version=_OPSET,
                dynamo=False,
            )
    except torch.onnx.errors.UnsupportedOperatorError as error:
        reason = f"does what ONNX {_OPSET} cannot say ({str(error).splitlines()[0]})"
        raise UsageError("encoder", reason, "use --to hub, or --to timm for a plain ViT") from error


def probe(grid: Grid) -> Float[Tensor, "2 c *s"]:
    """Return noise of an encoder's input size."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, grid.channels, *grid.image_size, generator=generator)


def difference(got: Tensor, wanted: Tensor) -> float:
    """Return how far two sets of features are apart at most, as a share of their range."""
    if got.shape != wanted.shape:
        return torch.inf
    return float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6))


def require_equal(got: Tensor, wanted: Tensor, who: str) -> None:
    """Raise WeightsError unless two sets of features agree."""
    worst = difference(got, wanted)
    if not worst <= TOLERANCE:
        raise WeightsError(
            who,
            f"computes other features (largest difference {worst:.1e} of the range)",
            "do not use this export; update the library and try again",
        )
