"""Quality numbers of tiles."""

import numpy as np
import pytest

from mimkit.domains.satellite.quality import Quality, cloudy, measure

SCALE, OFFSET = np.array([2e-5, 2e-5, 2e-5]), np.array([-0.1, -0.1, -0.1])


def stored(reflectance: np.ndarray) -> np.ndarray:
    return np.round((reflectance + 0.1) / 2e-5).astype(np.uint16)


def test_numbers_are_in_physical_units() -> None:
    rng = np.random.default_rng(0)
    reflectance = rng.uniform(0.05, 0.25, (3, 40, 40))
    quality = measure(stored(reflectance), np.ones((40, 40), bool), scale=SCALE, offset=OFFSET)
    assert quality.mean == pytest.approx(reflectance.mean(), abs=1e-5)
    assert quality.std == pytest.approx(reflectance.std(axis=(1, 2)).mean(), abs=1e-5)
    assert quality.contrast == pytest.approx((quality.std or 0) / (quality.mean or 1))
    assert 6 < (quality.entropy or 0) < 8
    assert quality.cloud is None


def test_pixels_without_data_do_not_count() -> None:
    reflectance = np.full((3, 20, 20), 0.1)
    reflectance[:, 0] = 0.3
    valid = np.ones((20, 20), bool)
    valid[0] = False
    quality = measure(stored(reflectance), valid, scale=SCALE, offset=OFFSET)
    assert quality.valid == pytest.approx(0.95)
    assert quality.mean == pytest.approx(0.1, abs=1e-5)
    assert quality.contrast == 0.0
    assert quality.entropy == 0.0


def test_a_tile_without_data_has_only_its_share() -> None:
    nothing = np.zeros((20, 20), bool)
    assert measure(np.zeros((3, 20, 20)), nothing, scale=SCALE, offset=OFFSET) == Quality(0.0)


def test_saturated_pixels_are_at_the_end_of_the_number_range() -> None:
    pixels = np.full((3, 10, 10), 100, np.uint8)
    pixels[1, :2] = 255
    full = np.ones((10, 10), bool)
    assert measure(pixels, full, scale=SCALE, offset=OFFSET).saturated == pytest.approx(0.2)


def test_cloud_is_bright_and_white_and_hazy() -> None:
    #                    cloud  land  red soil  cloud shadow  clear blue lake
    visible = np.array([[0.45, 0.08, 0.15, 0.04, 0.12],
                        [0.46, 0.10, 0.25, 0.03, 0.06],
                        [0.47, 0.09, 0.45, 0.02, 0.03]])  # fmt: skip
    assert cloudy(visible).tolist() == [True, False, False, False, False]


def test_the_cloud_test_agrees_with_reference_masks(samples) -> None:
    for name, recall, precision in [("landsat5", 0.7, 0.9), ("sentinel2", 0.85, 0.8)]:
        scene = np.load(samples / "satellite" / "cloudmask" / f"{name}.npz")
        found = cloudy(np.moveaxis(scene["img"][..., :3], -1, 0))
        truth = scene["msk"][..., 0] == 4
        assert found[truth].mean() > recall
        assert truth[found].mean() > precision
