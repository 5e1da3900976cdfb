"""Opening what `mimkit curate` wrote: one way for every verb that reads a store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import UsageError
from ..datasets.errors import DataError
from ..datasets.manifest import KEPT, count_by, kept_rows, read_manifest
from ..datasets.store import Store, StoreMeta, store_state

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST, NORMALISER = "manifest.parquet", "normaliser.json"
_CONTINUE = "run the `mimkit curate` command that was writing it again: it continues"


@dataclass(frozen=True)
class TileLabels:
    """Classes of whole samples.

    Attributes:
        classes: names, sorted.
        index: (n,) int64 per row of the store, place in `classes`, -1 for a sample without label.
    """

    classes: tuple[str, ...]
    index: np.ndarray


@dataclass(frozen=True)
class OpenGroup:
    """A store with what the manifest says about its samples.

    Attributes:
        store: the pixels.
        table: the manifest's rows of this store; row i of the table is row i of the store.
        normaliser_dict: plain data from which the domain rebuilds the normaliser.
    """

    store: Store
    table: pa.Table
    normaliser_dict: dict[str, Any]

    @property
    def meta(self) -> StoreMeta:
        """What all samples have in common."""
        return self.store.meta

    def column(self, name: str) -> list[Any]:
        """Return a manifest column as Python values, one per row of the store."""
        return self.table[name].to_pylist()

    @cached_property
    def tile_labels(self) -> TileLabels:
        """Classes of whole samples, empty where the manifest has none."""
        labels = self.column("label")
        classes = tuple(sorted({label for label in labels if label is not None}))
        number = {label: place for place, label in enumerate(classes)}
        index = [number.get(label, -1) for label in labels]
        return TileLabels(classes, np.array(index, dtype=np.int64))

    def rows(self, split: str | None = None, labelled: bool = False) -> np.ndarray:
        """Return rows of the store in ascending order.

        Args:
            split: "train", "val" or "test"; None or "all" takes every sample.
            labelled: only samples with a class, or, where no sample has one, with some pixels
                whose class is known.

        Returns:
            (n,) int64, empty when the split is.

        Raises:
            UsageError: when no sample of the store has ever been in such a split.
        """
        chosen = np.ones(len(self.store), dtype=np.bool_)
        if split not in (None, "all"):
            splits = self.column("split")
            known = {"train", "val", "test"} | {name for name in splits if name}
            if split not in known:
                names = ", ".join(sorted(known))
                raise UsageError(f"split {split!r}", "is not known", f"use all, {names}")
            chosen &= np.array([name == split for name in splits], dtype=np.bool_)
        if labelled:
            chosen &= self._labelled()
        return np.flatnonzero(chosen).astype(np.int64)

    def _labelled(self) -> np.ndarray:
        if self.tile_labels.classes or not self.meta.classes:
            return self.tile_labels.index >= 0
        # Without the share in the manifest every sample may have labelled pixels.
        return np.array([share is None or share > 0 for share in self.column("labelled")], np.bool_)


def open_group(data: str | Path, group: str | None = None) -> OpenGroup:
    """Open a store that `mimkit curate` wrote.

    Args:
        data: folder that curation wrote, or the folder of one store in it.
        group: name of the store; needed only when there are several.

    Raises:
        UsageError: when there are several stores and none is chosen, or the chosen one is not
            there.
        DataError: when there is no store, it is half written, or its parts do not fit together.
    """
    folder = Path(data)
    if group is None and store_state(folder) != "none":
        folder, group = folder.resolve().parent, folder.resolve().name
    names = group_names(folder)
    if not names:
        raise _no_store(folder)
    name = _choose(folder, names, group)
    store = Store(folder / name)
    if not (folder / MANIFEST).exists():
        raise DataError(folder, f"it is half written: there is no {MANIFEST} yet", _CONTINUE)
    table = kept_rows(read_manifest(folder / MANIFEST), name)
    if table["row"].to_pylist() != list(range(len(store))):
        reason = (
            f"the {table.num_rows} rows of {name} in {MANIFEST} are not its {len(store)} samples"
        )
        raise DataError(folder, reason, "they come from different runs: curate again")
    return OpenGroup(store, table, _read_normaliser(folder / name / NORMALISER))


def group_names(data: str | Path) -> list[str]:
    """Return the names of the stores in a folder, also of half-written ones, sorted."""
    folder = Path(data)
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if store_state(path) != "none")


def _choose(folder: Path, names: list[str], group: str | None) -> str:
    if group is None and len(names) == 1:
        return names[0]
    listed = ", ".join(names)
    if group is None:
        raise UsageError(folder, "it holds several stores", f"choose one with --group: {listed}")
    if group not in names:
        raise UsageError(f"group {group!r}", f"is not in {folder}", f"choose one of {listed}")
    return group


def _no_store(folder: Path) -> DataError:
    if not folder.exists():
        return DataError(folder, "there is no such folder", "give one that `mimkit curate` wrote")
    if not (folder / MANIFEST).exists():
        if (folder / "stages").is_dir():
            return DataError(folder, "it is half written: there is no store yet", _CONTINUE)
        return DataError(folder, "there is no store", "give a folder that `mimkit curate` wrote")
    counts = count_by(read_manifest(folder / MANIFEST), "status")
    reasons = ", ".join(f"{number} {status}" for (status,), number in counts.items())
    if (KEPT,) in counts:
        return DataError(folder, "the store of its manifest is gone", "curate again")
    return DataError(
        folder,
        f"no sample was kept ({reasons or 'nothing was found'})",
        f"look up the reasons in {MANIFEST} (`mimkit inspect`) and relax them or the source",
    )


def _read_normaliser(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise DataError(path, "the store is half written: it is missing", _CONTINUE) from error
    except (OSError, ValueError) as error:
        raise DataError(path, f"it cannot be read ({error})", "curate again") from error
    if not isinstance(plain, dict):
        raise DataError(path, "it is no normaliser", "curate again")
    return plain
