"""One run as a chapter: everything that can be said from what is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from jaxtyping import Int

from ...core.checkpoints.model_dir import LoadedModel, load_model
from ...core.errors import UsageError
from ...core.reconstruction import pixel_heads
from ...domains.domain import get_domain
from ..evaluate import Evaluation
from ..features import stored_batches
from ..stores import OpenGroup, open_group
from .blocks import Block, Chapter, Code, Figures, Section, Text
from .charts import curves
from .datacard import card_blocks
from .embedding import Projection, embed_rows, embedding_figures, token_gallery, token_pictures
from .facts import RunFacts
from .pictures import png
from .probes import measure, probe_blocks
from .reconstructions import (
    Reconstructed,
    gallery,
    reconstruct_batch,
    strip,
    untrained_heads,
)
from .tasks import answer_blocks, score_blocks
from .verdicts import finetune_verdict, pretrain_verdict

_NO_MODEL = "The run has written no model yet; this part comes when it is finished."
_NO_DATA = "Name the store with --data to see this part."


@dataclass(frozen=True)
class Wishes:
    """What to show.

    Args:
        data: curated folder; None leaves out what needs pixels.
        group: store in it.
        samples: images per gallery.
        points: samples of the embedding map.
        projection: of the embedding map.
        seed: of masks, draws and the projection.
        device: where models run.
    """

    data: Path | None
    group: str | None
    samples: int
    points: int
    projection: Projection
    seed: int
    device: torch.device


@dataclass(frozen=True)
class Probed:
    """Probes of a run, or why there are none.

    Args:
        found: what was measured.
        why: what to say when nothing was.
    """

    found: Evaluation | None
    why: Text


def pretrain_chapter(facts: RunFacts, wishes: Wishes, probed: Probed) -> Chapter:
    """Return the chapter of a pre-training run.

    Args:
        facts: what the folder says.
        wishes: what to show.
        probed: probes of its encoder.

    Raises:
        WeightsError: when the model was changed since it was written.
        DataError: when the store cannot be read.
        UsageError: when the store does not fit the model.
    """
    loaded = load_model(facts.model, device=wishes.device) if facts.finished else None
    group = None if wishes.data is None else open_group(wishes.data, wishes.group)
    images = embedding = (Text(_NO_MODEL if loaded is None else _NO_DATA),)
    pictures = None
    if loaded is not None and group is not None:
        loaded.method.eval()
        images, pictures = reconstruction_section(loaded, group, wishes)
        embedding = embedding_section(loaded, group, wishes)
    untrained = () if loaded is None else untrained_heads(loaded)
    found = probed.found
    return Chapter(
        f"{facts.name}: pre-training with {facts.recipe['method']['name']}",
        pretrain_verdict(facts, found, pictures, untrained),
        (
            curve_section(facts),
            Section("Reconstructions of held-out images", images),
            Section("Probes", (probed.why,) if found is None else probe_blocks(found)),
            Section("What the encoder tells apart", embedding),
            data_section(facts, wishes, group),
            recipe_section(facts),
        ),
    )


def finetune_chapter(facts: RunFacts, wishes: Wishes) -> Chapter:
    """Return the chapter of a fine-tuning run.

    Raises:
        WeightsError: when the model was changed since it was written.
        DataError: when the store cannot be read.
        UsageError: when the store does not fit the model.
    """
    group = None if wishes.data is None else open_group(wishes.data, wishes.group)
    answers: tuple[Block, ...] = (Text(_NO_DATA if facts.finished else _NO_MODEL),)
    if facts.finished:
        load_model(facts.model)  # a changed file is an error even when no picture is asked for
    if facts.finished and group is not None:
        device, num = wishes.device, wishes.samples
        answers = answer_blocks(facts.data, facts.model, group, num, device)
    scores = (Text(_NO_MODEL),) if facts.scores is None else score_blocks(facts.scores)
    task = (facts.scores or {}).get("task", facts.recipe.get("task", ""))
    what = {"segment": "a class per pixel", "classify": "a class per sample"}.get(task, "a task")
    return Chapter(
        f"{facts.name}: fine-tuning for {what}",
        finetune_verdict(facts),
        (
            curve_section(facts),
            Section("Test scores", scores),
            Section("Predictions on test images", answers),
            data_section(facts, wishes, group),
            recipe_section(facts),
        ),
    )


def probe(facts: RunFacts, wishes: Wishes, given: Evaluation | None) -> Probed:
    """Return the probes of a run: given ones, or measured here and now where it can be done."""
    if given is not None or facts.kind != "pretrain":
        return Probed(given, Text(""))
    if not facts.finished or wishes.data is None:
        return Probed(None, Text(_NO_DATA if facts.finished else _NO_MODEL))
    try:
        device = str(wishes.device)
        found = measure(facts.model, wishes.data, wishes.group, device, wishes.seed)
    except UsageError as error:
        return Probed(None, Text(f"There are no probes. {error}", "warn"))
    return Probed(found, Text(""))


def held_out_rows(group: OpenGroup, num: int) -> tuple[Int[np.ndarray, " n"], str]:
    """Return rows spread evenly over the test part, or else another one, and its name."""
    for split in ("test", "val", "all"):
        rows = group.rows(split)
        if len(rows):
            break
    places = np.unique(np.linspace(0, len(rows) - 1, min(num, len(rows))).round().astype(int))
    return rows[places], split


def reconstruction_section(
    loaded: LoadedModel, group: OpenGroup, wishes: Wishes
) -> tuple[tuple[Block, ...], Reconstructed | None]:
    """Return pictures of held-out images, and what they tell."""
    method = loaded.method
    heads = list(pixel_heads(method))
    if not heads:
        return (Text(f"{method.name} predicts no pixels, so there is nothing to show."),), None
    if heads[0] in untrained_heads(loaded):
        return (Text("The decoder was never trained, so its guesses are not shown."),), None
    domain = get_domain(group.meta.domain)
    normaliser = domain.normaliser(loaded.normaliser)
    normaliser.check_bands(group.meta.bands, str(group.store.path))
    rows, split = held_out_rows(group, wishes.samples)
    size = method.grid.image_size
    batch = next(
        stored_batches(
            group, rows, normaliser, size=size, batch_size=len(rows), device=wishes.device
        )
    )
    found = reconstruct_batch(method, batch, domain, normaliser, wishes.seed)
    share = method.mask.num_visible / method.grid.num_tokens
    seen = f"{share:.0%} of the patches are seen" if share else "no patch is seen as it is"
    what = (
        f"{len(rows)} images spread evenly over "
        f"{'the whole store' if split == 'all' else f'split {split!r}'}, not chosen by how they "
        f"look; {seen}."
    )
    labels = tuple(f"row {row}" for row in rows)
    blocks: tuple[Block, ...] = (gallery(found, labels, what, batch.regions),)
    if split == "all":
        blocks = (Text("The store has no held-out part: these were trained on.", "warn"), *blocks)
    return blocks, found


def reconstruction_picture(facts: RunFacts, wishes: Wishes, num: int) -> bytes:
    """Return reconstructions of held-out images as a PNG file.

    Args:
        facts: what the folder of a pre-training says.
        wishes: which images, and where the model runs.
        num: images that are shown, fewer where `wishes` asks for fewer.

    Raises:
        UsageError: when there is nothing to reconstruct or to reconstruct with.
        DataError: when the store cannot be read.
        WeightsError: when the model was changed since it was written.
    """
    remedy = "leave --picture out, or name a finished pre-training that predicts pixels"
    if facts.kind != "pretrain" or not facts.finished or wishes.data is None:
        reason = "needs a finished pre-training and a store (--data)"
        raise UsageError(f"a picture of {facts.name}", reason, remedy)
    loaded = load_model(facts.model, device=wishes.device)
    loaded.method.eval()
    _, found = reconstruction_section(loaded, open_group(wishes.data, wishes.group), wishes)
    if found is None:
        reason = "cannot be made: its method reconstructs no pixels"
        raise UsageError(f"a picture of {facts.name}", reason, remedy)
    return png(strip(found, num))


def embedding_section(loaded: LoadedModel, group: OpenGroup, wishes: Wishes) -> tuple[Block, ...]:
    """Return the map of samples and pictures of tokens."""
    domain = get_domain(group.meta.domain)
    normaliser = domain.normaliser(loaded.normaliser)
    rows, _ = held_out_rows(group, wishes.points)
    if len(rows) < wishes.points:  # a small test part: all of the store says more
        everything = group.rows("all")
        num = min(wishes.points, len(everything))
        rows = everything[np.linspace(0, len(everything) - 1, num).round().astype(int)]
    if len(rows) < 3:
        return (Text(f"{len(rows)} samples are too few for a map."),)
    features = embed_rows(loaded, group, rows, normaliser, wishes.device)
    figures = embedding_figures(group, rows, features, wishes.projection, wishes.seed)
    shown, _ = held_out_rows(group, wishes.samples)
    size = loaded.method.grid.image_size
    batch = next(
        stored_batches(
            group, shown, normaliser, size=size, batch_size=len(shown), device=wishes.device
        )
    )
    labels = tuple(f"row {row}" for row in shown)
    images, tokens = token_pictures(loaded, batch, domain, normaliser)
    return figures, token_gallery(images, tokens, labels)


def curve_section(facts: RunFacts) -> Section:
    """Return the diagrams of the log."""
    pictures = curves(facts)
    if not pictures:
        return Section("Training", (Text("The log has no lines yet."),))
    return Section("Training", (Figures(pictures),))


def data_section(facts: RunFacts, wishes: Wishes, group: OpenGroup | None) -> Section:
    """Return the data card, and a warning where the store is not the one of the run."""
    if wishes.data is None or group is None:
        return Section("Data", (Text(_NO_DATA),))
    blocks = card_blocks(wishes.data)
    if facts.data.get("fingerprint") not in (None, group.meta.fingerprint):
        note = (
            f"{wishes.data} is not the store that the run was trained on, so pictures and probes "
            "show how the model does on other data; some of it may have been trained on."
        )
        blocks = (Text(note, "warn"), *blocks)
    return Section("Data", blocks)


def recipe_section(facts: RunFacts) -> Section:
    """Return the settings as YAML."""
    text = yaml.safe_dump(facts.recipe, sort_keys=False)
    return Section("Recipe", (Code("All settings that decide the result (YAML)", text),))


def chapter(facts: RunFacts, wishes: Wishes, probed: Probed) -> Chapter:
    """Return the chapter of a run of any kind.

    Raises:
        UsageError: for a kind that is not known.
    """
    if facts.kind == "pretrain":
        return pretrain_chapter(facts, wishes, probed)
    if facts.kind == "finetune":
        return finetune_chapter(facts, wishes)
    raise UsageError(facts.path, f"is a run of kind {facts.kind!r}", "give one that trains a model")
