"""Trained encoders for other libraries; each export is opened again and compared first."""

from __future__ import annotations

import json
import shutil
import warnings
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
from .model_dir import CONFIG_FILE, LoadedModel, load_model, read_config, verified

TOLERANCE = 1e-4


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


def timm_arguments(encoder: Encoder) -> dict[str, Any]:
    """Return the arguments of timm's VisionTransformer that describe an encoder.

    Raises:
        UsageError: when timm has no such model (other ranks than 2-D, other encoders).
    """
    grid = encoder.grid
    if not isinstance(encoder, ViT):
        raise UsageError(
            f"encoder {type(encoder).__name__}",
            "is not timm's VisionTransformer",
            "export a plain ViT, or use --to onnx",
        )
    if grid.ndim != 2:
        raise UsageError(
            f"encoder of rank {grid.ndim}", "does not exist in timm", "export a 2-D model"
        )
    return {
        "img_size": list(grid.image_size),
        "patch_size": list(grid.patch),
        "in_chans": grid.channels,
        "embed_dim": encoder.embed_dim,
        "depth": encoder.depth,
        "num_heads": encoder.num_heads,
        "mlp_ratio": encoder.mlp_ratio,
        "class_token": bool(encoder.num_prefix_tokens),
        "num_classes": 0,
        "global_pool": "",
    }


def export_timm(
    model: str | Path | LoadedModel, out: str | Path, images: Float[Tensor, "b c *s"] | None = None
) -> Path:
    """Write `model.safetensors` and `config.json` for timm's VisionTransformer.

    Args:
        model: a model directory, or what was loaded from one.
        out: folder that is made; `VisionTransformer(**config["timm"])` takes the weights strictly.
        images: normalised images to compare on, real ones if there are any; noise otherwise.

    Raises:
        UsageError: when timm has no such model.
        WeightsError: when timm's features differ from ours.
    """
    from timm.models.vision_transformer import VisionTransformer

    loaded = _loaded(model)
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
    content = {"timm": arguments, "normaliser": loaded.normaliser}
    write_text(out / CONFIG_FILE, json.dumps(content, indent=1) + "\n")
    return out


def export_hub(directory: str | Path, out: str | Path) -> Path:
    """Copy a model directory after checking every file: weights, config, card, recipe, data."""
    directory, out = Path(directory), Path(out)
    content = read_config(directory)
    for name in content["sha256"]:
        verified(directory, name, content["sha256"])
    # The configuration comes last: a folder without it is not taken for a model.
    for name in (*content["sha256"], "README.md", "recipe.yaml", "data.json", CONFIG_FILE):
        with replacing(out / name) as temporary:
            shutil.copyfile(directory / name, temporary)
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
        UsageError: when onnx or onnxruntime is not installed.
        WeightsError: when onnxruntime gives other features.
    """
    try:
        import onnx  # noqa: F401  torch needs it to write
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "export to onnx", f"needs {error.name}", "pip install onnx onnxruntime"
        ) from error
    loaded = _loaded(model)
    encoder = loaded.method.encoder.eval()
    whole = Preprocessed(encoder, preprocess).eval()
    images = probe(encoder.grid) if samples is None else samples.float()
    out = Path(out)
    with replacing(out / "encoder.onnx") as temporary:
        write_onnx(whole, images, temporary)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        doubled = torch.cat([images, images])
        (got,) = session.run(None, {"images": doubled.numpy()})
        with torch.no_grad():
            require_equal(torch.as_tensor(got), whole(doubled), "onnxruntime")
    content = {"normaliser_inside": preprocess is not None, "normaliser": loaded.normaliser}
    write_text(out / CONFIG_FILE, json.dumps(content, indent=1) + "\n")
    return out


def _loaded(model: str | Path | LoadedModel) -> LoadedModel:
    return model if isinstance(model, LoadedModel) else load_model(model)


def write_onnx(model: nn.Module, images: Tensor, path: Path) -> None:
    """Trace a model; sizes are constants of the graph, the batch is free."""
    with warnings.catch_warnings():
        # The tracer warns at every shape check; those are constant here and the result is compared.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (images,),
            str(path),
            input_names=["images"],
            output_names=["tokens"],
            dynamic_axes={"images": {0: "batch"}, "tokens": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


def probe(grid: Grid) -> Float[Tensor, "2 c *s"]:
    """Return noise of an encoder's input size."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, grid.channels, *grid.image_size, generator=generator)


def require_equal(got: Tensor, wanted: Tensor, who: str) -> None:
    """Raise WeightsError unless two sets of features agree."""
    scale = wanted.abs().max().clamp_min(1e-6)
    worst = float((got - wanted).abs().max() / scale) if got.shape == wanted.shape else torch.inf
    if not worst <= TOLERANCE:
        raise WeightsError(
            who,
            f"computes other features (largest difference {worst:.1e} of the range)",
            "do not use this export; update the library and try again",
        )
