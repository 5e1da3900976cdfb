"""How good is a frozen encoder: probes beside cheap baselines, reconstruction beside inpainting."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from ..core.checkpoints.model_dir import LoadedModel, load_model
from ..core.config_tree import to_plain
from ..core.errors import UsageError
from ..core.files import write_text
from ..core.heads.pool import Pooling
from ..core.method import Method
from ..core.objectives.labels import IGNORED
from ..core.targets.pixels import PixelTarget
from ..domains.domain import get_domain
from .features import (
    Extract,
    Source,
    band_means,
    collect,
    histogram,
    image_source,
    random_method,
    stored_batches,
    token_labels,
    token_means,
    token_source,
)
from .inpaint import ReconstructionScore, score_reconstruction
from .probing import Labelled, ProbeScore, Truth, probe_table, table_markdown
from .progress import say
from .stores import OpenGroup, open_group

RANDOM = "random initialisation"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure a frozen encoder on a store, or run a study on sample data."""

    model: Path | None = None
    """Model directory, for example RUN/model."""
    data: Path | None = None
    """Curated store with labels (of tiles, or dense)."""
    out: Path
    """Folder for evaluation.json and evaluation.md, or for the pages of a study."""
    group: str | None = None
    """Group of the store, when it holds several."""
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
    pooling: Annotated[Pooling, tyro.conf.OmitSubcommandPrefixes] = field(default_factory=Pooling)
    """How tokens become one vector."""
    neighbours: int = 20
    """Voters of the kNN probe."""
    max_tokens: int = 20000
    """With dense labels: at most so many labelled tokens a split, drawn at random."""
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
    study: Literal["satellite"] | None = None
    """Run the study of this domain on `samples` instead of evaluating one model."""
    samples: Path | None = None
    """Folder with the study's data."""
    seeds: int = 5
    """Seeds of the study."""
    parts: tuple[str, ...] = ()
    """Parts of the study to run or repeat; all when none is given."""
    workers: int = 2
    """Processes of the study, one thread each."""
    work: Path = Path("runs/study")
    """Where the study keeps stores, models and finished numbers; it continues from there."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured.

    Args:
        model: model directory.
        data: store.
        unit: "tile" or "token": what the probes classify.
        classes: names of the classes.
        num_train: labelled training units.
        num_test: labelled test units.
        probes: lines of the probe table; empty without labels.
        reconstruction: masked reconstruction on test rows; None when not asked for.
    """

    model: str
    data: str
    unit: Literal["tile", "token"]
    classes: tuple[str, ...]
    num_train: int
    num_test: int
    probes: tuple[ProbeScore, ...]
    reconstruction: ReconstructionScore | None = None


def run(config: EvaluateConfig) -> Evaluation | None:
    """Evaluate a model, or run a study; writes JSON and Markdown below `out`."""
    if config.study is not None:
        from .study.run import run_study

        run_study(config)
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


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Measure a model on a store.

    Raises:
        UsageError: without model or data, for another domain or other bands, or without labels.
    """
    if config.model is None or config.data is None:
        missing = "--model" if config.model is None else "--data"
        raise UsageError(missing, "is not given", "name a model directory and a store")
    loaded = load_model(config.model, device=config.device)
    loaded.method.eval()
    group = open_group(config.data, config.group)
    normaliser = get_domain(group.meta.domain).normaliser(loaded.normaliser)
    normaliser.check_bands(group.meta.bands, str(config.data))
    unit, truth, table = probe_store(config, loaded, group)
    return Evaluation(
        model=str(config.model),
        data=str(config.data),
        unit=unit,
        classes=truth.classes,
        num_train=len(truth.train),
        num_test=len(truth.test),
        probes=tuple(table),
        reconstruction=_reconstruction(config, loaded, group),
    )


def sources(
    config: EvaluateConfig, loaded: LoadedModel, *, dense: bool
) -> tuple[list[Source], Method]:
    """Return what the probes read: the model, random initialisations, raw pixels."""
    make = token_source if dense else image_source
    method = loaded.method
    kinds = [make("model", method.encoder, config.pooling)]
    for seed in range(config.random_seeds):
        fresh = random_method(loaded.config, method.grid, config.seed * 100 + seed)
        fresh.to(config.device)
        kinds.append(make(RANDOM, fresh.encoder, config.pooling, seed))
    if dense:
        patch = method.grid.patch
        return [*kinds, Source("band means", lambda batch: token_means(batch, patch))], method
    raw = [Source("band means", band_means), Source("colour histogram", histogram)]
    return [*kinds, *raw], method


def probe_store(
    config: EvaluateConfig, loaded: LoadedModel, group: OpenGroup
) -> tuple[Literal["tile", "token"], Truth, list[ProbeScore]]:
    """Fit and judge all probes on a store's labels, of tiles where there are any, else dense."""
    tile_labels = group.table["label"].to_pylist()
    dense = not any(tile_labels)
    if dense and not group.meta.classes:
        say("The store has no labels, so there are no probes.")
        return (
            "tile",
            Truth(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), ()),
            [],
        )
    kinds, method = sources(config, loaded, dense=dense)
    splits = [_rows(group, name, dense) for name in (config.train, config.test)]
    if dense:
        parts = [_tokens(config, loaded, group, rows, kinds, method) for rows in splits]
        classes, labels = group.meta.classes, [part.pop() for part in parts]
    else:
        classes = tuple(sorted({label for label in tile_labels if label}))
        labels = [
            torch.tensor([classes.index(tile_labels[row]) for row in rows], dtype=torch.long)
            for rows in splits
        ]
        extracts = [kind.extract for kind in kinds]
        parts = [_pass(config, loaded, group, rows, extracts, method) for rows in splits]
    truth = Truth(labels[0], labels[1], classes, _groups(group, splits[0]) if not dense else None)
    features = [
        Labelled(kind.name, train, test) for kind, train, test in zip(kinds, *parts, strict=True)
    ]
    table = probe_table(
        features,
        truth,
        few=config.few,
        num_draws=config.draws,
        num_neighbours=config.neighbours,
        seed=config.seed,
    )
    return "token" if dense else "tile", truth, table


