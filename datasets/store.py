"""A store: samples of one shape and sensor, in zarr v3 arrays that are written once.

    store.json         StoreMeta; written last, so its presence means that the store is complete
    unfinished.json    the same while the store is being written
    zarr.json          group, for other readers
    pixels/            (n, c, *s) sensor numbers
    valid/             (n, *s) one bit per pixel, packed along the last axis, first pixel highest
    labels/            (n, *s) uint8 classes, 255 where not known; only when there are classes
    regions/           (n, *s) uint8 regions, 0 where there is none; only when regions have names

A shard is a pure function of its samples and gets its name when it is complete. A killed writer
is therefore started again with the same arguments and writes the shards that are missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .errors import DataError
from .files import remove_partial, write_json
from .samples import UNLABELLED, Sample, Samples
from .shards import DTYPES, Layout, open_array, shard_writer

VERSION = 1
_FINISHED, _STARTED = "store.json", "unfinished.json"
_DIMENSIONS = {2: ("y", "x"), 3: ("z", "y", "x")}


@dataclass(frozen=True, kw_only=True)
class StoreMeta:
    """What all samples of a store have in common.

    Attributes:
        domain: name of the domain, for example "satellite".
        sensor: name of the sensor.
        bands: names of the channels.
        size: pixels per axis, (H, W) or (D, H, W).
        dtype: number type of the pixels as stored.
        scale: factor per band; physical value = stored value * scale + offset.
        offset: summand per band.
        num_samples: rows of the store.
        shard: samples of a shard.
        nodata: stored value that meant "no data" in the source; see `valid` for where it is.
        units: of physical values.
        seed: of curation.
        classes: names of the dense labels; without names there are no dense labels.
        fingerprint: of the samples that are to be written; a writer resumes only its own store.
        regions: names of the classes in maps of regions (parsing maps), which guide masks; without
            names there are no such maps. They are no labels: nothing is trained to tell them.
        facts: what else a domain says of all samples, as plain JSON data, such as how faces were
            cropped.
        version: of this layout.
    """

    domain: str
    sensor: str
    bands: tuple[str, ...]
    size: tuple[int, ...]
    dtype: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    num_samples: int
    shard: int
    nodata: float | None = None
    units: str = ""
    seed: int = 0
    classes: tuple[str, ...] = ()
    fingerprint: str = ""
    regions: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict, hash=False)
    version: int = VERSION

    def __post_init__(self) -> None:
        """Check that the numbers belong together."""
        problem = self._problem()
        if problem:
            raise DataError("store.json", problem, "correct the value, or curate again")

    def _problem(self) -> str | None:
        num_bands = len(self.bands)
        checks = {
            f"version is {self.version}, not {VERSION}": self.version == VERSION,
            "bands must be distinct names": 0 < num_bands == len(set(self.bands)),
            f"size {self.size} must be 2 or 3 positive numbers": len(self.size) in _DIMENSIONS
            and min(self.size) > 0,
            f"dtype {self.dtype} is none of {', '.join(DTYPES)}": self.dtype in DTYPES,
            f"scale and offset need {num_bands} numbers": num_bands
            == len(self.scale)
            == len(self.offset),
            f"num_samples {self.num_samples} is negative": self.num_samples >= 0,
            f"shard {self.shard} must be at least 1": self.shard >= 1,
            f"{len(self.classes)} classes do not fit into 8 bits": len(self.classes) <= UNLABELLED,
            f"{len(self.regions)} regions do not fit into 8 bits": len(self.regions) <= 256,
        }
        return next((text for text, holds in checks.items() if not holds), None)

    @property
    def num_channels(self) -> int:
        """Number of channels."""
        return len(self.bands)

    @property
    def group_name(self) -> str:
        """Name of the store's folder, "<sensor>-<C>x<H>x<W>-<dtype>"."""
        shape = "x".join(map(str, (self.num_channels, *self.size)))
        return f"{self.sensor}-{shape}-{self.dtype}"

    @property
    def sample_bytes(self) -> int:
        """Size of a sample's pixels before compression."""
        return self.num_channels * math.prod(self.size) * np.dtype(self.dtype).itemsize

    def layouts(self) -> dict[str, Layout]:
        """Return how each array of the store lies on disk, by the name of its folder."""
        *rest, width = self.size
        packed = (self.num_samples, *rest, math.ceil(width / 8))
        found = {
            "pixels": Layout(
                (self.num_samples, self.num_channels, *self.size), self.shard, self.dtype
            ),
            # Most samples are valid everywhere; such a chunk is the fill value and not stored.
            "valid": Layout(packed, self.shard, "uint8", fill=255),
        }
        if self.classes:
            shape = (self.num_samples, *self.size)
            found["labels"] = Layout(shape, self.shard, "uint8", fill=UNLABELLED)
        if self.regions:
            found["regions"] = Layout((self.num_samples, *self.size), self.shard, "uint8")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON, which knows no NaN."""
        plain = asdict(self)
        if self.nodata is not None and not math.isfinite(self.nodata):
            plain["nodata"] = str(self.nodata)
        return plain

    @staticmethod
    def from_json(plain: Any, path: Path) -> StoreMeta:
        """Build the value from plain data.

        Args:
            plain: what `to_json` returned.
            path: file it comes from, for messages.

        Raises:
            DataError: when an entry is missing, unknown or of the wrong kind.
        """
        known = {entry.name: entry for entry in fields(StoreMeta)}
        required = {
            name
            for name, entry in known.items()
            if entry.default is MISSING and entry.default_factory is MISSING
        }
        remedy = "it was written by another version or changed by hand; curate again"
        if not isinstance(plain, dict) or not required <= set(plain) <= set(known):
            raise DataError(path, f"its entries are not {', '.join(known)}", remedy)
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()
        }
        try:
            if values.get("nodata") is not None:
                values["nodata"] = float(values["nodata"])
            return StoreMeta(**values)
        except (TypeError, ValueError) as error:
            raise DataError(path, f"an entry is of the wrong kind ({error})", remedy) from error
        except DataError as error:
            raise DataError(path, error.reason, remedy) from error


def samples_per_shard(
    num_channels: int, size: tuple[int, ...], dtype: str, target_bytes: int = 256 << 20
) -> int:
    """Return how many samples make a shard of about `target_bytes` before compression."""
    sample_bytes = num_channels * math.prod(size) * np.dtype(dtype).itemsize
    return max(1, target_bytes // sample_bytes)


class StoreWriter:
    """Writes a store shard by shard, in any order and from any number of processes.

    Args:
        path: folder of the store.
        meta: what all samples have in common, and how many there will be.

    Raises:
        DataError: when the folder holds a store of other samples.
    """

    def __init__(self, path: str | Path, meta: StoreMeta) -> None:
        self.path, self.meta = Path(path), meta
        self._layouts = meta.layouts()
        for mark in (self.path / _FINISHED, self.path / _STARTED):
            # Compared as JSON, because NaN as nodata differs from itself.
            if mark.exists() and _read_meta(mark).to_json() != meta.to_json():
                raise DataError(
                    self.path,
                    "it holds a store of other samples or settings",
                    "choose another folder, or delete this one",
                )
        if not (self.path / _FINISHED).exists():
            self._start()

    def _start(self) -> None:
        meta = self.meta
        about = {"bands": meta.bands, "scale": meta.scale, "offset": meta.offset}
        about |= {"units": meta.units, "sensor": meta.sensor, "classes": meta.classes}
        space = _DIMENSIONS[len(meta.size)]
        names = {"pixels": ("sample", "band", *space), "valid": ("sample", *space[:-1], "byte")}
        # The mark comes first: arrays without it would look like somebody else's.
        write_json(self.path / _STARTED, meta.to_json())
        group = {"zarr_format": 3, "node_type": "group", "attributes": about}
        write_json(self.path / "zarr.json", group)
        for name, layout in self._layouts.items():
            metadata = layout.metadata(names.get(name, ("sample", *space)), {})
            write_json(self.path / name / "zarr.json", metadata)

    @property
    def num_shards(self) -> int:
        """Number of shards of the finished store."""
        return self._layouts["pixels"].num_shards

    def shard_rows(self, shard: int) -> range:
        """Return the rows that a shard holds."""
        start = shard * self.meta.shard
        return range(start, min(start + self.meta.shard, self.meta.num_samples))

    def missing(self) -> list[int]:
        """Return the shards that are not written yet."""
        return [
            shard
            for shard in range(self.num_shards)
            if not all(path.exists() for path in self._files(shard).values())
        ]

    def _files(self, shard: int) -> dict[str, Path]:
        return {n: self.path / n / lay.file_name(shard) for n, lay in self._layouts.items()}

    def write_shard(self, shard: int, samples: Iterable[Sample]) -> None:
        """Write the samples of `shard_rows(shard)`; they are taken one at a time.

        Args:
            shard: number of the shard.
            samples: its samples in the order of their rows.

        Raises:
            ValueError: when their number, shape or dtype is not that of the store.
        """
        rows = self.shard_rows(shard)
        count = 0
        with ExitStack() as stack:
            append = {
                name: stack.enter_context(shard_writer(path, self._layouts[name]))
                for name, path in self._files(shard).items()
            }
            for sample in samples:
                count += 1
                for name, add in append.items():
                    add(self._stored(name, sample))
            if count != len(rows):
                raise ValueError(f"{count} samples for shard {shard}, which has {len(rows)}")

    def _stored(self, name: str, sample: Sample) -> np.ndarray:
        if name == "pixels":
            return sample.pixels
        given = getattr(sample, name)
        if given is None:
            fill = np.uint8(self._layouts[name].fill)
            return np.broadcast_to(fill, self._layouts[name].shape[1:])
        if given.shape != self.meta.size:
            raise ValueError(f"{name} has shape {given.shape} instead of {self.meta.size}")
        if name != "valid":
            return given
        return ~np.packbits(~given, axis=-1)  # the bits that fill the last byte are 1 as well

    def finalise(self) -> Store:
        """Mark the store as complete and open it.

        Raises:
            DataError: when shards are missing.
        """
        missing = self.missing()
        if missing:
            reason = f"{len(missing)} of {self.num_shards} shards are not written"
            raise DataError(self.path, reason, "run the same command again: it continues")
        for folder in (self.path, *(self.path / name for name in self._layouts)):
            remove_partial(folder)
        write_json(self.path / _FINISHED, self.meta.to_json())
        (self.path / _STARTED).unlink(missing_ok=True)
        return Store(self.path)


class Store:
    """A finished store; may be shared by threads, forked and pickled.

    Args:
        path: folder of the store.

    Raises:
        DataError: when there is no store, or it is not finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if store_state(self.path) != "finished":
            raise _not_finished(self.path)
        self.meta = _read_meta(self.path / _FINISHED)
        self._arrays = {
            name: (open_array(self.path / name, layout.shape, layout.dtype), layout)
            for name, layout in self.meta.layouts().items()
        }

    def __len__(self) -> int:
        return self.meta.num_samples

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.path,)  # open files stay where they are

    def read(self, rows: np.ndarray, labels: bool = False) -> Samples:
        """Read samples.

        Args:
            rows: (b,) integers in any order, also repeated.
            labels: read the dense labels as well.

        Returns:
            Samples with pixels in the stored dtype, a valid mask (never None), and the maps of
            regions of a store that has them.

        Raises:
            DataError: naming the sample, when it does not exist or cannot be read; or when labels
                are asked for and the store has none.
        """
        rows = np.asarray(rows, dtype=np.int64)
        pixels = self.read_pixels(rows)
        if labels and not self.meta.classes:
            raise DataError(
                self.path,
                "the store has no dense labels",
                "curate with labels (`mimkit curate --help` says how)",
            )
        packed, stored = self._read("valid", rows)
        if stored:
            bits = np.unpackbits(packed, axis=-1, count=self.meta.size[-1])
            valid = bits.view(np.bool_)
        else:
            valid = np.ones((len(rows), *self.meta.size), np.bool_)
        found = self._read("labels", rows)[0] if labels else None
        regions = self._read("regions", rows)[0] if self.meta.regions else None
        return Samples(pixels, valid, rows, found, regions)

    def read_pixels(self, rows: np.ndarray) -> np.ndarray:
        """Return the (b, c, *s) pixels of (b,) rows alone, like `read`."""
        outside = rows[(rows < 0) | (rows >= len(self))]
        if outside.size:
            reason = f"there is no row {outside[0]}, only 0 to {len(self) - 1}"
            raise DataError(self.path, reason, "do manifest and store come from the same run?")
        return self._read("pixels", rows)[0]

    def _read(self, name: str, rows: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return an array's chunks of some rows, and whether any of them is stored."""
        array, layout = self._arrays[name]
        out = np.empty((len(rows), *layout.shape[1:]), layout.dtype)
        stored = False
        for place, row in enumerate(rows.tolist()):
            stored |= array.read_into(row, out[place])
        return out, stored


def _read_meta(path: Path) -> StoreMeta:
    try:
        plain = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(path, f"cannot be read ({error})", "curate again") from error
    return StoreMeta.from_json(plain, path)


def store_state(path: str | Path) -> Literal["finished", "started", "none"]:
    """Say whether a folder is a store, one that is not finished, or something else."""
    if (Path(path) / _FINISHED).is_file():
        return "finished"
    return "started" if (Path(path) / _STARTED).is_file() else "none"


def _not_finished(path: Path) -> DataError:
    if store_state(path) == "started":
        return DataError(
            path,
            "the store is only half written",
            "run the command that was writing it again: it continues",
        )
    return DataError(path, "there is no store", "give a folder that `mimkit curate` wrote")
