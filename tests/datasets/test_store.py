"""A store gives back what was written, to us and to zarr-python, also after a kill."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from mimkit.datasets import DataError
from mimkit.datasets.samples import Sample, Samples
from mimkit.datasets.shards import DirectReader, ZarrReader
from mimkit.datasets.store import Store, StoreMeta, StoreWriter, samples_per_shard

META = StoreMeta(
    domain="satellite",
    sensor="toy",
    bands=("red", "nir"),
    size=(5, 11),
    dtype="uint16",
    scale=(1e-4, 1e-4),
    offset=(0.0, -0.1),
    num_samples=10,
    shard=4,
    nodata=0.0,
    classes=("water", "forest"),
)


def content(meta: StoreMeta, seed: int = 0) -> Samples:
    """Return the samples of a store: some valid everywhere, some in part, some labelled."""
    rng = np.random.default_rng(seed)
    num = meta.num_samples
    shape = (num, meta.num_channels, *meta.size)
    pixels = rng.integers(0, 256, (*shape, np.dtype(meta.dtype).itemsize), np.uint8)
    pixels = pixels.view(meta.dtype)[..., 0]
    pixels[rng.random(num) < 0.2] = 0
    valid = rng.random((num, *meta.size)) < 0.7
    valid[rng.random(num) < 0.5] = True
    labels = rng.integers(0, 3, (num, *meta.size)).astype(np.uint8)
    labels[labels == 2] = 255
    return Samples(pixels, valid, np.arange(num), labels if meta.classes else None)


def one(samples: Samples, row: int) -> Sample:
    valid, labels = samples.valid, samples.labels
    assert valid is not None
    whole = bool(valid[row].all())
    return Sample(
        samples.pixels[row],
        None if whole else valid[row],
        None if labels is None else labels[row],
    )


def write(path: Path, meta: StoreMeta, seed: int = 0) -> tuple[Store, Samples]:
    writer, samples = StoreWriter(path, meta), content(meta, seed)
    for shard in writer.missing():
        writer.write_shard(shard, (one(samples, row) for row in writer.shard_rows(shard)))
    return writer.finalise(), samples


def assert_same(found: Samples, expected: Samples, rows: np.ndarray) -> None:
    assert found.pixels.dtype == expected.pixels.dtype
    assert found.pixels.tobytes() == expected.pixels[rows].tobytes()  # NaN payloads as well
    assert found.valid is not None
    assert expected.valid is not None
    np.testing.assert_array_equal(found.valid, expected.valid[rows])
    np.testing.assert_array_equal(found.rows, rows)
    if found.labels is not None:
        assert expected.labels is not None
        np.testing.assert_array_equal(found.labels, expected.labels[rows])


def tree(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@dataclass(frozen=True)
class Case:
    num_bands: int
    size: list[int]
    dtype: str
    num_samples: int
    shard: int
    classes: tuple[str, ...]

    def meta(self) -> StoreMeta:
        return replace(
            META,
            bands=tuple(f"b{i}" for i in range(self.num_bands)),
            scale=(1.0,) * self.num_bands,
            offset=(0.0,) * self.num_bands,
            size=tuple(self.size),
            dtype=self.dtype,
            num_samples=self.num_samples,
            shard=self.shard,
            classes=self.classes,
        )


cases = st.builds(
    Case,
    num_bands=st.integers(1, 13),
    size=st.lists(st.integers(1, 17), min_size=2, max_size=3),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float16", "float32"]),
    num_samples=st.integers(0, 9),
    shard=st.integers(1, 5),
    classes=st.sampled_from([(), META.classes]),
)


@settings(max_examples=30)
@given(cases, st.integers(0, 99))
def test_direct_reader_and_zarr_give_the_bytes_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, case: Case, seed: int
) -> None:
    meta = case.meta()
    store, samples = write(tmp_path_factory.mktemp("store"), meta, seed)
    assert Store(store.path).meta == meta
    rows = np.random.default_rng(seed).integers(0, max(len(store), 1), 2 * len(store))
    assert_same(store.read(rows, labels=bool(meta.classes)), samples, rows)
    group = zarr.open_group(store.path, mode="r")
    for name, (array, layout) in store._arrays.items():
        assert isinstance(array, DirectReader)
        foreign = group[name]
        assert isinstance(foreign, zarr.Array)
        chunks = np.empty(layout.shape, layout.dtype)
        for row in range(len(store)):
            array.read_into(row, chunks[row])
        assert np.asarray(foreign[...]).tobytes() == chunks.tobytes()
        assert foreign.dtype == layout.dtype


@pytest.mark.parametrize("codec", ["gzip", "zstd", "plain", "blosc-zstd", "unsharded"])
def test_arrays_with_other_codecs_are_read_too(tmp_path: Path, codec: str) -> None:
    store, samples = write(tmp_path / "s", META)
    pixels = tmp_path / "s" / "pixels"
    for file in pixels.iterdir():
        file.unlink()
    shape = samples.pixels.shape
    compressors = {
        "gzip": GzipCodec(),
        "zstd": ZstdCodec(checksum=True),
        "plain": None,
        "blosc-zstd": BloscCodec(cname="zstd", shuffle="bitshuffle", typesize=2),
        "unsharded": "auto",
    }
    array = zarr.create_array(
        pixels,
        shape=shape,
        dtype=samples.pixels.dtype,
        chunks=(1, *shape[1:]),
        shards=None if codec == "unsharded" else (3, *shape[1:]),
        compressors=compressors[codec],
        fill_value=0,
    )
    array[...] = samples.pixels
    store = Store(store.path)
    kind = ZarrReader if codec in ("gzip", "unsharded") else DirectReader
    assert isinstance(store._arrays["pixels"][0], kind)
    rows = np.array([9, 0, 3, 3, 8])
    assert_same(store.read(rows), samples, rows)
    assert_same(pickle.loads(pickle.dumps(store)).read(rows), samples, rows)


def test_threads_forks_and_pickles_share_a_store(tmp_path: Path) -> None:
    store, samples = write(tmp_path, replace(META, num_samples=300))
    rows = np.random.default_rng(0).permutation(300)
    with ThreadPoolExecutor(8) as pool:
        for found, part in zip(
            pool.map(store.read, np.split(rows, 60)), np.split(rows, 60), strict=True
        ):
            assert_same(found, samples, part)
    assert_same(pickle.loads(pickle.dumps(store)).read(rows), samples, rows)
    child = os.fork()
    if child == 0:  # no assertion rewriting, no exit handlers of pytest
        same = np.array_equal(store.read(rows).pixels, samples.pixels[rows])
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert_same(store.read(rows), samples, rows)


def test_many_shards_need_few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimkit.datasets.shards._NUM_OPEN_FILES", 2)
    store, samples = write(tmp_path, replace(META, num_samples=40, shard=1))
    descriptors = Path("/proc/self/fd")  # Linux only; elsewhere the reads alone are checked
    before = len(list(descriptors.iterdir())) if descriptors.exists() else None
    rows = np.random.default_rng(0).integers(0, 40, 400)
    with ThreadPoolExecutor(4) as pool:
        for found, part in zip(
            pool.map(store.read, np.split(rows, 40)), np.split(rows, 40), strict=True
        ):
            assert_same(found, samples, part)
    if before is not None:
        assert len(list(descriptors.iterdir())) <= before + 3 * 2


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import numpy as np
from mimkit.datasets import store as store_module
from test_store import META, content, one
shard_to_die_in, sample_to_die_at = int(sys.argv[2]), int(sys.argv[3])
writer, samples = store_module.StoreWriter(Path(sys.argv[1]), META), content(META)
def stream(shard):
    for place, row in enumerate(writer.shard_rows(shard)):
        if (shard, place) == (shard_to_die_in, sample_to_die_at):
            os.kill(os.getpid(), signal.SIGKILL)
        yield one(samples, row)
for shard in writer.missing():
    writer.write_shard(shard, stream(shard))
writer.finalise()
"""


