"""Arrays of samples as zarr v3 shards: written once, read directly.

zarr-python opens one sample in milliseconds because every read passes through its event loop, its
codec pipeline and the index of the shard. A training reader asks the same question a million times,
so `DirectReader` keeps the index in memory and does nothing but `pread` and decompression. What it
does not understand is read by zarr-python (`ZarrReader`), and both give the same bytes.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from .errors import DataError
from .files import whole_file

DTYPES = (
    *("uint8", "uint16", "uint32", "int8", "int16", "int32"),
    *("float16", "float32", "float64"),
)
"""Number types of a store."""

Compressor = Literal["blosc", "zstd", "none"]

_ABSENT = 2**64 - 1  # offset and length of a chunk that is not stored and equals the fill value
_NUM_OPEN_FILES = 256  # well below the usual limit of 1024 descriptors of a process
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_BYTE = {"name": "bytes"}
_DAMAGED = (
    "the file is damaged: copy it again from its source, or delete the store and curate again"
)


@dataclass(frozen=True)
class Layout:
    """How an array of samples lies on disk; one sample is one chunk.

    Attributes:
        shape: (n, *sample).
        shard: samples of a shard.
        dtype: numpy name of the number type, stored little-endian.
        fill: value of a chunk that is not stored.
        separator: between the parts of a shard's file name.
        compressor: of the chunks.
    """

    shape: tuple[int, ...]
    shard: int
    dtype: str
    fill: int | float = 0
    separator: str = "."
    compressor: Compressor = "blosc"

    @property
    def num_shards(self) -> int:
        """Number of shard files."""
        return -(-self.shape[0] // self.shard)

    def file_name(self, shard: int) -> str:
        """Return the name of a shard's file relative to the array's folder."""
        parts = ["c", str(shard), *("0" for _ in self.shape[1:])]
        return self.separator.join(parts)

    def metadata(self, names: tuple[str, ...], attributes: dict[str, Any]) -> dict[str, Any]:
        """Return the content of zarr.json for an array that `shard_writer` writes.

        Args:
            names: of the dimensions.
            attributes: free plain data for other readers.
        """
        item_size = np.dtype(self.dtype).itemsize
        blosc = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "blocksize": 0}
        sharding = {
            "chunk_shape": [1, *self.shape[1:]],
            "codecs": [
                _LITTLE if item_size > 1 else _BYTE,
                {"name": "blosc", "configuration": blosc | {"typesize": item_size}},
            ],
            "index_codecs": [_LITTLE, {"name": "crc32c"}],
            "index_location": "end",
        }
        grid = {"chunk_shape": [self.shard, *self.shape[1:]]}
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": grid},
            "chunk_key_encoding": {
                "name": "default",
                "configuration": {"separator": self.separator},
            },
            "fill_value": self.fill,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": list(names),
            "attributes": attributes,
            "storage_transformers": [],
        }


def parse_layout(metadata: dict[str, Any]) -> Layout | None:
    """Return the layout that zarr.json describes, None when the direct reader cannot read it."""
    try:
        (outer,) = metadata["codecs"]
        sharding = outer["configuration"]
        to_bytes, *compression = sharding["codecs"]
        grid = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        encoding = metadata["chunk_key_encoding"]
        layout = Layout(
            shape=tuple(metadata["shape"]),
            shard=grid[0],
            dtype=metadata["data_type"],
            fill=metadata["fill_value"],
            separator=encoding.get("configuration", {}).get("separator", "/"),
            compressor=_compressor(compression),
        )
        understood = (
            sys.byteorder == "little",
            metadata["chunk_grid"]["name"] == "regular",
            encoding["name"] == "default",
            outer["name"] == "sharding_indexed",
            sharding.get("index_location", "end") == "end",
            sharding["index_codecs"] == [_LITTLE, {"name": "crc32c"}],
            to_bytes in (_LITTLE, _BYTE),
            sharding["chunk_shape"] == [1, *layout.shape[1:]],
            grid[1:] == list(layout.shape[1:]),
            layout.dtype in DTYPES,
            isinstance(layout.fill, int | float),
            not metadata.get("storage_transformers"),
        )
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        return None
    return layout if all(understood) else None


def _compressor(codecs: list[dict[str, Any]]) -> Compressor:
    names = [codec["name"] for codec in codecs]
    if names == ["blosc"]:
        return "blosc"
    if names == ["zstd"]:
        return "zstd"
    if names:
        raise ValueError(f"codecs {names} are left to zarr-python")
    return "none"


@contextmanager
def shard_writer(path: Path, layout: Layout) -> Iterator[Callable[[np.ndarray], None]]:
    """Write one shard; it gets its name when the block ends without an error.

    The bytes are a function of the samples alone. Where the fill value is not 0, it is the usual
    content (all valid, unlabelled), and chunks that hold nothing else are not stored.

    Args:
        path: file of the shard.
        layout: of the array.

    Yields:
        A function that appends the next sample, (*sample) in the array's dtype.
    """
    index = np.full((layout.shard, 2), _ABSENT, dtype="<u8")
    count = position = 0
    with whole_file(path) as stream:

        def append(sample: np.ndarray) -> None:
            nonlocal count, position
            if sample.shape != layout.shape[1:] or sample.dtype != layout.dtype:
                have = f"{sample.dtype} {sample.shape}"
                need = f"{layout.dtype} {layout.shape[1:]}"
                raise ValueError(f"sample {count} of {path} is {have} instead of {need}")
            if layout.fill == 0 or not np.all(sample == layout.fill):
                chunk = _compress(sample)
                stream.write(chunk)
                index[count] = position, len(chunk)
                position += len(chunk)
            count += 1

        yield append
        table = index.tobytes()
        stream.write(table + _crc32c(table))


def _compress(sample: np.ndarray) -> bytes:
    blosc = _codec("blosc")
    # Blosc takes the width to shuffle by from the buffer; only its size counts, not its kind.
    words = np.ascontiguousarray(sample, sample.dtype.newbyteorder("<")).view(
        f"u{sample.dtype.itemsize}"
    )
    return blosc.compress(words.reshape(-1), b"lz4", 5, blosc.SHUFFLE, 0)


@cache
def _codec(name: str) -> Any:
    """Import a compiled codec when it is first needed."""
    module = import_module(f"numcodecs.{name}")
    if name == "blosc":
        # Its threads append blocks in the order of finishing, so that bytes differ from run to run,
        # and they stand behind one lock, while our own threads decode side by side.
        module.use_threads = False  # pyright: ignore[reportAttributeAccessIssue]
    return module


def _crc32c(data: bytes) -> bytes:
    import google_crc32c

    return google_crc32c.value(data).to_bytes(4, "little")


@runtime_checkable
class Reader(Protocol):
    """Reads single samples of one array."""

    def read_into(self, row: int, out: np.ndarray) -> bool:
        """Fill `out` (*sample) with a row; return False when the chunk is not stored."""
        ...


def open_array(folder: Path, shape: tuple[int, ...], dtype: str) -> Reader:
    """Open an array for reading single samples.

    Args:
        folder: of the array, with its zarr.json.
        shape: (n, *sample) that is expected.
        dtype: number type that is expected.

    Raises:
        DataError: when the array is missing, unreadable or of another shape or type.
    """
    try:
        metadata = json.loads((folder / "zarr.json").read_text("utf-8"))
        found = tuple(metadata["shape"]), metadata["data_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(folder, f"the array cannot be opened ({error!r})", _DAMAGED) from error
    if found != (shape, dtype):
        reason = f"the array is {found[1]} {found[0]} instead of {dtype} {shape}"
        raise DataError(folder, reason, _DAMAGED)
    layout = parse_layout(metadata)
    return ZarrReader(folder) if layout is None else DirectReader(folder, layout)


class _File:
    """A descriptor that is closed when nobody reads from it any more."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "descriptor"):  # not when opening failed
            close(self.descriptor)


