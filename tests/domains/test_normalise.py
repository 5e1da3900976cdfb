"""Counts and the normaliser that is made of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimkit.core.errors import UsageError
from mimkit.datasets.errors import DataError
from mimkit.datasets.store import StoreMeta
from mimkit.domains.imaging.normalise import Normaliser, fit_normaliser
from mimkit.domains.imaging.statistics import Statistics


def store_meta(dtype: str = "uint16", scale: float = 1e-4, offset: float = 0.0) -> StoreMeta:
    return StoreMeta(
        domain="satellite",
        sensor="test",
        bands=("red", "nir"),
        size=(8, 8),
        dtype=dtype,
        scale=(scale, scale),
        offset=(offset, offset),
        num_samples=1,
        shard=1,
        units="reflectance",
    )


def pixels(dtype: str = "uint16", num: int = 8, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.gamma(4.0, 300.0, (num, 2, 8, 8)).clip(0, 6000)
    return values.astype(dtype) if dtype[0] in "iu" else (values / 1e4).astype(dtype)


@given(
    cuts=st.lists(st.integers(1, 19), max_size=5),
    order=st.randoms(use_true_random=False),
    dtype=st.sampled_from(["uint8", "int16", "uint16", "int32", "float32", "float64"]),
)
def test_any_split_over_workers_gives_the_same_bits(cuts, order, dtype) -> None:
    images = pixels("float64", num=20) * 100
    images = (images * 100).clip(0, 250).astype(dtype)
    valid = np.random.default_rng(1).random((20, 8, 8)) > 0.3
    meta = store_meta(dtype)
    whole = fit_normaliser(meta, [(images, valid)])
    edges = [0, *sorted(set(cuts)), 20]
    parts = []
    for start, stop in pairwise(edges):
        part = Statistics(2, dtype)
        part.update(images[start:stop], valid[start:stop])
        parts.append(Statistics.from_dict(part.to_dict()))
    order.shuffle(parts)
    total = Statistics(2, dtype)
    for part in parts:
        total.merge(part)
    assert Normaliser.from_statistics(total, meta) == whole


@pytest.mark.parametrize(("dtype", "scale"), [("uint16", 1e-4), ("int16", 1e-4), ("float32", 1.0)])
def test_numbers_are_those_of_numpy(dtype: str, scale: float) -> None:
    images = pixels(dtype, num=64)
    made = fit_normaliser(store_meta(dtype, scale, -0.05), [(images, None)])
    physical = images.astype(np.float64) * scale - 0.05
    tolerance = 1e-9 if dtype != "float32" else 3e-4
    for band in range(2):
        values = physical[:, band].ravel()
        ends = np.quantile(values, (0.005, 0.995), method="inverted_cdf")
        assert np.allclose((made.low[band], made.high[band]), ends, atol=tolerance, rtol=0)
        clipped = values.clip(*ends)
        assert np.isclose(made.mean[band], clipped.mean(), atol=tolerance * 0.1 + 1e-12)
        assert np.isclose(made.std[band], clipped.std(), rtol=tolerance + 1e-9)


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40)
)
def test_floats_keep_their_order_and_size_in_counts(values: list[float]) -> None:
    column = np.array(values, np.float32)
    counted = Statistics(1, "float32")
    counted.update(column[:, None, None])
    seen = np.flatnonzero(counted.counts[0])
    found = counted.values()[seen].repeat(counted.counts[0][seen])
    normal = np.abs(column) >= np.finfo(np.float32).tiny
    expected = np.sort(np.where(normal, column, 0).astype(np.float64))
    assert np.allclose(found, expected, rtol=5e-4, atol=1e-37)


def test_negative_scale_turns_the_ends() -> None:
    made = fit_normaliser(store_meta(scale=-1e-4), [(pixels(), None)])
    assert all(low < high for low, high in zip(made.low, made.high, strict=True))
    assert float(made(pixels()).mean().abs()) < 0.05


def test_standardised_and_back() -> None:
    images = pixels(num=32)
    made = fit_normaliser(store_meta(offset=-0.1), [(images, None)])
    values = made(images)
    assert values.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert (values.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3
    physical = made.physical(images)
    assert np.allclose(physical, images * 1e-4 - 0.1, atol=1e-6)
    low, high = (torch.tensor(e).reshape(1, 2, 1, 1) for e in (made.low, made.high))
    clipped = torch.minimum(torch.maximum(physical, low), high)
    assert torch.allclose(made.denormalise(values), clipped, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_arrays_and_tensors_of_every_type_agree(dtype: str) -> None:
    images = (pixels("uint16") % 250).astype(dtype)
    made = fit_normaliser(store_meta(dtype), [(images, None)])
    before = images.copy()
    images.flags.writeable = False
    valid = np.random.default_rng(2).random((8, 8, 8)) > 0.5
    by_array = made(images, valid)
    by_tensor = made(torch.from_numpy(images.copy()), torch.from_numpy(valid))
    assert torch.equal(by_array, by_tensor)
    assert np.array_equal(images, before)
    exact = fit_normaliser(store_meta("uint16"), [(images.astype("uint16"), None)])
    assert torch.allclose(exact(images, valid), by_array, atol=5e-3)


def test_volumes_are_images_too() -> None:
    made = fit_normaliser(store_meta(), [(pixels(), None)])
    volume = np.stack([pixels(seed=s) for s in range(3)], axis=2)
    assert torch.equal(made(volume)[:, :, 1], made(pixels(seed=1)))


def test_nothing_invalid_gets_through() -> None:
    images = pixels("float32")
    made = fit_normaliser(store_meta("float32", 1.0), [(images, None)])
    for bad in (np.nan, np.inf, -np.inf):
        broken = images.copy()
        broken[:, 0, 0, 0] = bad
        assert bool((made(broken)[:, 0, 0, 0] == 0).all())
        assert bool(torch.isfinite(made(broken)).all())
        assert fit_normaliser(store_meta("float32", 1.0), [(broken, None)]).mean[1] == made.mean[1]
    valid = np.ones((8, 8, 8), bool)
    valid[:, 3] = False
    filled = images.copy()
    filled[:, :, 3] = 1e30
    assert bool((made(filled, valid)[:, :, 3] == 0).all())
    clean = np.delete(images, 3, axis=2)
    meta = store_meta("float32", 1.0)
    assert fit_normaliser(meta, [(filled, valid)]) == fit_normaliser(meta, [(clean, None)])


def test_outliers_are_clipped() -> None:
    images = pixels(num=64)
    made = fit_normaliser(store_meta(), [(images, None)])
    spoilt = images.copy()
    spoilt[0, 0, 0, 0] = 65535
    assert fit_normaliser(store_meta(), [(spoilt, None)]).std[0] == pytest.approx(
        made.std[0], rel=1e-2
    )
    assert float(made(spoilt)[0, 0, 0, 0]) < 5


def test_a_band_of_one_value_becomes_zero() -> None:
    images = pixels()
    images[:, 1] = 77
    made = fit_normaliser(store_meta(), [(images, None)])
    assert bool((made(images)[:, 1] == 0).all())
    assert bool(torch.isfinite(made(images)).all())


def test_chunks_of_another_type_are_refused() -> None:
    counted = Statistics(2, "uint16")
    with pytest.raises(ValueError, match="float32 with 2 bands for statistics of 2 bands"):
        counted.update(pixels("float32"))
    with pytest.raises(ValueError, match="cannot be added"):
        counted.merge(Statistics(3, "uint16"))


def test_wrong_number_of_channels_is_an_answer() -> None:
    made = fit_normaliser(store_meta(), [(pixels(), None)])
    with pytest.raises(UsageError, match="have 1 channels, and the normaliser is for 2"):
        made(pixels()[:, :1])
    with pytest.raises(UsageError, match="has blue besides"):
        made.check_bands(("red", "nir", "blue"))
    with pytest.raises(UsageError, match="std must be positive"):
        replace(made, std=(0.0, 1.0))


def test_numbers_of_another_scale_are_refused() -> None:
    digital, physical = pixels("uint16"), pixels("float32")
    by_digital = fit_normaliser(store_meta(), [(digital, None)])
    by_physical = fit_normaliser(store_meta("float32", 1.0), [(physical, None)])
    by_digital.check_values(digital)
    by_physical.check_values(physical)
    with pytest.raises(DataError, match=r"scene.tif: .* look like digital numbers"):
        by_physical.check_values(digital, subject="scene.tif")
    with pytest.raises(DataError, match="look like reflectance already"):
        by_digital.check_values(physical)
    dark = np.zeros_like(digital)
    by_digital.check_values(dark)
    by_physical.check_values(digital, np.zeros((8, 8, 8), bool))  # nothing valid, nothing wrong


def test_a_stated_scale_must_be_the_normalisers() -> None:
    made = fit_normaliser(store_meta(), [(pixels(), None)])
    made.check_scale((1.0, 1.0), (0.0, 0.0))  # nothing is stated
    made.check_scale((1e-4, 1.0), (0.0, 0.0))
    with pytest.raises(
        DataError, match=r"a.tif: states scale and offset \(1.0, -0.1\) for band nir"
    ):
        made.check_scale((1e-4, 1.0), (0.0, -0.1), "a.tif")


def test_eight_bits_of_sixteen_are_refused() -> None:
    made = fit_normaliser(store_meta(), [(pixels(), None)])
    with pytest.raises(
        DataError, match=r"a.tif: holds numbers up to 255, too small for reflectance"
    ):
        made.check_values((pixels() // 24).astype("uint8"), subject="a.tif")
    small = fit_normaliser(store_meta("uint8"), [((pixels() // 24).astype("uint8"), None)])
    small.check_values((pixels(seed=1) // 24).astype("uint8"))
