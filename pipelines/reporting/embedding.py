"""Maps of what an encoder tells apart: images in a plane, tokens as colours."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from ...core.batch import Batch
from ...core.checkpoints.model_dir import LoadedModel
from ...core.heads.pool import Pooling, image_features, token_features
from ...core.objectives.labels import IGNORED
from ...domains.domain import Domain, Normaliser
from ..features import collect, stored_batches
from ..geotiff import class_colours
from ..stores import OpenGroup
from .blocks import Figures, Gallery, Picture
from .charts import place_colours, scatter
from .pictures import components_rgb, picture_uri
from .volumes import Look

Projection = Literal["pca", "tsne"]
UNKNOWN = (150, 150, 156)
_MIN_TSNE = 30  # points below which neighbourhoods mean nothing


def embed_rows(
    loaded: LoadedModel,
    group: OpenGroup,
    rows: Int[np.ndarray, " n"],
    normaliser: Normaliser,
    device: torch.device,
) -> Float[np.ndarray, "n f"]:
    """Return one vector per sample, every number standardised over the samples."""
    encoder = loaded.method.encoder
    batches = stored_batches(
        group, rows, normaliser, size=loaded.method.grid.image_size, batch_size=64, device=device
    )
    extract = [lambda batch: image_features(encoder, batch, Pooling())]
    found = collect(batches, extract, "embedding map", -(-len(rows) // 64))[0].numpy()
    return (found - found.mean(axis=0)) / np.maximum(found.std(axis=0), 1e-6)


def project(
    features: Float[np.ndarray, "n f"], projection: Projection, seed: int
) -> tuple[Float[np.ndarray, "n 2"], str]:
    """Return places in a plane and what they are."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if projection == "tsne" and len(features) >= _MIN_TSNE:
        perplexity = min(30.0, len(features) / 4)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        return np.asarray(tsne.fit_transform(features)), "t-SNE"
    pca = PCA(2, svd_solver="full")
    places = pca.fit_transform(features)
    shares = ", ".join(f"{share:.0%}" for share in pca.explained_variance_ratio_)
    return places, f"principal components ({shares} of the variance)"


def sample_classes(group: OpenGroup, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Return a class of every sample: its own, or that of most of its labelled pixels; -1 unknown.

    The numbers count `class_names`.
    """
    if group.tile_labels.classes:
        return group.tile_labels.index[rows]
    found = np.full(len(rows), -1, np.int64)
    if not group.meta.classes:
        return found
    for place, row in enumerate(rows):
        labels = group.store.read(np.array([row]), labels=True).labels
        assert labels is not None
        counts = np.bincount(labels.ravel(), minlength=IGNORED + 1)[: len(group.meta.classes)]
        if counts.any():
            found[place] = counts.argmax()
    return found


def class_names(group: OpenGroup) -> tuple[str, ...]:
    """Return the classes of samples, or else of pixels."""
    return group.tile_labels.classes or group.meta.classes


def palette(names: tuple[str, ...]) -> dict[int, tuple[int, int, int]]:
    """Return the colours that maps of these classes have, by number."""
    return {n: c[:3] for n, c in class_colours(names).items() if n < len(names)}


def hex_colour(colour: tuple[int, int, int]) -> str:
    """Return a colour as "#rrggbb"."""
    return "#" + "".join(f"{part:02x}" for part in colour)


def embedding_figures(
    group: OpenGroup,
    rows: Int[np.ndarray, " n"],
    features: Float[np.ndarray, "n f"],
    projection: Projection,
    seed: int,
) -> Figures:
    """Return the map of samples, once coloured by class and once by position on the ground."""
    places, what = project(features, projection, seed)
    made = []
    names, classes = class_names(group), sample_classes(group, rows)
    if names and (classes >= 0).any():
        colours = palette(names)
        table = np.array([*(colours[n] for n in range(len(names))), UNKNOWN], np.uint8)
        legend = {name: hex_colour(colours[n]) for n, name in enumerate(names)}
        if (classes < 0).any():
            legend["not labelled"] = hex_colour(UNKNOWN)
        whose = "" if group.tile_labels.classes else " of most of its labelled pixels"
        caption = f"{what}; coloured by the class{whose}"
        made.append(scatter("by class", places, table[classes], legend, caption))
    lon, lat = (_numbers(group, name)[rows] for name in ("lon", "lat"))
    if np.isfinite(lon).all() and np.isfinite(lat).all():
        caption = (
            f"{what}; redder to the east, bluer to the north: clusters of one colour are places"
        )
        made.append(scatter("by position", places, place_colours(lon, lat), {}, caption))
    if not made:
        colours = np.full((len(rows), 3), 120, np.uint8)
        made.append(scatter("samples", places, colours, {}, what))
    return Figures(tuple(made))


def _numbers(group: OpenGroup, column: str) -> Float[np.ndarray, " n"]:
    return np.array([np.nan if v is None else v for v in group.column(column)], np.float64)


@torch.no_grad()
def token_pictures(
    loaded: LoadedModel, batch: Batch, domain: Domain, normaliser: Normaliser
) -> tuple[UInt8[np.ndarray, "b h w 3"], UInt8[np.ndarray, "b p q 3"]]:
    """Return images and, per token, the first three principal components as red, green and blue.

    The components are those of all tokens of the batch, so colours can be compared across images.
    """
    from sklearn.decomposition import PCA

    encoder = loaded.method.encoder
    tokens = token_features(encoder, batch, Pooling()).cpu().numpy()
    flat = tokens.reshape(-1, tokens.shape[-1])
    parts = PCA(3, svd_solver="full").fit_transform(flat)
    shape = [n // p for n, p in zip(batch.images.shape[2:], encoder.grid.patch, strict=True)]
    colours = torch.from_numpy(components_rgb(parts)).reshape(len(tokens), *shape, 3)
    look, token_look = (Look(normaliser, len(shape), patch=p) for p in (None, encoder.grid.patch))
    valid = None if batch.valid is None else look(batch.valid)
    images = domain.to_rgb(
        normaliser.denormalise(look(batch.images)), domain.display_bands(normaliser), valid
    )
    return images, token_look(colours.movedim(-1, 1)).movedim(1, -1).numpy()


def token_gallery(
    images: UInt8[np.ndarray, "b h w 3"],
    tokens: UInt8[np.ndarray, "b p q 3"],
    labels: tuple[str, ...],
) -> Gallery:
    """Return images over their tokens."""
    first = tuple(
        Picture(picture_uri(image), label) for image, label in zip(images, labels, strict=True)
    )
    second = tuple(
        Picture(picture_uri(token), f"tokens of {label}")
        for token, label in zip(tokens, labels, strict=True)
    )
    caption = (
        "Tokens of the frozen encoder, first three principal components as red, green and blue. "
        "Equal colours stand for equal features, across images too."
    )
    return Gallery(labels, (("image", first), ("tokens", second)), caption)
