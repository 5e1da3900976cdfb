"""Geographic splits, buffers and the measured distance between parts."""

import numpy as np
import pytest

from mimkit.domains.curation.split import (
    SPLITS,
    Footprints,
    cell_of,
    draw_splits,
    min_gap_km,
    within,
)

KM = 111.195


def ground(points: list[tuple[float, float]], side: float = 1.0) -> Footprints:
    lon, lat = np.array(points, float).reshape(-1, 2).T
    return Footprints(lon, lat, np.full(len(lon), side))


def test_a_cell_is_as_wide_as_it_is_high_everywhere() -> None:
    for lat in (0.0, 45.0, 70.0):
        names = {cell_of(lon, lat, 10) for lon in np.arange(0, 2, 0.001)}
        width = 2 * KM * np.cos(np.radians(lat)) / (len(names) - 1)
        assert width == pytest.approx(10, rel=0.1)


def test_shares_follow_the_fractions_and_nothing_but_name_and_seed() -> None:
    units = [f"cell{i}" for i in range(3000)]
    parts = draw_splits(units, seed=1, fractions=(0.7, 0.1, 0.2))
    share = {s: sum(p == s for p in parts.values()) / 3000 for s in SPLITS}
    assert share["train"] == pytest.approx(0.7, abs=0.03)
    assert share["test"] == pytest.approx(0.2, abs=0.03)
    more = draw_splits([*units, "new"], seed=1, fractions=(0.7, 0.1, 0.2))
    assert {u: more[u] for u in units} == parts
    assert draw_splits(units, seed=2, fractions=(0.7, 0.1, 0.2)) != parts


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("num", "wanted"), [(1, "t"), (2, "te"), (3, "tev"), (7, "tev")])
def test_few_units_leave_no_part_empty(seed: int, num: int, wanted: str) -> None:
    names = {"t": "train", "e": "test", "v": "val"}
    parts = draw_splits([f"u{i}" for i in range(num)], seed, (0.8, 0.1, 0.1))
    assert set(parts.values()) == {names[letter] for letter in wanted}


@pytest.mark.parametrize("seed", range(10))
def test_the_largest_of_few_units_is_for_training(seed: int) -> None:
    units = ["small"] * 4 + ["large"] * 16
    assert draw_splits(units, seed, (0.8, 0.1, 0.1)) == {"small": "test", "large": "train"}


def test_a_part_of_share_zero_gets_nothing() -> None:
    parts = draw_splits([f"u{i}" for i in range(50)], 0, (0.8, 0.0, 0.2))
    assert set(parts.values()) == {"train", "test"}


def test_touching_squares_are_apart_and_overlapping_ones_are_not() -> None:
    first = ground([(10.0, 0.0)])
    touching, overlapping = ground([(10 + 1 / KM, 0.0)]), ground([(10 + 0.8 / KM, 0.3 / KM)])
    assert not within(first, touching, 0.0).any()
    assert within(first, overlapping, 0.0).all()
    assert within(first, touching, 0.5).all()
    assert min_gap_km(first, touching) == 0.0


def test_distance_on_the_ground_at_high_latitude_and_over_the_date_line() -> None:
    first = ground([(179.99, 60.0)])
    second = ground([(-179.99, 60.0)])
    expected = 0.02 * KM * 0.5 - 1.0
    assert min_gap_km(first, second) == pytest.approx(expected, abs=0.01)
    assert within(first, second, expected + 0.1).all()
    assert not within(first, second, expected - 0.1).any()


def test_tiles_without_position_are_near_nothing() -> None:
    nowhere = ground([(np.nan, np.nan)])
    assert not within(nowhere, nowhere, 5.0).any()
    assert min_gap_km(nowhere, ground([(0.0, 0.0)])) is None
    assert min_gap_km(ground([]), ground([(0.0, 0.0)])) is None


def test_within_agrees_with_comparing_all_pairs() -> None:
    rng = np.random.default_rng(0)
    first = ground([tuple(p) for p in rng.uniform(0, 0.3, (60, 2))])
    second = ground([tuple(p) for p in rng.uniform(0, 0.3, (20, 2))])
    dx = np.abs(first.lon[:, None] - second.lon) * KM
    dy = np.abs(first.lat[:, None] - second.lat) * KM
    expected = (np.maximum(dx, dy) - 1 < 2 - 0.02).any(axis=1)
    np.testing.assert_array_equal(within(first, second, 2.0), expected)
