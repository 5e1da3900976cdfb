"""Writing the stores of a curation, in all domains: missing shards first, then the normaliser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.files import write_json
from ...datasets.manifest import ManifestRow
from ...datasets.store import Store, StoreMeta, StoreWriter
from ...domains.curation.packing import PackUnit
from .execute import Pool, Stage, result_path, run_stage

_NORMALISER_SAMPLES = 20_000  # enough for means; more would only take time
_CHUNK_SAMPLES = 64


def write_stores(
    out: Path,
    rows: Sequence[ManifestRow],
    metas: Mapping[str, StoreMeta],
    stage: Stage,
    units: Sequence[PackUnit[Any, Any]],
    stages: Path,
    pool: Pool,
) -> None:
    """Write the shards that are missing, finish the stores and fit their normalisers.

    Args:
        out: folder of the curation.
        rows: manifest rows with their places in the stores.
        metas: stores by folder.
        stage: that writes a shard.
        units: its work, one for each shard.
        stages: folder of the results of stages.
        pool: who does it.
    """
    clear_stale(out, metas)
    writers = {name: StoreWriter(out / name, meta) for name, meta in metas.items()}
    for unit in units:
        if unit.shard in writers[Path(unit.folder).name].missing():
            result_path(stage, unit, stages).unlink(missing_ok=True)
    run_stage(stage, units, stages, pool)
    for name, writer in writers.items():
        fit_normaliser(writer.finalise(), [row for row in rows if row.store_group == name])


def clear_stale(out: Path, metas: Mapping[str, StoreMeta]) -> None:
    """Remove stores of an earlier run over other files, and the manifest that spoke of them."""
    stale = [
        path.parent
        for mark in ("store.json", "unfinished.json")
        for path in out.glob(f"*/{mark}")
        if path.parent.name not in metas or not same_store(path, metas[path.parent.name])
    ]
    if stale:
        (out / "manifest.parquet").unlink(missing_ok=True)
    for folder in set(stale):
        shutil.rmtree(folder)


def same_store(mark: Path, meta: StoreMeta) -> bool:
    """Say whether a mark in a folder is that of a store of the same samples."""
    return StoreMeta.from_json(json.loads(mark.read_bytes()), mark) == meta


def fit_normaliser(store: Store, rows: Sequence[ManifestRow]) -> None:
    """Fit the normaliser of a store on its training samples and write it beside the arrays."""
    from ...domains.domain import get_domain  # brings torch, which nothing else here needs

    path = store.path / "normaliser.json"
    if path.exists():
        return
    train = [row.row or 0 for row in rows if row.split == "train"]
    chosen = np.array(sorted(train or [row.row or 0 for row in rows]), np.int64)
    if len(chosen) > _NORMALISER_SAMPLES:
        places = np.linspace(0, len(chosen) - 1, _NORMALISER_SAMPLES).astype(np.int64)
        chosen = chosen[places]
    starts = range(0, len(chosen), _CHUNK_SAMPLES)
    parts = (store.read(chosen[start : start + _CHUNK_SAMPLES]) for start in starts)
    chunks = ((part.pixels, part.valid) for part in parts)
    normaliser = get_domain(store.meta.domain).fit(store.meta, chunks)
    write_json(path, normaliser.to_dict())
