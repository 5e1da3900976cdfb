"""`mimkit finetune`: a model that answers a question, from a pre-trained encoder and labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from ..core.batch import Batch
from ..core.checkpoints.model_dir import LoadedModel, load_model, save_model, sha256
from ..core.config_tree import to_plain
from ..core.encoders.vit import ViT
from ..core.errors import UsageError
from ..core.files import write_text
from ..core.heads.metrics import Scores
from ..core.heads.supervised import Supervised, freeze_encoder, set_drop_path
from ..core.heads.task import HEAD_PART, TaskConfig, TaskModel, usual_taps
from ..core.objectives.labels import balanced_weights
from ..core.training.engine import Engine, step_seed
from ..core.training.flops import FlopCount
from ..core.training.meters import SpeedMeter
from ..datasets.loader import Loader
from ..datasets.order import balanced_order
from ..datasets.samples import Samples
from ..domains.domain import get_domain
from .distributed import Team, check_share, make_engine, together
from .efficiency import Efficiency
from .features import random_method
from .finetune_recipe import FinetuneRecipe, check_finetune, usual_views
from .labelled import TaskData, open_task_data
from .pretrain import option, require
from .progress import say
from .run_folder import RunFolder, claimed_run
from .stores import OpenGroup, open_group
from .training import Job, fit


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
        RankLostError: when another process of the run has gone.
    """
    check_finetune(config, config.efficiency.micro_batch)
    with together(config.efficiency, config.batch_size, config.precision) as team:
        return _run(config, team)


def _run(config: FinetuneConfig, team: Team) -> Path:
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
        choice=config.choice,
    )
    recipe = FinetuneRecipe(**{f.name: getattr(config, f.name) for f in fields(FinetuneRecipe)})
    check_task(config, data)
    settings = to_plain(recipe), provenance(config, group), to_plain(config.efficiency)
    with claimed_run(config.out, "finetune", *settings, team.ranks) as folder:
        if folder.finished:
            say(f"{folder.model} is finished; nothing to do")
            return folder.model
        model = make_model(config, loaded, data)
        announce(config, data, model)
        job = make_job(config, data, model, folder, team)
        fit(job)
        finish(config, data, loaded, model, folder, job.engine)
    return folder.model


def defaults(argv: Sequence[str]) -> FinetuneConfig:
    """Return the configuration to start from; the kind of random views follows from the data."""
    data, group = option(argv, "--data"), option(argv, "--group")
    domain = "" if data is None else open_group(data, group).meta.domain
    config = FinetuneConfig(augment=usual_views(domain), model=Path(), data=Path(), out=Path())
    require(config, "model", "data", "out")
    return config


def check_task(config: FinetuneConfig, data: TaskData) -> None:
    """Raise UsageError for settings that mean nothing for the labels of the data."""
    if data.task == "segment":
        return
    for name in ("loss", "foreground", "deep_supervision"):
        value = getattr(config, name)
        if value != getattr(FinetuneRecipe(), name):
            reason = "is for a class per pixel, and the labels are classes of samples"
            raise UsageError(f"{name} {value}", reason, "leave it out")


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
        taps=() if data.task == "classify" else read_taps(config, loaded),
        head=config.head,
        dim=config.head_dim,
        stem_dim=config.stem_dim,
        deep_supervision=config.deep_supervision,
        pool=config.pool,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(step_seed(config.seed, 2, 100))
        model = TaskModel(encoder, task)
    set_drop_path(model, config.drop_path)
    if config.freeze:
        freeze_encoder(model)
    return model


def read_taps(config: FinetuneConfig, loaded: LoadedModel) -> tuple[int, ...]:
    """Return the encoder blocks that a segmentation head reads."""
    encoder, method = loaded.method.encoder, loaded.method
    if config.taps:
        return config.taps
    # Early blocks of hierarchical encoders have another width, those of a plain ViT have not.
    read = method.taps if isinstance(encoder, ViT) else ()
    return usual_taps(config.head, encoder.depth, encoder.grid.patch, read)


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


def with_loss(config: FinetuneConfig, data: TaskData, model: TaskModel) -> Supervised:
    """Return a model that computes its loss from labelled batches."""
    weight = balanced_weights(data.counts, config.class_weight)
    return Supervised(
        model,
        weight,
        data.mean_weight(weight),
        loss=config.loss,
        smoothing=config.smoothing,
        dice_weight=config.dice_weight,
    )


def make_job(
    config: FinetuneConfig,
    data: TaskData,
    model: TaskModel,
    folder: RunFolder,
    team: Team,
) -> Job:
    """Put losses, engine, loader and meters together."""
    batch_size = min(config.batch_size, len(data.rows["train"]))
    check_share(batch_size, team.ranks)
    engine = make_engine(
        team,
        config.efficiency,
        with_loss(config, data, model),
        config.optim,
        batch_size=batch_size,
        num_epochs=config.epochs,
        precision=config.precision,
    )
    loader = Loader(
        data.group.store,
        data.rows["train"],
        batch_size,
        config.seed,
        num_threads=config.efficiency.loader_threads,
        prefetch=config.efficiency.prefetch,
        labels=data.task == "segment",
        rank=team.ranks.rank,
        world=team.ranks.world,
        timeout_seconds=config.efficiency.data_timeout,
    )

    def to_batch(samples: Samples, generator: torch.Generator) -> Batch:
        return data.to_batch(samples, config.augment, generator, team.device)

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
        SpeedMeter(FlopCount(forward, 0, 0, step), num_tokens, team.device),
        sampling=sampling(config, data),
        validate=looking_at(config, data, model),
        label="finetune",
        ranks=team.ranks,
        best_by="miou",
    )


def sampling(config: FinetuneConfig, data: TaskData):
    """Return which training samples each epoch visits; None for all of them."""
    share, chosen = config.foreground, data.foreground
    if share is None:
        return None
    return lambda epoch: balanced_order(config.seed, epoch, chosen, share)


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


def about(config: FinetuneConfig, data: TaskData) -> dict[str, Any]:
    """Return what a model directory says about its labels."""
    said: dict[str, Any] = {"finetuned_on": data.describe(), "scratch": config.scratch}
    if config.folds is not None:  # evaluation has to know what the model did not see
        said |= {"fold": fold_name(config), "held_out": data.group_names("test")}
    return said


def fold_name(config: FinetuneConfig) -> str:
    """Return how a fold is called."""
    return f"{config.fold} of {config.folds}"


def finish(
    config: FinetuneConfig,
    data: TaskData,
    loaded: LoadedModel,
    model: TaskModel,
    folder: RunFolder,
    engine: Engine,
) -> None:
    """Score the test split, write scores and model, and say how it went."""
    model.eval()
    rows = data.rows["test"]
    split = config.test if config.folds is None else f"fold {fold_name(config)}"
    scored: dict[str, Any] = {"task": data.task, "split": split, "classes": data.classes}
    scored["num_samples"] = len(rows)
    if len(rows):
        matrix = data.confusion(model, rows, config.batch_size)
        scored |= to_plain(Scores.of(matrix)) | {"confusion": matrix.tolist()}
    with engine.whole():
        if folder.writes:
            write_text(folder.path / "scores.json", json.dumps(to_plain(scored), indent=1) + "\n")
            save_model(
                folder.model,
                loaded.method,
                loaded.config,
                normaliser=loaded.normaliser,
                recipe=(folder.path / "recipe.yaml").read_text(encoding="utf-8"),
                data={**loaded.data, **about(config, data)},
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