@pytest.mark.parametrize(("shard", "place"), [(0, 2), (1, 0), (2, 1)])
def test_a_killed_writer_continues_to_the_same_bytes(
    tmp_path: Path, shard: int, place: int
) -> None:
    write(tmp_path / "whole", META)
    path = tmp_path / "killed"
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", KILLED, str(path), str(shard), str(place), here]
    finished = subprocess.run(command, check=False)
    assert finished.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match=r"half written; run the command .* again: it continues"):
        Store(path)
    writer = StoreWriter(path, META)
    assert writer.missing() == list(range(shard, 3))
    with pytest.raises(DataError, match=f"{3 - shard} of 3 shards are not written"):
        writer.finalise()
    assert any(name.endswith(".partial") for name in tree(path))
    store, samples = write(path, META)
    assert tree(path) == tree(tmp_path / "whole")
    assert_same(store.read(np.arange(10), labels=True), samples, np.arange(10))
    assert StoreWriter(path, META).missing() == []


def test_a_shard_without_its_masks_is_written_again(tmp_path: Path) -> None:
    write(tmp_path / "whole", META)
    writer, samples = StoreWriter(tmp_path / "s", META), content(META)
    for shard in range(3):
        writer.write_shard(shard, (one(samples, row) for row in writer.shard_rows(shard)))
    (tmp_path / "s" / "valid" / "c.1.0.0").unlink()
    assert writer.missing() == [1]
    write(tmp_path / "s", META)
    assert tree(tmp_path / "s") == tree(tmp_path / "whole")


