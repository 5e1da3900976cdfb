"""`mimkit pretrain`: an encoder from a store, without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from ..core.batch import Batch
from ..core.checkpoints.model_dir import load_model, save_model, sha256
from ..core.checkpoints.teacher_weights import fingerprint, load_teacher, with_teacher
from ..core.config_tree import to_plain
from ..core.errors import UsageError
from ..core.method import Method
from ..core.methods import build
from ..core.training.engine import step_seed
from ..core.training.flops import training_flops
from ..core.training.meters import SpeedMeter
from ..core.training.pruning import InfoBatch
from ..datasets.loader import Loader
from ..datasets.samples import Samples
from ..domains.domain import Domain, Normaliser, get_domain
from .distributed import Team, check_share, make_engine, together
from .efficiency import Efficiency
from .progress import say
from .recipe import (
    DEFAULT,
    Recipe,
    check_recipe,
    load_recipe,
    peak_lr,
    recipe_grid,
    recipe_of,
    recipe_yaml,
)
from .run_folder import RunFolder, claimed_run
from .stores import OpenGroup, open_group
from .training import Job, fit
from .watching import watch


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Recipe):
    """Pre-train an encoder on a store, without labels.

    Start from a recipe (`mimkit recipe list`) and change any of its settings. The same command
    continues a run that was interrupted.
    """

    recipe: str = DEFAULT
    """Name of a recipe, or a YAML file; everything below can be changed."""
    data: Path
    """Folder that `mimkit curate` wrote."""
    out: Path
    """Folder of the run; made when it is missing, continued when it is there."""
    group: str | None = None
    """Store in `data`, when it holds several."""
    split: str = "train"
    """Split to train on; "all" takes every sample (no labels are read)."""
    fraction: float = 1.0
    """Share of that split, drawn by the seed, to see what more data bring; a smaller share is part
    of a larger one."""
    init: Path | None = None
    """Model directory to start from: encoder and decoder of the same method and size."""
    teacher: Path | None = None
    """Weights of the frozen teacher, for methods that have one: a safetensors or weights-only file
    of a CLIP image tower or a plain ViT, or a model directory. Its architecture is read from it."""
    dry_run: bool = False
    """Print the resolved recipe and a forecast of time and memory, and write nothing."""
    efficiency: Efficiency = field(default_factory=Efficiency)
    """Speed and safety; may differ when a run is continued."""


def defaults(argv: Sequence[str]) -> PretrainConfig:
    """Return the configuration of the recipe that the words name."""
    name = option(argv, "--recipe") or DEFAULT
    recipe = load_recipe(name)
    values: dict[str, Any] = {f.name: getattr(recipe, f.name) for f in fields(Recipe)}
    config = PretrainConfig(**values, recipe=name, data=Path(), out=Path())
    require(config, "data", "out")
    return config


def require(config: object, *names: str) -> None:
    """Mark fields of a configuration to start from as such that must be given."""
    for name in names:
        # The mark is no path, so it goes past the constructor.
        object.__setattr__(config, name, tyro.MISSING)


def option(argv: Sequence[str], name: str) -> str | None:
    """Return the value of an option in `--name value` or `--name=value`, the last one."""
    found = None
    for place, word in enumerate(argv):
        if word == name and place + 1 < len(argv):
            found = argv[place + 1]
        elif word.startswith(f"{name}="):
            found = word.partition("=")[2]
    return found


def run(config: PretrainConfig) -> Path:
    """Pre-train and write the model directory.

    Returns:
        the model directory.

    Raises:
        UsageError: for settings that cannot work or do not fit the data or an earlier run.
        DataError: when the store cannot be read.
        StoppedRunError: when the run was asked to stop; its state is saved.
        RankLostError: when another process of the run has gone.
    """
    recipe = recipe_of(config)
    if config.teacher is not None:
        recipe = replace(recipe, method=with_teacher(recipe.method, config.teacher))
    check_recipe(recipe)
    with together(config.efficiency, recipe.batch_size, recipe.precision) as team:
        return _run(config, recipe, team)


def _run(config: PretrainConfig, recipe: Recipe, team: Team) -> Path:
    group = open_group(config.data, config.group)
    domain = get_domain(group.meta.domain)
    normaliser = domain.normaliser(group.normaliser_dict)
    method = make_method(recipe, group, normaliser, config.init)
    if config.teacher is not None:
        load_teacher(method, config.teacher)
    check_share(recipe.batch_size, team.ranks, method.batch_multiple)
    rows = training_rows(config, recipe, group)
    if config.dry_run:
        announce(recipe, method, group, rows, team)
        foretell(config, recipe, group, len(rows), team)
        return config.out
    settings = to_plain(recipe), provenance(config, group), to_plain(config.efficiency)
    with claimed_run(config.out, "pretrain", *settings, team.ranks) as folder:
        if folder.finished:
            say(f"{folder.model} is finished; nothing to do")
            return folder.model
        announce(recipe, method, group, rows, team)
        job = make_job(config, recipe, method, group, domain, normaliser, rows, folder, team)
        fit(job)
        with job.engine.whole():
            if team.ranks.first:
                save_model(
                    folder.model,
                    method,
                    recipe.method,
                    normaliser=normaliser.to_dict(),
                    recipe=recipe_yaml(recipe),
                    data=model_card(config, group, rows),
                )
    say(f"model: {folder.model}")
    return folder.model


def make_method(
    recipe: Recipe, group: OpenGroup, normaliser: Normaliser, init: Path | None
) -> Method:
    """Build the method with fresh weights, or with those of a model directory.

    Raises:
        UsageError: when the model to start from is another method or was made for other images.
    """
    grid = recipe_grid(recipe, group.meta.num_channels)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(step_seed(recipe.seed, 0, 100))
        method = build(recipe.method, grid)
    if init is None:
        return method
    loaded = load_model(init)
    get_domain(group.meta.domain).normaliser(loaded.normaliser).check_bands(
        normaliser.bands, f"--init {init}"
    )
    own, other = to_plain(recipe.method), to_plain(loaded.config)
    for part in ("name", "encoder", "decoder"):
        if own[part] != other[part]:
            reason = f"has {part} {other[part]}, the recipe {own[part]}"
            raise UsageError(f"--init {init}", reason, "change the recipe, or start from nothing")
    if loaded.method.grid != grid:
        reason = f"was made for {loaded.method.grid}, the recipe asks for {grid}"
        raise UsageError(f"--init {init}", reason, "set --image-size to that of the model")
    method.load_state_dict(loaded.method.state_dict())
    return method


def training_rows(config: PretrainConfig, recipe: Recipe, group: OpenGroup) -> np.ndarray:
    """Return the rows of the store to train on.

    Raises:
        UsageError: when there are too few for a batch, or for a share that is none.
    """
    rows = group.rows(config.split)
    if not 0 < config.fraction <= 1:
        raise UsageError(f"fraction {config.fraction}", "is no share", "use a number up to 1")
    if config.fraction < 1:
        order = np.random.default_rng(step_seed(recipe.seed, 0, 200)).permutation(len(rows))
        rows = rows[np.sort(order[: round(config.fraction * len(rows))])]
    if len(rows) < recipe.batch_size:
        raise UsageError(
            f"batch_size {recipe.batch_size}",
            f"is more than the {len(rows)} samples of split {config.split!r}",
            f"use --batch-size {max(len(rows), 1)} or less, or --split all",
        )
    return rows


def provenance(config: PretrainConfig, group: OpenGroup) -> dict[str, Any]:
    """Return what a run depends on besides its recipe, as plain data."""
    init = None if config.init is None else sha256(config.init / "model.safetensors")
    return {
        "group": group.store.path.name,
        "fingerprint": group.meta.fingerprint,
        "split": config.split,
        **({} if config.fraction == 1 else {"fraction": config.fraction}),
        **({} if config.teacher is None else {"teacher": fingerprint(config.teacher)}),
        "normaliser": group.normaliser_dict,
        "init": init,
    }


def model_card(config: PretrainConfig, group: OpenGroup, rows: np.ndarray) -> dict[str, Any]:
    """Return what a model was trained on, for data.json."""
    licences = sorted({text or "not stated" for text in group.column("licence")})
    sources = sorted({text or "not stated" for text in group.column("source")})
    return {
        "store": group.store.path.name,
        "fingerprint": group.meta.fingerprint,
        "domain": group.meta.domain,
        "description": get_domain(group.meta.domain).describe(group.meta),
        "split": config.split,
        "num_samples": len(rows),
        "licences": ", ".join(licences),
        "sources": ", ".join(sources),
        "recipe": config.recipe if not config.recipe.endswith((".yaml", ".yml")) else "a file",
    }


def announce(
    recipe: Recipe, method: Method, group: OpenGroup, rows: np.ndarray, team: Team
) -> None:
    """Say what is about to happen, with the numbers that recipes leave implicit."""
    flops = training_flops(method).training / 1e9
    millions = sum(p.numel() for p in method.encoder.parameters()) / 1e6
    say(get_domain(group.meta.domain).describe(group.meta))
    say(
        f"{recipe.method.name}: encoder of {millions:.1f} M parameters, "
        f"{method.mask.num_visible} of {method.grid.num_tokens} tokens seen, "
        f"{method.mask.num_predict} predicted, {flops:.2f} GFLOP per image and step"
    )
    say(
        f"{len(rows)} samples, {recipe.epochs} epochs, batch {recipe.batch_size}, peak learning "
        f"rate {peak_lr(recipe):.3g} (base {recipe.optim.base_lr:g} x batch / 256 x "
        f"{recipe.method.lr_factor:.3g}), {recipe.precision} on {team.describe()}"
    )


def foretell(
    config: PretrainConfig, recipe: Recipe, group: OpenGroup, num_samples: int, team: Team
) -> None:
    """Print the resolved recipe and what it costs here, as `mimkit doctor` predicts it."""
    from .doctor import free_bytes, memory_finding, time_finding
    from .machine.forecast import forecast

    say(f"\n{recipe_yaml(recipe)}")
    predicted = forecast(recipe, group.meta.num_channels, team.device)
    micro, free = config.efficiency.micro_batch, free_bytes(config.efficiency.device)
    shared = replace(predicted, batch_size=micro or recipe.batch_size // team.ranks.world)
    samples = -(-num_samples // team.ranks.world)
    for finding in (time_finding(recipe, predicted, samples), memory_finding(shared, free)):
        say(" ".join(filter(None, [f"{finding.topic}: {finding.found}.", finding.remedy])))
    say(f"nothing was written; without --dry-run the run goes to {config.out}")


def make_job(
    config: PretrainConfig,
    recipe: Recipe,
    method: Method,
    group: OpenGroup,
    domain: Domain,
    normaliser: Normaliser,
    rows: np.ndarray,
    folder: RunFolder,
    team: Team,
) -> Job:
    """Put engine, loader and meters together."""
    efficiency, device, ranks = config.efficiency, team.device, team.ranks
    engine = make_engine(
        team,
        efficiency,
        method,
        recipe.optim,
        batch_size=recipe.batch_size,
        num_epochs=recipe.epochs,
        lr_factor=recipe.method.lr_factor,
        precision=recipe.precision,
    )
    loader = Loader(
        group.store,
        rows,
        recipe.batch_size,
        recipe.seed,
        num_threads=efficiency.loader_threads,
        prefetch=efficiency.prefetch,
        rank=ranks.rank,
        world=ranks.world,
        timeout_seconds=efficiency.data_timeout,
    )
    num_tokens = method.mask.num_visible + method.mask.num_predict
    look = None
    if config.split == "train":
        look = watch(recipe, method, group, normaliser, efficiency, device)
    return Job(
        folder,
        engine,
        loader,
        views_of(recipe, method, group, domain, normaliser, device),
        recipe.epochs,
        recipe.seed,
        efficiency,
        SpeedMeter(training_flops(method), num_tokens, device),
        make_pruning(recipe, len(rows), device),
        None if look is None else look.loss,
        ranks=ranks,
        watch=None if look is None else look.features,
    )


def views_of(
    recipe: Recipe,
    method: Method,
    group: OpenGroup,
    domain: Domain,
    normaliser: Normaliser,
    device: torch.device,
) -> Callable[[Samples, torch.Generator], Batch]:
    """Return what turns samples into a batch; a method of two crops is given both."""

    def look(samples: Samples, generator: torch.Generator) -> Batch:
        return domain.to_batch(
            samples,
            group.meta,
            normaliser,
            size=recipe.image_size,
            augment=recipe.augment,
            generator=generator,
            device=device,
        )

    def look_twice(samples: Samples, generator: torch.Generator) -> Batch:
        batch = look(samples, generator)
        other = look(samples, generator)  # the generator has moved on: another view
        return replace(batch, second=other.images, second_valid=other.valid)

    return look if method.views is None or method.views.same_image else look_twice


def make_pruning(recipe: Recipe, num_samples: int, device: torch.device) -> InfoBatch | None:
    """Return what chooses the samples of an epoch, None to visit all."""
    if not recipe.pruning.prob:
        return None
    return InfoBatch(
        num_samples,
        recipe.epochs,
        recipe.seed,
        prune_prob=recipe.pruning.prob,
        full_share=recipe.pruning.full_share,
        device=device,
    )


def with_recipe(config: PretrainConfig, recipe: Recipe) -> PretrainConfig:
    """Return a configuration whose recipe is another one."""
    return replace(config, **{f.name: getattr(recipe, f.name) for f in fields(Recipe)})
