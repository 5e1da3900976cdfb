"""How good is a frozen encoder: probes beside cheap baselines, reconstruction beside inpainting."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from ..core.checkpoints.model_dir import LoadedModel, load_model
from ..core.config_tree import to_plain
from ..core.errors import UsageError, WeightsError
from ..core.files import write_text
from ..core.heads.pool import Pooling
from ..core.reconstruction import pixel_heads
from ..domains.domain import Normaliser, get_domain
from .features import (
    Source,
    image_source,
    pixel_sources,
    random_method,
    stored_batches,
    token_source,
)
from .inpaint import ReconstructionScore, score_reconstruction
from .probe_data import ProbeData, Reading, Unit, labelled_task, read_probe_data, split_rows
from .probing import ProbeScore, probe_table, table_markdown
from .progress import say
from .stores import OpenGroup, open_group

RANDOM = "random initialisation"
_RECONSTRUCTION_BATCH = 8  # masks are drawn batch by batch, so their size must not be a setting


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Measure the whole suite on sample data, over several seeds, instead of one model."""

    name: Annotated[
        Literal["satellite", "faces", "ct", "scaling"] | None, tyro.conf.arg(name="study")
    ] = None
    """Study of this domain: writes OUT/DOMAIN.md with its pictures. Killed runs continue."""
    samples: Path | None = None
    """Folder with the study's data."""
    work: Path = Path("runs/study")
    """Where stores, models and finished numbers are kept."""
    parts: tuple[str, ...] = ()
    """Parts to run; all when none is given."""
    seeds: int = 5
    """Repetitions of every part."""
    workers: int = 2
    """Processes, one thread each; changes no result."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure a frozen encoder on a store, or run a study on sample data."""

    model: Path | None = None
    """Model directory, for example RUN/model."""
    data: Path | None = None
    """Curated store with classes of samples or of pixels."""
    out: Path
    """Folder for evaluation.json and evaluation.md, or for the page of a study."""
    group: str | None = None
    """Store in `data`, when it holds several."""
    train: str = "train"
    """Split whose labels the probes may use."""
    test: str = "test"
    """Split that is judged; never used to choose anything."""
    few: tuple[int, ...] = (10,)
    """Also fit with so many labels a class."""
    draws: int = 5
    """Draws of the few labels."""
    random_seeds: int = 3
    """Random initialisations that the model is compared with."""
    pooling: Annotated[Pooling, tyro.conf.OmitArgPrefixes] = field(default_factory=Pooling)
    """How tokens become one vector."""
    neighbours: int = 20
    """Voters of the kNN probe; at most half as many as a class has labels."""
    max_tokens: int = 20_000
    """With classes of pixels: at most so many labelled tokens a split, drawn at random."""
    reconstruct: int = 64
    """Test images for masked reconstruction beside inpainting; 0 leaves it out."""
    mask_ratio: float | None = None
    """Share of hidden tokens in that comparison; what the model was trained with when not given."""
    batch_size: int = 64
    """Images per forward pass; changes no result."""
    seed: int = 0
    """Of draws and masks."""
    device: str = "cpu"
    """Where the encoder runs."""
    num_threads: int | None = None
    """CPU threads; torch's own choice when not given."""
    study: Annotated[StudyOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=StudyOptions)
    """The study."""

    def __post_init__(self) -> None:
        """Check that the numbers make sense.

        Raises:
            UsageError: naming field, value and fix.
        """
        least = {"draws": 1, "random_seeds": 0, "neighbours": 1, "max_tokens": 1}
        least |= {"reconstruct": 0, "batch_size": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value < smallest:
                raise UsageError(f"{name} {value}", "is too small", f"use {smallest} or more")
        if any(number < 1 for number in self.few):
            raise UsageError(f"few {self.few}", "holds a number below 1", "use numbers such as 10")
        if self.mask_ratio is not None and not 0 < self.mask_ratio < 1:
            raise UsageError(f"mask_ratio {self.mask_ratio}", "is no share", "use 0.5 to 0.9")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured.

    Args:
        model: model directory.
        data: store.
        unit: what the probes classify; None without labels.
        classes: names of the classes.
        num_train: labelled training units.
        num_test: labelled test units.
        probes: lines of the probe table; empty without labels.
        reconstruction: masked reconstruction of test images; None when it was left out.
    """

    model: str
    data: str
    unit: Unit | None
    classes: tuple[str, ...]
    num_train: int
    num_test: int
    probes: tuple[ProbeScore, ...]
    reconstruction: ReconstructionScore | None = None


def run(config: EvaluateConfig) -> Evaluation | None:
    """Evaluate a model, or run a study; writes JSON and Markdown below `out`.

    Raises:
        UsageError: see `evaluate`.
    """
    if config.study.name is not None:
        study(config.study, config.out)
        return None
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    found = evaluate(config)
    write_text(config.out / "evaluation.json", json.dumps(to_plain(found), indent=1) + "\n")
    text = markdown(found)
    write_text(config.out / "evaluation.md", text)
    say(text)
    say(f"written to {config.out / 'evaluation.json'} and {config.out / 'evaluation.md'}")
    return found


def study(options: StudyOptions, out: Path) -> Path:
    """Run a study and return its page.

    Raises:
        UsageError: without samples, for an unknown part or a number that is too small.
    """
    from .study.run import run_study
    from .study.units import Study

    if options.name is None or options.samples is None:
        raise UsageError("--samples", "is not given", "name the folder with the study's data")
    for name in ("seeds", "workers"):
        if getattr(options, name) < 1:
            raise UsageError(f"{name} {getattr(options, name)}", "is too small", "use 1 or more")
    setup = Study(options.samples, options.work, options.seeds, options.workers)
    return run_study(setup, options.parts, out, options.name)


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Measure a model on a store.

    Raises:
        UsageError: without model or data, for another domain, other bands or another order of
            bands, for splits without labels, or when there is nothing to measure.
        WeightsError: for a model that does not know how its pixels were normalised.
    """
    if config.model is None or config.data is None:
        missing = "--model" if config.model is None else "--data"
        raise UsageError(missing, "is not given", "name a model directory and a store")
    loaded = load_model(config.model, device=config.device)
    loaded.method.eval()
    group = open_group(config.data, config.group)
    normaliser = model_normaliser(loaded, group, config.model)
    config.pooling.check(loaded.method.encoder)
    probed = probe_data(config, loaded, group, normaliser)
    score = reconstruction_score(config, loaded, group, normaliser)
    if probed is None and score is None:
        raise UsageError(
            group.store.path,
            "has no labels for probes, and no reconstruction was asked for or can be made",
            "curate with --labels or --masks, or set --reconstruct",
        )
    truth = None if probed is None else probed.truth
    return Evaluation(
        model=str(config.model),
        data=str(config.data),
        unit=None if probed is None else probed.unit,
        classes=() if truth is None else truth.classes,
        num_train=0 if truth is None else len(truth.train),
        num_test=0 if truth is None else len(truth.test),
        probes=() if probed is None else tuple(_table(config, probed)),
        reconstruction=score,
    )


def model_normaliser(loaded: LoadedModel, group: OpenGroup, model: Path) -> Normaliser:
    """Return the normaliser that a model carries, checked against a store.

    Raises:
        WeightsError: when the model carries none.
        UsageError: when the store is of another domain, or of other bands or in another order.
    """
    if not loaded.normaliser:
        raise WeightsError(
            model,
            "does not say which bands it wants, in which order and on which scale",
            "take the model directory that `mimkit pretrain` wrote",
        )
    own, other = loaded.normaliser.get("domain"), group.meta.domain
    if own != other:
        reason = f"holds {other} images and the model is for domain {own!r}"
        raise UsageError(group.store.path, reason, "choose a store of the model's domain")
    normaliser = get_domain(other).normaliser(loaded.normaliser)
    normaliser.check_bands(group.meta.bands, str(group.store.path))
    return normaliser


def probe_data(
    config: EvaluateConfig, loaded: LoadedModel, group: OpenGroup, normaliser: Normaliser
) -> ProbeData | None:
    """Return features of model and baselines with classes; None when the store has no classes."""
    task = labelled_task(group)
    if task is None:
        say("The store has no labels, so there are no probes.")
        return None
    reading = Reading(
        group=group,
        normaliser=normaliser,
        grid=loaded.method.grid,
        batch_size=config.batch_size,
        max_tokens=config.max_tokens,
        seed=config.seed,
        device=config.device,
    )
    kinds = probed_sources(config, loaded, dense=task == "segment")
    return read_probe_data(reading, kinds, task, *split_rows(group, config.train, config.test))


def probed_sources(config: EvaluateConfig, loaded: LoadedModel, *, dense: bool) -> list[Source]:
    """Return what the probes read: the model, random initialisations, raw pixels."""
    make, method = token_source if dense else image_source, loaded.method
    kinds = [make("model", method.encoder, config.pooling)]
    for seed in range(config.random_seeds):
        fresh = random_method(loaded.config, method.grid, config.seed * 100 + seed)
        fresh.to(config.device)
        kinds.append(make(RANDOM, fresh.encoder, config.pooling, seed))
    return [*kinds, *pixel_sources(method.grid.patch if dense else None)]


def _table(config: EvaluateConfig, data: ProbeData) -> list[ProbeScore]:
    return probe_table(
        data.features,
        data.truth,
        few=config.few,
        num_draws=config.draws,
        num_neighbours=config.neighbours,
        seed=config.seed,
    )


def reconstruction_score(
    config: EvaluateConfig, loaded: LoadedModel, group: OpenGroup, normaliser: Normaliser
) -> ReconstructionScore | None:
    """Score masked reconstruction of test images, spread evenly over the split.

    None when it was not asked for, there is no image, the model hides no tokens but mixes them, or
    it predicts no pixels: also when its decoder came with no imported file and was never trained.
    """
    rows = group.rows(config.test)
    fresh = loaded.extra.get("fresh", ())
    pixels = any(f"heads.{name}" not in fresh for name in pixel_heads(loaded.method))
    if not config.reconstruct or not len(rows) or not pixels or not loaded.method.mask.num_visible:
        return None
    amount = min(config.reconstruct, len(rows))
    picked = rows[np.linspace(0, len(rows) - 1, amount).astype(np.int64)]
    batches = stored_batches(
        group,
        picked,
        normaliser,
        size=loaded.method.grid.image_size,
        batch_size=_RECONSTRUCTION_BATCH,
        device=config.device,
    )
    return score_reconstruction(
        loaded.method,
        batches,
        seed=config.seed,
        mask_ratio=config.mask_ratio,
        total=-(-amount // _RECONSTRUCTION_BATCH),
    )


def markdown(found: Evaluation) -> str:
    """Return an evaluation as a Markdown page."""
    lines = [f"# Evaluation of {found.model}", "", f"Store: {found.data}.", ""]
    if found.probes:
        lines += [
            f"{found.num_train} labelled {found.unit}s for training, {found.num_test} for the "
            f"test; classes {', '.join(found.classes)}.",
            "",
            "The encoder is frozen. Linear probe: ridge on standardised features, penalty chosen "
            "on held-out training rows. ± is the deviation over draws of labels and, for random "
            "initialisations, seeds.",
            "",
            table_markdown(found.probes),
            "",
        ]
    if found.reconstruction is not None:
        lines += [reconstruction_text(found.reconstruction), ""]
    return "\n".join(lines)


def reconstruction_text(score: ReconstructionScore) -> str:
    """Return a reconstruction score in words."""
    text = (
        f"Masked reconstruction of {score.num_images} test images, {score.mask_ratio:.0%} of the "
        "tokens hidden at random, mean squared error in normalised units: model "
        f"{score.model:.3f}, {score.interpolation} {score.biharmonic:.3f}, mean of the visible "
        f"pixels {score.visible_mean:.3f}."
    )
    if score.leaked_statistics:
        return text + (
            " The model's targets are standardised per patch, so its figure used the true mean "
            "and scale of every hidden patch and is no fair comparison; train with norm_pix off "
            "for one."
        )
    verdict = "beats" if score.beats_interpolation else "does not beat"
    return f"{text} The model {verdict} interpolation."
