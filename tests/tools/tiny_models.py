"""Model directories with small random networks, for tests of everything that reads one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mimkit.core.checkpoints.model_dir import save_model
from mimkit.core.grid import Grid
from mimkit.core.heads.task import HEAD_PART, TaskConfig, TaskModel
from mimkit.core.method import Method
from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig, build

CLASSES = ("water", "forest", "urban")


def normaliser_dict(
    bands: tuple[str, ...] = ("B2", "B3", "B4"), sensor: str = "landsat8-oli", **changes: Any
) -> dict[str, Any]:
    """Return a normaliser for 16-bit numbers around 10 000, which mean 0.1."""
    each = {"scale": 2e-5, "offset": -0.1, "mean": 0.1, "std": 0.03, "low": 0.05, "high": 0.3}
    numbers = {name: [value] * len(bands) for name, value in each.items()}
    plain = {"domain": "satellite", "sensor": sensor, "bands": list(bands), "units": "reflectance"}
    return {**plain, **numbers, "nodata": 0.0, **changes}


def tiny_method(
    channels: int = 3, size: int = 32, patch: int = 8, token: bool = True
) -> tuple[Method, MAEConfig]:
    """Return a method whose random weights are large enough that its answers differ."""
    torch.manual_seed(0)
    encoder = EncoderConfig(
        embed_dim=24, depth=2, num_heads=3, patch_size=patch, mlp_ratio=2.0, class_token=token
    )
    config = MAEConfig(encoder=encoder, decoder=DecoderConfig(dim=16, depth=1, num_heads=2))
    method = build(config, Grid.for_image((size, size), patch, channels))
    spread(method)
    return method.eval(), config


def spread(module: torch.nn.Module, std: float = 0.2) -> None:
    """Give all matrices of a module random numbers of a size that shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=std)


def write_model(
    folder: Path,
    normaliser: Mapping[str, Any] | None = None,
    *,
    task: str | None = "segment",
    size: int = 32,
    patch: int = 8,
    extra: Mapping[str, Any] | None = None,
    classes: tuple[str, ...] = CLASSES,
) -> Path:
    """Write a model directory: fine-tuned for a task, or pre-trained only when it is None."""
    plain = normaliser_dict() if normaliser is None else dict(normaliser)
    channels = len(plain.get("bands", "abc"))
    method, config = tiny_method(channels, size, patch)
    parts, more = {}, dict(extra or {})
    if task is not None:
        taps = (0, -1) if task == "segment" else ()
        answer = TaskConfig(
            task=task,  # type: ignore[arg-type]
            classes=classes,
            image_size=(size, size),
            taps=taps,
            dim=16,
            stem_dim=8,
        )
        model = TaskModel(method.encoder, answer)
        spread(model.head)
        parts[HEAD_PART] = model.head
        more["task"] = answer
    save_model(
        folder,
        method,
        config,
        normaliser=plain,
        recipe="seed: 0\n",
        data={},
        extra=more,
        parts=parts,
    )
    return folder