def test_order_of_writing_does_not_change_the_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a", META)
    samples = content(META)
    for shard in (2, 0, 1):
        writer = StoreWriter(tmp_path / "b", META)  # as another process would
        writer.write_shard(shard, (one(samples, row) for row in writer.shard_rows(shard)))
    StoreWriter(tmp_path / "b", META).finalise()
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_store_of_other_samples_is_not_continued(tmp_path: Path) -> None:
    write(tmp_path, META)
    with pytest.raises(DataError, match="other samples or settings"):
        StoreWriter(tmp_path, replace(META, fingerprint="other"))
    StoreWriter(tmp_path / "begun", META)
    with pytest.raises(DataError, match="other samples or settings"):
        StoreWriter(tmp_path / "begun", replace(META, seed=1))


def test_wrong_samples_leave_no_shard(tmp_path: Path) -> None:
    writer, samples = StoreWriter(tmp_path, META), content(META)
    good = [one(samples, row) for row in range(4)]
    bad = {
        "3 samples for shard 0": good[:3],
        "is float64": [replace(good[0], pixels=good[0].pixels * 1.0)],
        "is uint16": [replace(good[0], pixels=good[0].pixels[:, 1:])],
        "valid has shape": [replace(good[0], valid=np.ones((11, 5), np.bool_))],
        "labels has shape": [replace(good[0], labels=np.ones((5, 1), np.uint8))],
    }
    for message, given_samples in bad.items():
        with pytest.raises(ValueError, match=message):
            writer.write_shard(0, given_samples)
    assert writer.missing() == [0, 1, 2]
    assert not any(name.endswith(".partial") for name in tree(tmp_path))


def test_damage_names_the_sample(tmp_path: Path) -> None:
    store, _ = write(tmp_path, META)
    path = tmp_path / "pixels" / "c.1.0.0.0"
    data = path.read_bytes()
    damaged = {
        "checksum": data[:-10] + bytes([data[-10] ^ 1]) + data[-9:],
        "shorter than its index": data[:20],
        "a chunk of": data[:4] + bytes([data[4] ^ 1]) + data[5:],
    }
    for reason, content_ in damaged.items():
        path.write_bytes(content_)
        with pytest.raises(DataError, match=rf"pixels row 4: .*{reason}"):
            Store(tmp_path).read(np.array([0, 4]))
    path.unlink()
    with pytest.raises(DataError, match=r"pixels row 5: shard c.1.0.0.0 cannot be read"):
        Store(tmp_path).read(np.array([5]))
    with pytest.raises(DataError, match="there is no row 10"):
        store.read(np.array([0, 10]))
    with pytest.raises(DataError, match="there is no row -1"):
        store.read(np.array([-1]))


