"""Small labelled CT stores and models, for tests of fine-tuning, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny_models import spread

from mimkit.core.checkpoints.model_dir import save_model
from mimkit.core.grid import Grid
from mimkit.core.heads.task import HEAD_PART, TaskConfig, TaskModel
from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig, build
from mimkit.datasets.files import write_json
from mimkit.datasets.manifest import ManifestRow, write_manifest
from mimkit.datasets.samples import Sample
from mimkit.datasets.store import StoreMeta, StoreWriter
from mimkit.domains.ct.normalise import Normaliser

SIZE = (8, 16, 16)
PATCH = (4, 8, 8)
SPACING = (3.0, 1.5, 1.5)
UNETR_SIZE = (32, 16, 48)
CLASSES = ("background", "ball")
BRIGHT, DARK = 150.0, -50.0  # HU of a ball and of what is around it


def ball_volume(
    shape: tuple[int, ...], centre: tuple[float, ...], radius: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return int16 HU of a noisy ball, and its mask; radius in voxels."""
    where = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    away = np.sqrt(((where - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0))
    mask = away < radius
    noise = np.random.default_rng(seed).normal(0, 60, shape)
    return np.rint(np.where(mask, BRIGHT, DARK) + noise).astype(np.int16), mask.astype(np.uint8)


def write_ct_store(folder: Path, *, num_patients: int = 6, crops: int = 4) -> Path:
    """Write a store of crops of which every other one holds a ball; splits are by patient."""
    parts = ("train", "train", "train", "train", "val", "test")
    num = num_patients * crops
    meta = StoreMeta(
        domain="ct",
        sensor="ct",
        bands=("ct",),
        size=SIZE,
        dtype="int16",
        scale=(1.0,),
        offset=(0.0,),
        num_samples=num,
        shard=num,
        units="HU",
        classes=CLASSES,
        facts={"spacing": list(SPACING), "window": [-175.0, 250.0]},
    )
    random, samples, rows = np.random.default_rng(0), [], []
    for row in range(num):
        centre = tuple(random.uniform(0.3, 0.7) * n for n in SIZE)
        radius = 3.5 if row % 2 else 0.0
        pixels, labels = ball_volume(SIZE, centre, radius, row)
        samples.append(Sample(pixels[None], None, labels))
        patient = row // crops
        name = f"patient{patient}"
        rows.append(
            ManifestRow(
                id=f"{name}-{row}",
                uri=f"{name}.nii.gz",
                status="kept",
                split=parts[patient % len(parts)],
                group=name,
                store_group=meta.group_name,
                row=row,
                labelled=1.0,
            )
        )
    writer = StoreWriter(folder / meta.group_name, meta)
    writer.write_shard(0, samples)
    writer.finalise()
    write_json(folder / meta.group_name / "normaliser.json", normaliser().to_dict())
    write_manifest(folder / "manifest.parquet", rows)
    return folder


def normaliser() -> Normaliser:
    """Return the normaliser of the store."""
    return Normaliser(scale=(1.0,), offset=(0.0,), spacing=SPACING)


def write_ct_encoder(folder: Path, *, depth: int = 3) -> Path:
    """Write a model directory with random weights that was made for the store's crops."""
    torch.manual_seed(0)
    encoder = EncoderConfig(embed_dim=24, depth=depth, num_heads=2, patch_size=4)
    config = MAEConfig(encoder=encoder, decoder=DecoderConfig(dim=24, depth=1, num_heads=2))
    method = build(config, Grid.for_image(SIZE, PATCH, 1))
    save_model(
        folder,
        method,
        config,
        normaliser=normaliser().to_dict(),
        recipe="seed: 0\n",
        data={},
    )
    return folder


def write_threshold_model(
    folder: Path,
    *,
    spacing: tuple[float, float, float] | None = None,
    held_out: Sequence[str] = (),
) -> Path:
    """Write a fine-tuned model that calls a voxel ball when it is brighter than 50 HU.

    Its head's direct path from voxels to classes does it, everything else has weight zero; so what
    it says does not depend on windows.
    """
    torch.manual_seed(0)
    encoder = EncoderConfig(embed_dim=24, depth=2, num_heads=2, patch_size=4)
    config = MAEConfig(encoder=encoder, decoder=DecoderConfig(dim=24, depth=1, num_heads=2))
    method = build(config, Grid.for_image(SIZE, PATCH, 1))
    task = TaskConfig(
        task="segment", classes=CLASSES, image_size=SIZE, taps=(-1,), dim=8, stem_dim=4
    )
    model = TaskModel(method.encoder, task)
    classify = model.head.get_submodule("sharpen.classify")
    low, high = normaliser().window
    with torch.no_grad():
        for parameter in classify.parameters():
            parameter.zero_()
        classify.get_parameter("weight")[1, -1] = 1.0
        classify.get_parameter("bias")[1] = -(50.0 - low) / (high - low)
    save_model(
        folder,
        method,
        config,
        normaliser=Normaliser(scale=(1.0,), offset=(0.0,), spacing=spacing).to_dict(),
        recipe="seed: 0\n",
        data={"held_out": list(held_out)},
        extra={"task": task},
        parts={HEAD_PART: model.head},
    )
    return folder


def finetune_ct(model: Path, store: Path, out: Path, *options: str) -> Path:
    """Fine-tune through the command line and return the folder of the run."""
    from mimkit.pipelines.cli import main

    words = ["finetune", "--model", str(model), "--data", str(store), "--out", str(out)]
    words += ["--epochs", "30", "--batch-size", "8", "--optim.warmup-epochs", "1"]
    words += ["--optim.base-lr", "0.1", "--optim.layer-decay", "None", "--loss", "dice-ce"]
    words += ["--stem-dim", "8", "--dim", "16", "--efficiency.num-threads", "1"]
    words += ["--efficiency.validate-every", "30"]
    assert main([*words, *options]) == 0
    return out


def write_unetr(
    folder: Path, *, token: bool, spacing: tuple[float, float, float] | None = SPACING
) -> Path:
    """Write a fine-tuned model that is MONAI's UNETR, with random weights."""
    torch.manual_seed(0)
    encoder = EncoderConfig(
        embed_dim=24, depth=12, num_heads=2, patch_size=16, mlp_ratio=2.0, class_token=token
    )
    config = MAEConfig(encoder=encoder, decoder=DecoderConfig(dim=16, depth=1, num_heads=2))
    method = build(config, Grid.for_image(UNETR_SIZE, 16, 1))
    spread(method, 0.1)
    task = TaskConfig(
        task="segment",
        classes=CLASSES,
        image_size=UNETR_SIZE,
        taps=(3, 6, 9, -1),
        head="unetr",
        stem_dim=4,
        deep_supervision=True,
    )
    save_model(
        folder,
        method.eval(),
        config,
        normaliser=replace(normaliser(), spacing=spacing).to_dict(),
        recipe="seed: 0\n",
        data={},
        extra={"task": task},
        parts={HEAD_PART: TaskModel(method.encoder, task).head},
    )
    return folder
