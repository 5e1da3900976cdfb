"""Features of stored samples, batch by batch: frozen encoders and what raw pixels give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

from ..core.batch import Batch
from ..core.encoders.contract import Encoder
from ..core.grid import Grid, patchify
from ..core.heads.pool import Pooling, filled, image_features, token_features
from ..core.method import Method
from ..core.methods import MethodConfig, build
from ..core.objectives.labels import IGNORED
from ..datasets.samples import Samples
from ..domains.domain import Normaliser, get_domain
from .progress import track
from .stores import OpenGroup

Extract = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Source:
    """One kind of features.

    Args:
        name: what tables call it.
        extract: (b, f) vectors of a batch's images, or (b, n, f) of its tokens.
        seed: of a random initialisation; None for everything that is not random.
    """

    name: str
    extract: Extract
    seed: int | None = None


def stored_batches(
    group: OpenGroup,
    rows: np.ndarray,
    normaliser: Normaliser,
    *,
    size: tuple[int, ...] | None = None,
    batch_size: int = 64,
    labels: bool = False,
    device: torch.device | str = "cpu",
    change: Callable[[Samples], Samples] | None = None,
) -> Iterator[Batch]:
    """Yield the samples of some rows as batches, unchanged by augmentation.

    Args:
        group: an open store.
        rows: rows of the store, in the order that is wanted.
        normaliser: of the model that will read them.
        size: pixels per axis that the model was made for; the stored size when None.
        batch_size: samples per batch, which bounds memory and changes no result.
        labels: read dense labels as well.
        device: where the batch is made.
        change: done to the stored numbers first, such as a degradation that is studied.
    """
    domain = get_domain(group.meta.domain)
    for start in range(0, len(rows), batch_size):
        samples = group.store.read(rows[start : start + batch_size], labels=labels)
        samples = samples if change is None else change(samples)
        yield domain.to_batch(
            samples,
            group.meta,
            normaliser,
            size=size,
            augment=False,
            generator=None,
            device=device,
        )


def random_method(config: MethodConfig, grid: Grid, seed: int) -> Method:
    """Return a method with fresh weights; the global random state stays as it was."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return build(config, grid).eval()


def image_source(name: str, encoder: Encoder, pooling: Pooling, seed: int | None = None) -> Source:
    """Return pooled features of a frozen encoder."""
    return Source(name, lambda batch: image_features(encoder, batch, pooling), seed)


def token_source(name: str, encoder: Encoder, pooling: Pooling, seed: int | None = None) -> Source:
    """Return features of every token of a frozen encoder: the pooling's taps, not averaged."""
    return Source(name, lambda batch: token_features(encoder, batch, pooling), seed)


def pixel_sources(patch: Sequence[int] | None = None) -> list[Source]:
    """Return what raw pixels give, per image, or per token where a patch is given."""
    if patch is not None:
        return [Source("band means", lambda batch: token_means(batch, patch))]
    return [
        Source("band means", band_means),
        Source("colour histogram", histogram),
        Source("16x16 pixels", thumbnail),
    ]


def band_means(batch: Batch) -> Float[Tensor, "b c"]:
    """Return the mean of every band over an image's valid pixels."""
    return token_means(batch, batch.images.shape[2:])[:, 0]


def token_means(batch: Batch, patch: Sequence[int]) -> Float[Tensor, "b n c"]:
    """Return the mean of every band over each token's valid pixels."""
    images, weight = filled(batch, patch)
    tokens = patchify(images, patch).unflatten(-1, (-1, images.shape[1])).mean(dim=2)
    return tokens if weight is None else tokens / weight[..., None].clamp_min(1e-6)


def histogram(
    batch: Batch, num_bins: int = 16, span: tuple[float, float] = (-2.5, 2.5)
) -> Float[Tensor, "b f"]:
    """Return the share of an image's valid pixels in every bin of every band.

    Args:
        batch: normalised images; a band's deviation over the training rows is one.
        num_bins: bins of a band; values beyond the span count for the outermost.
        span: range of normalised values that the bins divide.
    """
    low, high = span
    index = ((batch.images.nan_to_num() - low) / (high - low) * num_bins).floor().long()
    index = index.clamp(0, num_bins - 1).flatten(2)
    weight = torch.ones_like(index, dtype=torch.float32)
    if batch.valid is not None:
        weight = weight * batch.valid.flatten(1)[:, None]
    counts = weight.new_zeros(*index.shape[:2], num_bins).scatter_add_(2, index, weight)
    return (counts / counts.sum(dim=2, keepdim=True).clamp_min(1.0)).flatten(1)


def thumbnail(batch: Batch, side: int = 16) -> Float[Tensor, "b f"]:
    """Return an image reduced to a few pixels by averaging, bands joined."""
    images, _ = filled(batch, batch.images.shape[2:])
    pool = {1: adaptive_avg_pool1d, 2: adaptive_avg_pool2d, 3: adaptive_avg_pool3d}
    size = [min(side, length) for length in images.shape[2:]]
    return pool[len(size)](images, size).flatten(1)


def token_labels(
    labels: Int[Tensor, "b *s"], patch: Sequence[int], min_share: float = 0.75
) -> Int[Tensor, "b n"]:
    """Return the class of every token; 255 where no class holds `min_share` of its pixels."""
    pixels = patchify(labels[:, None].float(), patch).long()
    found = pixels.mode(dim=-1).values
    share = (pixels == found[..., None]).float().mean(dim=-1)
    return found.masked_fill(share < min_share, IGNORED)


def collect(
    batches: Iterable[Batch], extracts: Sequence[Extract], label: str, total: int | None = None
) -> list[Tensor]:
    """Run several functions over one pass of the batches and join what each returns.

    Args:
        batches: read once, one at a time.
        extracts: functions of a batch; results are moved to the CPU.
        label: what a progress bar shows.
        total: number of batches.
    """
    found: list[list[Tensor]] = [[] for _ in extracts]
    for batch in track(batches, label, total):
        for kept, extract in zip(found, extracts, strict=True):
            kept.append(extract(batch).cpu())
    return [torch.cat(parts) for parts in found]