def test_what_is_no_store_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no store"):
        Store(tmp_path)
    write(tmp_path, META)
    file = tmp_path / "store.json"
    good = json.loads(file.read_text())
    for bad, reason in [
        ("{", "cannot be read"),
        ("[]", "its entries are not"),
        (json.dumps(good | {"colour": 1}), "its entries are not"),
        (json.dumps({k: v for k, v in good.items() if k != "size"}), "its entries are not"),
        (json.dumps(good | {"version": 2}), "version is 2"),
        (json.dumps(good | {"shard": "many"}), "wrong kind"),
        (json.dumps(good | {"bands": ["red", "red"]}), "distinct"),
        (json.dumps(good | {"num_samples": 11}), "the array is uint16"),
    ]:
        file.write_text(bad)
        with pytest.raises(DataError, match=reason):
            Store(tmp_path)


def test_labels_are_read_only_where_there_are_some(tmp_path: Path) -> None:
    store, _ = write(tmp_path / "with", META)
    assert store.read(np.array([1])).labels is None
    assert store.read(np.array([1]), labels=True).labels is not None
    store, _ = write(tmp_path / "without", replace(META, classes=()))
    with pytest.raises(DataError, match="no dense labels"):
        store.read(np.array([1]), labels=True)


def test_meta_knows_its_folder_and_its_nan(tmp_path: Path) -> None:
    assert META.group_name == "toy-2x5x11-uint16"
    assert samples_per_shard(6, (96, 96), "uint16") == 2427
    assert samples_per_shard(1, (4096, 4096, 64), "float32") == 1
    meta = replace(META, nodata=float("nan"), dtype="float32", num_samples=0)
    store, _ = write(tmp_path, meta)
    assert str(store.meta.nodata) == "nan"
    assert StoreWriter(tmp_path, meta).missing() == []


def test_real_scenes_with_labels_come_back(samples: Path, tmp_path: Path) -> None:
    with np.load(samples / "satellite" / "cloudmask" / "landsat5.npz") as file:
        image, mask = file["img"], file["msk"][..., 0]
    corners = [(row, col) for row in range(0, 512, 128) for col in range(0, 512, 128)]
    tiles = [
        Sample(
            image[r : r + 128, c : c + 128].transpose(2, 0, 1), None, mask[r : r + 128, c : c + 128]
        )
        for r, c in corners
    ]
    meta = replace(
        META,
        bands=("blue", "green", "red", "nir", "swir1", "swir2"),
        scale=(1.0,) * 6,
        offset=(0.0,) * 6,
        size=(128, 128),
        dtype="float32",
        num_samples=16,
        classes=tuple(f"class {i}" for i in range(int(mask.max()) + 1)),
    )
    writer = StoreWriter(tmp_path, meta)
    for shard in writer.missing():
        writer.write_shard(shard, (tiles[row] for row in writer.shard_rows(shard)))
    found = writer.finalise().read(np.arange(16), labels=True)
    assert found.labels is not None
    for row, tile in enumerate(tiles):
        np.testing.assert_array_equal(found.pixels[row], tile.pixels)
        np.testing.assert_array_equal(found.labels[row], tile.labels)
    # Tiles were views with the bands last; stored, they take less space than in memory.
    files = [p for p in (tmp_path / "pixels").iterdir() if p.name != "zarr.json"]
    assert len(files) == writer.num_shards
    assert sum(p.stat().st_size for p in files) < image.nbytes