def _rows(group: OpenGroup, split: str, dense: bool) -> np.ndarray:
    rows = np.asarray(group.rows(split), dtype=np.int64)
    if dense:
        return rows
    labels = group.table["label"].to_pylist()
    return np.array([row for row in rows if labels[row]], dtype=np.int64)


def _groups(group: OpenGroup, rows: np.ndarray) -> Tensor | None:
    """Return the scene of each row as a number; None when every row is its own."""
    names = group.table["group"].to_pylist()
    chosen = [names[row] for row in rows]
    numbers = {name: place for place, name in enumerate(dict.fromkeys(chosen))}
    if len(numbers) * 2 > len(chosen):
        return None
    return torch.tensor([numbers[name] for name in chosen], dtype=torch.long)


def _pass(
    config: EvaluateConfig,
    loaded: LoadedModel,
    group: OpenGroup,
    rows: np.ndarray,
    extracts: list[Extract],
    method: Method,
    *,
    labels: bool = False,
) -> list[Tensor]:
    """Run functions over some rows of the store, one pass."""
    if not len(rows):
        raise UsageError(
            f"{group.store.path}", "has no labelled rows in a split", "choose other splits"
        )
    normaliser = get_domain(group.meta.domain).normaliser(loaded.normaliser)
    batches = stored_batches(
        group,
        rows,
        normaliser,
        size=method.grid.image_size,
        batch_size=config.batch_size,
        labels=labels,
        device=config.device,
    )
    return collect(batches, extracts, "features", -(-len(rows) // config.batch_size))


def _tokens(
    config: EvaluateConfig,
    loaded: LoadedModel,
    group: OpenGroup,
    rows: np.ndarray,
    kinds: list[Source],
    method: Method,
) -> list[Tensor]:
    """Return the features of labelled tokens, one tensor per kind, and their classes last."""
    patch = method.grid.patch

    def classes(batch) -> Tensor:
        if batch.labels is None:
            raise UsageError("dense labels", "are not in the batch", "curate again with labels")
        return token_labels(batch.labels, patch)

    def labelled(extract: Extract) -> Extract:
        return lambda batch: extract(batch)[classes(batch) != IGNORED]

    extracts = [labelled(kind.extract) for kind in kinds] + [labelled(classes)]
    found = _pass(config, loaded, group, rows, extracts, method, labels=True)
    if len(found[-1]) > config.max_tokens:
        random = np.random.default_rng(config.seed)
        chosen = np.sort(random.permutation(len(found[-1]))[: config.max_tokens])
        found = [part[torch.from_numpy(chosen)] for part in found]
    return found


def _reconstruction(
    config: EvaluateConfig, loaded: LoadedModel, group: OpenGroup
) -> ReconstructionScore | None:
    """Score masked reconstruction on test rows, spread evenly over them."""
    rows = np.asarray(group.rows(config.test), dtype=np.int64)
    pixels = any(isinstance(h.target, PixelTarget) for h in loaded.method.objectives.values())
    if not config.reconstruct or not len(rows) or not pixels:
        return None
    picked = rows[np.linspace(0, len(rows) - 1, min(config.reconstruct, len(rows))).astype(int)]
    normaliser = get_domain(group.meta.domain).normaliser(loaded.normaliser)
    batches = stored_batches(
        group,
        picked,
        normaliser,
        size=loaded.method.grid.image_size,
        batch_size=8,
        device=config.device,
    )
    return score_reconstruction(
        loaded.method,
        batches,
        seed=config.seed,
        mask_ratio=config.mask_ratio,
        total=-(-len(picked) // 8),
    )


def markdown(found: Evaluation) -> str:
    """Return an evaluation as a Markdown page."""
    lines = [
        f"# Evaluation of {found.model}",
        "",
        f"Store {found.data}: {found.num_train} labelled {found.unit}s for training, "
        f"{found.num_test} for the test; classes {', '.join(found.classes) or 'none'}.",
        "",
    ]
    if found.probes:
        lines += [
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
        f"tokens hidden at random, mean squared error in normalised units: model {score.model:.3f}, "
        f"biharmonic inpainting {score.biharmonic:.3f}, mean of the visible pixels "
        f"{score.visible_mean:.3f}."
    )
    if score.leaked_statistics:
        return text + (
            " The model's targets are standardised per patch, so its figure used the true mean and "
            "scale of every hidden patch and is no fair comparison; train with norm_pix off for one."
        )
    verdict = "beats" if score.beats_interpolation else "does not beat"
    return f"{text} The model {verdict} interpolation."
