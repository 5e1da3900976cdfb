"""Embeddings: a table with a vector per sample of a store, or maps with a vector per token."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Float

from ..core.checkpoints.model_dir import LoadedModel, load_model, sha256
from ..core.config_tree import to_plain
from ..core.errors import UsageError
from ..core.files import replacing
from ..core.heads.pool import Pooling, image_features
from ..datasets.readers.raster import SceneSource
from ..domains.domain import Normaliser
from .efficiency import resolve_device
from .features import stored_batches
from .progress import say, track
from .scenes import (
    WindowConfig,
    check_windows,
    find_scenes,
    for_each_scene,
    model_normaliser,
    output_paths,
)
from .stores import OpenGroup, open_group
from .token_maps import TokenMapper, fit_projection

if TYPE_CHECKING:
    import pyarrow as pa

_TABLE_ROWS = 4096  # rows that are held in memory before they are written


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(WindowConfig):
    """Write embeddings of scenes (maps, one vector per token) or of a store (a table).

    A map is a GeoTIFF with one band per dimension whose pixels are the encoder's tokens; a table is
    a Parquet file with id, label, split, position and a vector for every sample.
    """

    scenes: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Raster files, or folders of them; leave them out for a store."""
    data: Path | None = None
    """Folder that `mimkit curate` wrote, instead of scenes."""
    group: str | None = None
    """Store in `data`, when it holds several."""
    split: str = "all"
    """Split of the store, or all of it."""
    model: Path
    """Model directory, pre-trained or fine-tuned."""
    out: Path
    """NAME.parquet for a store; NAME.tif for one scene; a folder of maps for one or several."""
    pooling: Annotated[Pooling, tyro.conf.OmitSubcommandPrefixes] = field(default_factory=Pooling)
    """How tokens become one vector; maps use its taps and min_valid."""
    components: int | None = None
    """Reduce the vectors of maps to so many principal components, the same ones for all scenes."""
    dtype: Literal["float32", "uint8"] = "float32"
    """Number type of maps; uint8 holds the middle 98 % in 255 steps, with scale and offset."""


def run(config: EmbedConfig) -> list[Path]:
    """Write the embeddings and return the files.

    Raises:
        UsageError: for settings that do not fit together, the model, or the data.
        DataError: when the store or some scenes cannot be read.
    """
    if (config.data is None) == (not config.scenes):
        reason = "are both given" if config.scenes else "are both missing"
        raise UsageError("scenes and --data", reason, "give either scenes or a store")
    if config.num_threads is not None:
        torch.set_num_threads(max(config.num_threads, 1))
    loaded = load_model(config.model, device=resolve_device(config.device))
    loaded.method.eval()
    config.pooling.check(loaded.method.encoder)
    check_windows(config, loaded.method.grid.patch, trained_size(loaded))
    if config.data is not None:
        return [embed_store(config, loaded, config.data)]
    return embed_scenes(config, loaded)


def trained_size(loaded: LoadedModel) -> tuple[int, ...]:
    """Return the pixels per axis that a model was last trained on."""
    task = loaded.extra.get("task") or {}
    return tuple(task.get("image_size") or loaded.method.grid.image_size)


def embed_scenes(config: EmbedConfig, loaded: LoadedModel) -> list[Path]:
    """Write a map of vectors for each scene and return the files.

    Raises:
        UsageError: for other bands or impossible settings.
        DataError: when scenes cannot be read.
    """
    scenes = find_scenes(config.scenes)
    targets = output_paths(scenes, config.out)
    domain, normaliser = model_normaliser(config.model, loaded.normaliser)
    mapper = TokenMapper(
        encoder=loaded.method.encoder,
        domain=domain,
        normaliser=normaliser,
        pooling=config.pooling,
        windows=config,
        trained_size=trained_size(loaded),
        dtype=config.dtype,
        tags={name.upper(): str(value) for name, value in _about(config).items()},
    )
    projection = None
    if config.components is not None or config.dtype == "uint8":
        projection = fit_projection(mapper.sample(scenes), config.components)
    if config.components is not None and projection is not None:
        say(f"{config.components} components hold {projection.explained:.1%} of the variance")

    def work(source: SceneSource, target: Path) -> Path:
        began = time.monotonic()
        written = mapper.write(source, target, projection)
        say(f"{target}: {written}; {time.monotonic() - began:.0f} s")
        return target

    return for_each_scene(scenes, targets, work)


