"""A trained encoder for other libraries, opened again and compared before it gets its name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from jaxtyping import Float, Shaped
from torch import Tensor

from ..core.checkpoints.exporters import export_onnx, export_timm, probe
from ..core.checkpoints.model_dir import CONFIG_FILE, LoadedModel, load_model, read_config
from ..core.checkpoints.to_answers import export_answers
from ..core.checkpoints.to_hub import export_hub
from ..core.checkpoints.to_monai import export_monai
from ..core.checkpoints.to_unetr import export_unetr
from ..core.errors import UsageError, WeightsError
from ..core.heads.task import load_task
from ..domains.ct.bundle import write_bundle
from ..domains.ct.normalise import Normaliser as CtNormaliser
from ..domains.domain import Normaliser
from .progress import say
from .scenes import model_normaliser
from .stores import open_group


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a model's encoder for other libraries.

    timm: weights that timm's VisionTransformer takes strictly, for normalised images. monai: the
    same of a 3-D ViT for MONAI's ViT and UNETR. onnx: a graph from the numbers of files to
    features, with the normaliser inside. hub: a checked copy of the whole model directory, with the
    card that hubs read. monai-bundle: a fine-tuned CT model with everything around it, which
    `monai.bundle` runs without this package.
    """

    model: tyro.conf.Positional[Path]
    """Model directory, pre-trained or fine-tuned; of the latter the encoder is taken."""
    to: Literal["timm", "monai", "monai-bundle", "onnx", "hub"]
    """What to write."""
    out: Path
    """Folder that is made."""
    samples: Path | None = None
    """Store whose samples the export is compared on; noise when not given."""
    group: str | None = None
    """Group of the store, when it holds several."""
    num_samples: int = 4
    """Samples that are compared."""
    answers: bool = False
    """Write the whole fine-tuned model instead of its encoder. onnx: from the numbers of files to
    class probabilities (answers.onnx); monai: as MONAI's UNETR, from normalised volumes to class
    scores."""


def run(config: ExportConfig) -> Path:
    """Write the export and return its folder.

    Raises:
        UsageError: for a folder that holds a model, or a kind that the model cannot become.
        WeightsError: when the model cannot be read, or the export computes other features.
        DataError: when the store cannot be read.
    """
    check_out(config)
    if config.to == "hub":
        if config.samples is not None:
            hint = "leave it out, or export to timm, monai or onnx"
            raise UsageError("--samples", "a copy has nothing to compare", hint)
        export_hub(config.model, config.out)
        say(f"{config.out}: a copy of {config.model}, every file checked")
        return config.out
    if config.to == "monai-bundle":
        return export_bundle(config)
    task = load_task(config.model) if config.answers else None
    loaded = load_model(config.model) if task is None else task.loaded
    domain, normaliser = model_normaliser(config.model, loaded.normaliser)
    stored = stored_samples(config, loaded, normaliser)
    what = "noise" if stored is None else f"{len(stored)} samples of {config.samples}"
    if config.to in ("timm", "monai"):
        images = images_of(stored, normaliser)
        if task is not None:
            export_unetr(task, config.out, images)
            say(f"{config.out}: weights for MONAI's UNETR, scores equal on {what}")
            say_differences(config.out, "scores")
            return config.out
        write = {"timm": export_timm, "monai": export_monai}[config.to]
        write(loaded, config.out, images)
        name = {"timm": "timm's VisionTransformer", "monai": "MONAI's ViT"}[config.to]
        say(f"{config.out}: weights for {name}, features equal on {what}")
        say_differences(config.out)
        return config.out
    module = domain.export_module(normaliser)
    with torch.no_grad():
        images = module.invert(probe(loaded.method.grid)) if stored is None else as_float(stored)
    if task is not None:
        export_answers(task, config.out, module, images)
        say(f"{config.out}: answers.onnx with its normaliser, probabilities equal on {what}")
        return config.out
    export_onnx(loaded, config.out, module, images)
    say(f"{config.out}: encoder.onnx with its normaliser, features equal on {what}")
    return config.out


def export_bundle(config: ExportConfig) -> Path:
    """Write a fine-tuned CT model as a MONAI bundle.

    Raises:
        UsageError: for a model without classes of voxels, or of another domain.
        WeightsError: when the model cannot be read, or the bundle computes other scores.
        DataError: when the store cannot be read.
    """
    task = load_task(config.model)
    _, normaliser = model_normaliser(config.model, task.normaliser)
    if not isinstance(normaliser, CtNormaliser):
        reason = f"is a model of {normaliser.domain} images"
        raise UsageError(config.model, reason, "use --to onnx --answers")
    stored = stored_samples(config, task.loaded, normaliser)
    apart = write_bundle(task, normaliser, config.out, images_of(stored, normaliser))
    what = "noise" if stored is None else f"{len(stored)} samples of {config.samples}"
    say(f"{config.out}: a MONAI bundle, scores on {what} equal up to {apart:.0e} of their range")
    return config.out


def say_differences(out: Path, what: str = "features") -> None:
    """Print how what an export computes differs when it is not opened as config.json says."""
    content = json.loads((out / CONFIG_FILE).read_text(encoding="utf-8"))
    for how, share in content.get("difference", {}).items():
        say(f"{how} {what} differ by up to {share:.1e} of their range")


def check_out(config: ExportConfig) -> None:
    """Raise UsageError for a folder in which an export would destroy a model."""
    if config.out.is_file():
        raise UsageError(f"--out {config.out}", "is a file", "give a folder")
    if config.answers and config.to not in ("onnx", "monai"):
        raise UsageError("--answers", f"is not for --to {config.to}", "use --to onnx or monai")
    if config.num_samples < 1:
        raise UsageError(f"--num-samples {config.num_samples}", "is below 1", "use 1 or more")
    if not (config.out / CONFIG_FILE).exists():
        return
    try:
        read_config(config.out)
    except WeightsError:
        return  # an earlier export, which is replaced
    raise UsageError(f"--out {config.out}", "holds a model", "give another folder")


def stored_samples(
    config: ExportConfig, loaded: LoadedModel, normaliser: Normaliser
) -> Shaped[np.ndarray, "b c *s"] | None:
    """Return samples of the store as it holds them, in the size of the encoder; None without one.

    Raises:
        UsageError: for a store with other bands.
        DataError: when the store cannot be read.
    """
    if config.samples is None:
        return None
    group = open_group(config.samples, config.group)
    normaliser.check_bands(group.meta.bands, f"--samples {config.samples}")
    last = len(group.store) - 1
    rows = np.linspace(0, last, min(config.num_samples, last + 1)).round().astype(np.int64)
    return nearest(group.store.read(np.unique(rows)).pixels, loaded.method.grid.image_size)


def nearest(
    images: Shaped[np.ndarray, "b c *s"], size: tuple[int, ...]
) -> Shaped[np.ndarray, "b c *t"]:
    """Return images of another size whose values all occur in them."""
    for axis, length in enumerate(size, start=2):
        before = images.shape[axis]
        images = images.take(np.arange(length) * before // length, axis=axis)
    return images


def images_of(
    stored: Shaped[np.ndarray, "b c *s"] | None, normaliser: Normaliser
) -> Float[Tensor, "b c *s"] | None:
    """Return stored samples as a network reads them; None without samples."""
    return None if stored is None else normaliser(stored)


def as_float(stored: Shaped[np.ndarray, "b c *s"]) -> Float[Tensor, "b c *s"]:
    """Return stored numbers as the float32 that a graph takes."""
    return torch.from_numpy(stored.astype(np.float32))