class DirectReader:
    """Reads samples with one `pread` each; the indices of the shards stay in memory.

    Threads and forked processes may share a reader: `pread` has no position, and the caches are
    swapped under Python's own lock.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._folder, self._layout = folder, layout
        self._file = lru_cache(_NUM_OPEN_FILES)(self._open)
        self._index = lru_cache(None)(self._read_index)
        self._decode = _DECODERS[layout.compressor]

    def read_into(self, row: int, out: np.ndarray) -> bool:
        """Fill `out` (*sample) with a row; return False when the chunk is not stored.

        Raises:
            DataError: naming array and row, when the shard is missing or damaged.
        """
        shard, inner = divmod(row, self._layout.shard)
        try:
            offset, length = struct.unpack_from("<QQ", self._index(shard), 16 * inner)
            if offset == _ABSENT:
                out.fill(self._layout.fill)
                return False
            file = self._file(shard)  # held until the read is done, also when the cache drops it
            chunk = os.pread(file.descriptor, length, offset)
            if len(chunk) != length:
                raise ValueError(f"{len(chunk)} of {length} bytes")
            self._decode(chunk, out)
        except (OSError, ValueError, RuntimeError) as error:
            name = self._layout.file_name(shard)
            reason = f"shard {name} cannot be read ({error})"
            raise DataError(f"{self._folder} row {row}", reason, _DAMAGED) from error
        return True

    def _open(self, shard: int) -> _File:
        return _File(self._folder / self._layout.file_name(shard))

    def _read_index(self, shard: int) -> bytes:
        size = 16 * self._layout.shard  # offset and length of every chunk, then a checksum
        file = self._file(shard)
        start = os.fstat(file.descriptor).st_size - size - 4
        if start < 0:
            raise ValueError("the file is shorter than its index")
        data = os.pread(file.descriptor, size + 4, start)
        if len(data) != size + 4 or _crc32c(data[:size]) != data[size:]:
            raise ValueError("the checksum of its index is wrong")
        return data[:size]


def _decode_blosc(chunk: bytes, out: np.ndarray) -> None:
    if len(chunk) < 16:
        raise ValueError(f"a chunk of {len(chunk)} bytes")
    # Blosc trusts the sizes in its header and would read and write past the buffers.
    content, _, whole = struct.unpack_from("<III", chunk, 4)
    if (content, whole) != (out.nbytes, len(chunk)):
        raise ValueError(
            f"a chunk of {whole} bytes for {content}, not {len(chunk)} for {out.nbytes}"
        )
    _codec("blosc").decompress(chunk, out)


def _decode_zstd(chunk: bytes, out: np.ndarray) -> None:
    _decode_plain(_codec("zstd").decompress(chunk), out)


def _decode_plain(chunk: bytes, out: np.ndarray) -> None:
    np.copyto(out, np.frombuffer(chunk, out.dtype).reshape(out.shape))


_DECODERS: dict[Compressor, Callable[[bytes, np.ndarray], None]] = {
    "blosc": _decode_blosc,
    "zstd": _decode_zstd,
    "none": _decode_plain,
}


class ZarrReader:
    """Reads samples with zarr-python, for arrays with other codecs or chunks than ours."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._array = lru_cache(2)(self._open)

    def read_into(self, row: int, out: np.ndarray) -> bool:
        """Fill `out` (*sample) with a row; always True.

        Raises:
            DataError: naming array and row, when zarr-python cannot read it.
        """
        try:
            out[...] = self._array(os.getpid())[row]  # a forked process opens its own
        except Exception as error:  # whatever a foreign codec raises
            reason = f"zarr-python cannot read it ({error})"
            raise DataError(f"{self._folder} row {row}", reason, _DAMAGED) from error
        return True

    def _open(self, process: int) -> Any:
        import zarr

        return zarr.open_array(self._folder, mode="r")
