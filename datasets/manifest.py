"""The manifest: one Parquet row per sample, kept or rejected, so that nothing vanishes silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from .errors import DataError
from .files import whole_file
from .geometry import Affine, Geometry, Transform

if TYPE_CHECKING:
    import pyarrow as pa

KEPT = "kept"
"""Status of a sample that is used; every other status is the code of a reason."""


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """What is known about one sample.

    Attributes:
        id: unique name of the sample, stable between runs.
        uri: file or product it was cut from.
        status: "kept", or the code of the reason why it was rejected.
        reason: the rejection in words.
        stage: stage of curation that decided the status.
        source: collection the file belongs to.
        licence: licence of the pixels.
        sensor: name of the sensor.
        acquired: time of acquisition, ISO 8601.
        split: "train", "val" or "test".
        group: scene, patient, slide or identity; samples of a group never straddle splits.
        cluster: group of near-duplicates.
        label: class of the whole sample.
        store_group: folder of the store that holds it.
        row: row in that store.
        sha: checksum of the pixels.
        phash: perceptual hash, hexadecimal.
        crs: coordinate reference system.
        transform: affine transform (a, b, c, d, e, f) of the sample.
        top: first row of the sample within its file.
        left: first column of the sample within its file.
        height: rows.
        width: columns.
        lon: longitude of the centre in degrees.
        lat: latitude of the centre in degrees.
        gsd: size of a pixel in metres.
        valid: share of pixels with data, 0 to 1.
        cloud: share of pixels under cloud, 0 to 1.
        saturated: share of pixels at the end of the number range, 0 to 1.
        mean: mean over valid pixels and bands, physical units.
        std: standard deviation over valid pixels, averaged over bands, physical units.
        entropy: entropy of the grey values in bits.
        labelled: share of pixels with a known dense label, 0 to 1.
        affine: of a sample with depth, three rows of a 3 x 4 matrix from voxel index to
            millimetres in the world, one after the other.
        front: first plane of the sample within its file.
        depth: planes.
        measures: other numbers that a domain measures, by name, such as "blur" or "spacing_z".
        facts: other things that a domain knows, by name, such as "consent" or "modality".
    """

    id: str
    uri: str
    status: str
    reason: str | None = None
    stage: str | None = None
    source: str | None = None
    licence: str | None = None
    sensor: str | None = None
    acquired: str | None = None
    split: str | None = None
    group: str | None = None
    cluster: str | None = None
    label: str | None = None
    store_group: str | None = None
    row: int | None = None
    sha: str | None = None
    phash: str | None = None
    crs: str | None = None
    transform: Transform | None = None
    top: int | None = None
    left: int | None = None
    height: int | None = None
    width: int | None = None
    lon: float | None = None
    lat: float | None = None
    gsd: float | None = None
    valid: float | None = None
    cloud: float | None = None
    saturated: float | None = None
    mean: float | None = None
    std: float | None = None
    entropy: float | None = None
    labelled: float | None = None
    affine: Affine | None = None
    front: int | None = None
    depth: int | None = None
    measures: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    def geometry(self) -> Geometry | None:
        """Return where the sample lies, None when the row does not say."""
        if self.transform is None or self.height is None or self.width is None:
            return None
        return Geometry(self.crs, self.transform, self.height, self.width)


@cache
def manifest_schema() -> pa.Schema:
    """Return the Arrow schema of a manifest, derived from `ManifestRow`."""
    import pyarrow as pa

    types = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        Transform: pa.list_(pa.float64(), 6),
        Affine: pa.list_(pa.float64(), 12),
        dict[str, float]: pa.map_(pa.string(), pa.float64()),
        dict[str, str]: pa.map_(pa.string(), pa.string()),
    }
    hints = get_type_hints(ManifestRow)
    columns = []
    for entry in fields(ManifestRow):
        required = entry.default is MISSING and entry.default_factory is MISSING
        kind = next(t for t in types if hints[entry.name] in (t, t | None))
        columns.append(pa.field(entry.name, types[kind], nullable=not required))
    return pa.schema(columns)


def write_manifest(path: str | Path, rows: Iterable[ManifestRow] | pa.Table) -> None:
    """Write a manifest atomically, sorted by id: its bytes depend only on the set of rows.

    Args:
        path: Parquet file to write.
        rows: rows in any order, or a table with the columns of a manifest.

    Raises:
        DataError: for a repeated id, a repeated place in a store, or a column that is not known.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    table = _conform(rows, path) if isinstance(rows, pa.Table) else _table(rows)
    table = table.sort_by("id").combine_chunks()
    _check_unique(table, path)
    with whole_file(path) as stream:
        pq.write_table(table, stream, compression="zstd", row_group_size=1 << 16)


