"""Perceptual hashes and the search for look-alikes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimkit.domains.curation.phash import (
    duplicate_groups,
    hamming,
    near_pairs,
    perceptual_hash,
)


def texture(seed: int, size: int = 64, num_bands: int = 3) -> np.ndarray:
    """Return smooth noise, (c, size, size) uint16."""
    noise = np.random.default_rng(seed).normal(size=(num_bands, 8, 8))
    return (1000 + 200 * np.kron(noise, np.ones((size // 8, size // 8)))).astype(np.uint16)


def distance(first: int | None, second: int | None) -> int:
    assert first is not None
    assert second is not None
    return int(hamming(np.array([first], np.uint64), np.array([second], np.uint64))[0])


def test_a_stretched_noisy_copy_is_near_and_another_picture_is_far() -> None:
    valid = np.ones((64, 64), bool)
    image = texture(0)
    noise = np.random.default_rng(9).normal(0, 5, image.shape)
    copy = (1.3 * image + 17 + noise).astype(np.float32)
    assert distance(perceptual_hash(image, valid), perceptual_hash(copy, valid)) <= 4
    others = [perceptual_hash(texture(seed), valid) for seed in range(1, 20)]
    assert min(distance(perceptual_hash(image, valid), other) for other in others) > 12


def test_size_does_not_matter() -> None:
    small, large = texture(3, 64), texture(3, 128)
    first = perceptual_hash(small, np.ones((64, 64), bool))
    second = perceptual_hash(large, np.ones((128, 128), bool))
    assert distance(first, second) <= 2


def test_pixels_without_data_do_not_count() -> None:
    image, valid = texture(1), np.ones((64, 64), bool)
    valid[:10] = False
    changed = image.copy()
    changed[:, :10] = 60000
    assert perceptual_hash(image, valid) == perceptual_hash(changed, valid)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_tiles_without_structure_have_no_hash(share: float) -> None:
    flat = np.full((2, 32, 32), 7, np.uint8)
    assert perceptual_hash(flat, np.full((32, 32), bool(share))) is None


@given(st.integers(0, 2**32), st.integers(0, 8), st.integers(2, 60))
def test_the_bucket_search_finds_what_comparing_all_pairs_finds(
    seed: int, threshold: int, num: int
) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**63, num, dtype=np.uint64)
    flips = [np.bitwise_xor.reduce(1 << rng.integers(0, 64, 5, dtype=np.uint64)) for _ in base]
    hashes = np.unique(np.concatenate([base, base ^ np.array(flips, np.uint64)]))
    every = hamming(hashes[:, None], hashes[None]) <= threshold
    expected = np.argwhere(np.triu(every, 1))
    np.testing.assert_array_equal(near_pairs(hashes, threshold), expected)


def test_groups_are_chains_named_after_their_first_member() -> None:
    hashes = [0b0000, None, 0b0001, 0b0011, 2**60 - 1, 0b0000, None]
    assert duplicate_groups(hashes, 1).tolist() == [0, 1, 0, 0, 4, 0, 6]
    assert duplicate_groups(hashes, 0).tolist() == [0, 1, 2, 3, 4, 0, 6]
    assert duplicate_groups([], 4).tolist() == []


def test_large_archives_do_not_need_all_pairs() -> None:
    hashes = np.unique(np.random.default_rng(0).integers(0, 2**63, 50_000, dtype=np.uint64))
    hashes[1] = hashes[0] ^ np.uint64(1 << 40)
    hashes = np.sort(hashes)
    pairs = near_pairs(hashes, 4)
    assert len(pairs) == 1
    assert hamming(hashes[pairs[:, 0]], hashes[pairs[:, 1]]).tolist() == [1]