def embed_store(config: EmbedConfig, loaded: LoadedModel, data: Path) -> Path:
    """Write one vector per sample of a store and return the file.

    Raises:
        UsageError: for an empty split, other bands or another domain, or settings of maps.
        DataError: when the store cannot be read.
    """
    began, out = time.monotonic(), config.out
    if config.components is not None or config.dtype != "float32":
        raise UsageError("--components and --dtype", "are for maps of scenes", "leave them out")
    if out.suffix != ".parquet" or out.is_dir():
        raise UsageError(f"--out {out}", "is no name of a table", "give NAME.parquet")
    group = open_group(data, config.group)
    _, normaliser = model_normaliser(config.model, loaded.normaliser)
    if normaliser.domain != group.meta.domain:
        reason = f"is of domain {group.meta.domain!r}, the model of {normaliser.domain!r}"
        raise UsageError(f"--data {data}", reason, "give a store of the model's domain")
    normaliser.check_bands(group.meta.bands, f"--data {data}")
    rows = group.rows(config.split)
    if not len(rows):
        raise UsageError(f"--split {config.split}", "holds no sample", "choose another split")
    with replacing(out) as temporary:
        write_parts(temporary, table_parts(config, loaded, group, normaliser, rows))
    say(f"{out}: {len(rows)} embeddings of {group.store.path}; {time.monotonic() - began:.0f} s")
    return out


def write_parts(path: Path, parts: Iterator[pa.Table]) -> None:
    """Write the parts of a table as one Parquet file; there is at least one."""
    import pyarrow.parquet as pq

    first = next(parts)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for part in parts:
            writer.write_table(part)


def table_parts(
    config: EmbedConfig,
    loaded: LoadedModel,
    group: OpenGroup,
    normaliser: Normaliser,
    rows: np.ndarray,
) -> Iterator[pa.Table]:
    """Yield the table in parts that fit in memory."""
    encoder = loaded.method.encoder
    about = _about(config) | {"store": group.store.path.name}
    about["fingerprint"] = group.meta.fingerprint
    for start in track(range(0, len(rows), _TABLE_ROWS), "embed"):
        part = rows[start : start + _TABLE_ROWS]
        batches = stored_batches(
            group,
            part,
            normaliser,
            size=trained_size(loaded),
            batch_size=config.batch_size,
            device=next(encoder.parameters()).device,
        )
        vectors = [image_features(encoder, batch, config.pooling).cpu() for batch in batches]
        yield embedding_table(group.table, part, torch.cat(vectors).numpy(), about)


def embedding_table(
    manifest: pa.Table, rows: np.ndarray, vectors: Float[np.ndarray, "n d"], about: dict[str, Any]
) -> pa.Table:
    """Return samples with their vectors as a table.

    Args:
        manifest: row i is row i of the store.
        rows: rows of the store.
        vectors: one per row.
        about: plain data that is stored with the table, under "mimkit".
    """
    import pyarrow as pa

    names = ("id", "row", "label", "split", "lon", "lat")
    columns = {name: manifest[name].take(pa.array(rows)).combine_chunks() for name in names}
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table(columns).replace_schema_metadata({"mimkit": json.dumps(about)})


def _about(config: EmbedConfig) -> dict[str, Any]:
    """Return which model made the vectors, and how."""
    weights = sha256(config.model / "model.safetensors")
    return {"model": str(config.model), "weights": weights, "pooling": to_plain(config.pooling)}