def read_manifest(path: str | Path) -> pa.Table:
    """Read a manifest, sorted by id.

    Raises:
        DataError: when the file is missing, broken, or holds other columns than a manifest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    remedy = "give a folder that `mimkit curate` wrote, or run it again"
    try:
        # Arrow's threads read ahead; from a file object of Python they may abort the process when
        # it ends soon after, so the file is Arrow's own and nothing is read ahead.
        with pa.OSFile(str(path)) as stream:
            table = pq.read_table(stream, pre_buffer=False, use_threads=False)
    except FileNotFoundError as error:
        raise DataError(path, "there is no manifest", remedy) from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(path, f"the manifest cannot be read ({error})", remedy) from error
    table = _conform(table, path)
    _check_unique(table, path)
    return table


def row_from_plain(values: Mapping[str, Any]) -> ManifestRow:
    """Return a row from values as JSON or Arrow hold them: tuples as lists, maps as pairs."""
    ready = dict(values)
    for name in ("transform", "affine"):
        if ready.get(name) is not None:
            ready[name] = tuple(ready[name])
    for name in ("measures", "facts"):
        ready[name] = dict(ready.get(name) or {})
    return ManifestRow(**ready)


def manifest_rows(table: pa.Table) -> list[ManifestRow]:
    """Return the rows of a table as dataclasses, in the table's order."""
    return [row_from_plain(values) for values in table.to_pylist()]


def kept_rows(table: pa.Table, store_group: str | None = None) -> pa.Table:
    """Return the samples that are used, in the order of their store.

    Args:
        table: a manifest.
        store_group: folder of one store; None returns the kept samples of all stores.

    Returns:
        Rows with status "kept", sorted by (store_group, row).
    """
    import pyarrow.compute as pc

    chosen = pc.field("status") == KEPT
    if store_group is not None:
        chosen = chosen & (pc.field("store_group") == store_group)
    return table.filter(chosen).sort_by([("store_group", "ascending"), ("row", "ascending")])


def count_by(table: pa.Table, *columns: str) -> dict[tuple[str | None, ...], int]:
    """Return how many rows there are of every combination of values, in sorted order.

    Args:
        table: a manifest.
        columns: for example "status", or "stage" and "status".
    """
    values = zip(*(table[name].to_pylist() for name in columns), strict=True)
    counts = Counter(values)
    return dict(sorted(counts.items(), key=lambda item: [str(v or "") for v in item[0]]))


def _table(rows: Iterable[ManifestRow]) -> pa.Table:
    import pyarrow as pa

    rows = list(rows)
    schema = manifest_schema()
    columns = [
        pa.array([getattr(row, column.name) for row in rows], type=column.type) for column in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _conform(table: pa.Table, path: Path) -> pa.Table:
    """Return the table with exactly the columns of the schema, in its order."""
    import pyarrow as pa

    schema = manifest_schema()
    unknown = [name for name in table.column_names if name not in schema.names]
    if unknown:
        raise DataError(
            path,
            f"unknown columns {', '.join(unknown)}",
            "it was written by another version or by hand; remove them, or curate again",
        )
    columns = []
    for wanted in schema:
        name = wanted.name
        present = name in table.column_names
        if not present and not wanted.nullable:
            raise DataError(path, f"column {name} is missing", "curate again")
        column = table[name] if present else pa.nulls(table.num_rows, wanted.type)
        if column.null_count and not wanted.nullable:
            raise DataError(path, f"column {name} has empty entries", "curate again")
        try:
            columns.append(column.cast(wanted.type))
        except pa.ArrowException as error:
            reason = f"column {name} is {column.type} instead of {wanted.type}"
            raise DataError(path, reason, "curate again") from error
    return pa.Table.from_arrays(columns, schema=schema)


def _check_unique(table: pa.Table, path: Path) -> None:
    """Refuse two rows of the same sample and two samples in the same place of a store."""
    remedy = "give every sample its own name; was the same source named twice?"
    _refuse_repeated(table["id"].to_pylist(), path, "id", remedy)
    places = zip(table["store_group"].to_pylist(), table["row"].to_pylist(), strict=True)
    packed = [
        f"{group} row {row}" for group, row in places if group is not None and row is not None
    ]
    _refuse_repeated(packed, path, "store", "curate again into an empty folder")


def _refuse_repeated(values: list[str], path: Path, what: str, remedy: str) -> None:
    if len(set(values)) == len(values):
        return
    value, times = Counter(values).most_common(1)[0]
    raise DataError(path, f"{what} {value} occurs {times} times", remedy)
