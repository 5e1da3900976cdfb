"""`mimkit finetune`: a model that answers a question, from a pre-trained encoder and labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ..core.batch import Batch
from ..core.checkpoints.model_dir import LoadedModel, load_model, save_model, sha256
from ..core.config_tree import to_plain
from ..core.errors import UsageError
from ..core.files import write_text
from ..core.heads.classify import Pool
from ..core.heads.metrics import Scores
from ..core.heads.segmentation import default_taps
from ..core.heads.supervised import Supervised, freeze_encoder, set_drop_path
from ..core.heads.task import HEAD_PART, TaskConfig, TaskModel
from ..core.objectives.labels import balanced_weights
from ..core.training.engine import PlainEngine, Precision, step_seed
from ..core.training.flops import FlopCount
from ..core.training.meters import SpeedMeter
from ..core.training.optim import OptimConfig, check_optim
from ..datasets.loader import Loader
from ..datasets.samples import Samples
from ..domains.domain import get_domain
from ..domains.imaging.augment import AugmentConfig
from .efficiency import Efficiency, prepare
from .features import random_method
from .labelled import TaskData, open_task_data
from .progress import say
from .run_folder import RunFolder, claimed_run
from .stores import OpenGroup, open_group
from .training import Job, fit


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """How to fine-tune."""

    task: Literal["auto", "segment", "classify"] = "auto"
    """`segment`: a class per pixel; `classify`: one per sample; auto: what the store has labels
    for, samples first."""
    labels_per_class: int | None = None
    """Train on so many labelled samples of every class, drawn by the seed; all when not given. With
    labels per pixel a sample counts for its most frequent class."""
    image_size: tuple[int, ...] | None = None
    """Pixels per axis; when not given those of the stored samples for a class per pixel, and those
    of pre-training for a class per sample."""
    epochs: int = 50
    """Times that the samples are visited."""
    batch_size: int = 32
    """Samples per update; smaller sets are taken whole."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            base_lr=4e-3, betas=(0.9, 0.999), warmup_epochs=5, layer_decay=0.75, clip_grad=1.0
        )
    )
    """Optimiser; layer_decay lowers the rate of early blocks (MAE, appendix A.1)."""
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(min_area=0.5))
    """Random views."""
    freeze: bool = False
    """Train the head only."""
    drop_path: float = 0.0
    """Stochastic depth of the last block; 0.1 to 0.2 for large encoders."""
    taps: tuple[int, ...] | None = None
    """Encoder blocks that a segmentation head reads; four evenly spaced ones when not given."""
    dim: int = 64
    """Width of a segmentation head at the token grid."""
    stem_dim: int = 16
    """Width of a segmentation head at full resolution."""
    pool: Pool = "mean"
    """What a classification head pools."""
    class_weight: float = 0.5
    """Weights of rare classes: 0 for equal weights, 1 for inverse frequency."""
    dice_weight: float = 0.0
    """Factor of the Dice loss beside cross-entropy (labels per pixel)."""
    smoothing: float = 0.0
    """Label smoothing."""
    scratch: bool = False
    """Start from random weights of the same network, to see what pre-training brings."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass."""
    seed: int = 0
    """Of new weights, the order, the views and the drawn labels."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(FinetuneRecipe):
    """Fine-tune a model for the labels of a store: a class per pixel, or per sample.

    The same command continues a run that was interrupted.
    """

    model: Path
    """Model directory to start from, for example RUN/model of `mimkit pretrain`."""
    data: Path
    """Folder that `mimkit curate` wrote with --labels or --masks."""
    out: Path
    """Folder of the run; made when it is missing, continued when it is there."""
    group: str | None = None
    """Store in `data`, when it holds several."""
    train: str = "train"
    """Split to train on."""
    val: str = "val"
    """Split that is looked at during training; nothing is chosen by it."""
    test: str = "test"
    """Split that is scored at the end."""
    efficiency: Efficiency = field(default_factory=Efficiency)
    """Speed and safety; may differ when a run is continued."""


def run(config: FinetuneConfig) -> Path:
    """Fine-tune, score the test split, and write the model directory.

    Returns:
        the model directory.

    Raises:
        UsageError: for settings that cannot work or do not fit the data or an earlier run.
        DataError: when the store cannot be read.
        StoppedRunError: when the run was asked to stop; its state is saved.
    """
    device = prepare(config.efficiency)
    loaded = load_model(config.model)
    group = open_group(config.data, config.group)
    normaliser = get_domain(group.meta.domain).normaliser(loaded.normaliser)
    normaliser.check_bands(group.meta.bands, f"--data {config.data}")
    data = open_task_data(
        group,
        normaliser,
        config.task,
        loaded.method.grid,
        image_size=config.image_size,
        splits={"train": config.train, "val": config.val, "test": config.test},
        labels_per_class=config.labels_per_class,
        seed=config.seed,
    )
    check_settings(config)
    recipe = FinetuneRecipe(**{n: getattr(config, n) for n in FinetuneRecipe.__annotations__})
    with claimed_run(
        config.out,
        "finetune",
        to_plain(recipe),
        provenance(config, group),
        to_plain(config.efficiency),
    ) as folder:
        if folder.finished:
            say(f"{folder.model} is finished; nothing to do")
            return folder.model
        model = make_model(config, loaded, data)
        announce(config, data, model)
        fit(make_job(config, data, model, folder, device))
        finish(config, data, loaded, model, folder)
    return folder.model


def check_settings(config: FinetuneConfig) -> None:
    """Raise UsageError for a number that cannot train, naming field, value and fix."""
    check_optim(config.optim, config.epochs)
    if config.batch_size < 1:
        raise UsageError(f"batch_size {config.batch_size}", "is below 1", "use 1 or more")
    ranges = {"drop_path": 0.99, "class_weight": 2.0, "dice_weight": 100.0, "smoothing": 0.9}
    for name, most in ranges.items():
        if not 0 <= getattr(config, name) <= most:
            reason = f"is outside of 0 to {most:g}"
            raise UsageError(f"{name} {getattr(config, name)}", reason, "use a number inside")
    if config.efficiency.micro_batch is not None and (config.drop_path or config.dice_weight):
        raise UsageError(
            "efficiency.micro_batch",
            "changes the draws of drop_path and the sums of the Dice loss",
            "leave it out, or set drop_path and dice_weight to 0",
        )


def provenance(config: FinetuneConfig, group: OpenGroup) -> dict[str, Any]:
    """Return what a run depends on besides its settings, as plain data."""
    return {
        "group": group.store.path.name,
        "fingerprint": group.meta.fingerprint,
        "splits": [config.train, config.val, config.test],
        "model": sha256(config.model / "model.safetensors"),
    }


def make_model(config: FinetuneConfig, loaded: LoadedModel, data: TaskData) -> TaskModel:
    """Put a new head on the encoder; its weights are a function of the seed."""
    if config.scratch:
        fresh = random_method(loaded.config, loaded.method.grid, step_seed(config.seed, 1, 100))
        loaded.method.load_state_dict(fresh.state_dict())
    encoder = loaded.method.encoder
    task = TaskConfig(
        task=data.task,
        classes=data.classes,
        image_size=data.image_size,
        taps=() if data.task == "classify" else config.taps or default_taps(encoder.depth),
        dim=config.dim,
        stem_dim=config.stem_dim,
        pool=config.pool,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(step_seed(config.seed, 2, 100))
        model = TaskModel(encoder, task)
    set_drop_path(model, config.drop_path)
    if config.freeze:
        freeze_encoder(model)
    return model


def announce(config: FinetuneConfig, data: TaskData, model: TaskModel) -> None:
    """Say what is about to happen."""
    what = "a class per pixel" if data.task == "segment" else "a class per sample"
    shares = data.counts / max(float(data.counts.sum()), 1.0)
    pairs = zip(data.classes, shares.tolist(), strict=True)
    millions = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    start = "random weights" if config.scratch else str(config.model)
    say(f"{what}: {', '.join(f'{name} {share:.1%}' for name, share in pairs)}")
    say(
        f"{len(data.rows['train'])} labelled samples for training, {len(data.rows['val'])} to look "
        f"at, {len(data.rows['test'])} for the test; {millions:.1f} M trained parameters, starting "
        f"from {start}"
    )


def make_job(
    config: FinetuneConfig,
    data: TaskData,
    model: TaskModel,
    folder: RunFolder,
    device: torch.device,
) -> Job:
    """Put losses, engine, loader and meters together."""
    batch_size = min(config.batch_size, len(data.rows["train"]))
    weight = balanced_weights(data.counts, config.class_weight)
    supervised = Supervised(
        model,
        weight,
        data.mean_weight(weight),
        smoothing=config.smoothing,
        dice_weight=config.dice_weight,
    )
    engine = PlainEngine(
        supervised,
        config.optim,
        batch_size=batch_size,
        num_epochs=config.epochs,
        device=device,
        precision=config.precision,
        compile=config.efficiency.compile,
    )
    loader = Loader(
        data.group.store,
        data.rows["train"],
        batch_size,
        config.seed,
        num_threads=config.efficiency.loader_threads,
        prefetch=config.efficiency.prefetch,
        labels=data.task == "segment",
    )

    def to_batch(samples: Samples, generator: torch.Generator) -> Batch:
        return data.to_batch(samples, config.augment, generator, device)

    num_tokens = data.num_tokens
    forward = model.encoder.forward_flops(num_tokens)
    step = forward if config.freeze else 3 * forward
    return Job(
        folder,
        engine,
        loader,
        to_batch,
        config.epochs,
        config.seed,
        config.efficiency,
        # The head is left out of the count: it is small next to the encoder.
        SpeedMeter(FlopCount(forward, 0, 0, step), num_tokens, device),
        validate=looking_at(config, data, model),
        label="finetune",
    )


def looking_at(config: FinetuneConfig, data: TaskData, model: TaskModel):
    """Return a function that scores the validation split, None without labelled samples in it."""
    rows = data.rows["val"][: config.efficiency.validate_samples]
    if not len(rows):
        return None

    def validate() -> Mapping[str, float]:
        scores = Scores.of(data.confusion(model, rows, config.batch_size))
        return {
            "accuracy": scores.accuracy,
            "balanced_accuracy": scores.balanced_accuracy,
            "miou": scores.miou,
        }

    return validate


def finish(
    config: FinetuneConfig,
    data: TaskData,
    loaded: LoadedModel,
    model: TaskModel,
    folder: RunFolder,
) -> None:
    """Score the test split, write scores and model, and say how it went."""
    model.eval()
    rows = data.rows["test"]
    scored: dict[str, Any] = {"task": data.task, "split": config.test, "classes": data.classes}
    scored["num_samples"] = len(rows)
    if len(rows):
        matrix = data.confusion(model, rows, config.batch_size)
        scored |= to_plain(Scores.of(matrix)) | {"confusion": matrix.tolist()}
    write_text(folder.path / "scores.json", json.dumps(to_plain(scored), indent=1) + "\n")
    save_model(
        folder.model,
        loaded.method,
        loaded.config,
        normaliser=loaded.normaliser,
        recipe=(folder.path / "recipe.yaml").read_text(encoding="utf-8"),
        data={**loaded.data, "finetuned_on": data.describe(), "scratch": config.scratch},
        extra={**loaded.extra, "task": to_plain(model.config)},
        parts={HEAD_PART: model.head},
    )
    if len(rows):
        say(
            f"test: accuracy {scored['accuracy']:.3f}, balanced {scored['balanced_accuracy']:.3f}, "
            f"mean IoU {scored['miou']:.3f} over {len(rows)} samples ({folder.path}/scores.json)"
        )
    else:
        say(f"split {config.test!r} has no labelled samples, so nothing is scored")
    say(f"model: {folder.model}")
