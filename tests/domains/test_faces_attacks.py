"""Simulated attacks and degradations: they do what their names say, and the same every time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mimkit.core.errors import UsageError
from mimkit.domains.faces.attacks import ATTACKS, screen, simulate
from mimkit.domains.faces.degradations import DEGRADATIONS, degrade


def pictures(size: int = 96) -> np.ndarray:
    """Return two smooth colour pictures, (2, 3, h, w)."""
    y, x = np.mgrid[:size, :size] / size
    first = np.stack([0.3 + 0.4 * x, 0.5 - 0.2 * y, 0.4 + 0.2 * x * y])
    return (np.stack([first, first[::-1]]) * 255).astype(np.uint8)


def roughness(images: np.ndarray) -> float:
    return float(np.abs(np.diff(images.astype(float), axis=-1)).mean())


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_called_simulated_and_depend_on_the_seed_alone(name: str) -> None:
    assert name.startswith("simulated ")
    images = pictures()
    one = simulate(name, images, np.array([5, 6]))
    assert one.shape == images.shape
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one[1:], simulate(name, images[1:], np.array([6])))
    assert not np.array_equal(one[1:], simulate(name, images[1:], np.array([7])))
    assert np.abs(one.astype(int) - images).mean() > 4


def test_a_print_has_dots_a_screen_has_beats_a_reflection_has_light() -> None:
    images, seeds = pictures(), np.array([1, 2])
    made = {name: simulate(name, images, seeds) for name in ATTACKS}
    assert roughness(made["simulated print"]) > 3 * roughness(images)
    # Dots keep the mean: paper and ink map 0..1 to 0.08..0.93.
    wanted = 255 * (0.08 + 0.85 * images.mean() / 255)
    assert made["simulated print"].mean() == pytest.approx(wanted, abs=6)
    # The beat of the two grids is much coarser than the grids: a peak at a low frequency.
    rows = made["simulated moire"][0, 1].astype(float) - images[0, 1]
    spectrum = np.abs(np.fft.rfft2(rows - rows.mean()))[:48]
    peak = np.unravel_index(spectrum.argmax(), spectrum.shape)
    assert 1 <= math.hypot(*map(int, peak)) <= 20
    assert made["simulated reflection"].max() > images.max() + 20


def test_a_screen_reproduces_every_grey() -> None:
    thresholds = screen(120, 120, 11.0, 15.0)
    for grey in (0.1, 0.5, 0.8):
        assert (thresholds < grey).mean() == pytest.approx(grey, abs=1e-3)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_degradations_grow_with_their_strength(name: str) -> None:
    images, seeds = pictures(), np.array([0, 1])
    texture = np.random.default_rng(0).integers(-20, 21, images.shape)
    images = (images + texture).astype(np.uint8)
    strengths = DEGRADATIONS[name].strengths
    harm = [np.abs(degrade(name, s, images, seeds).astype(int) - images).mean() for s in strengths]
    assert harm[0] < 8.0  # JPEG takes colour at half the resolution
    rising = harm[: 4 if name == "brightness" else None]  # it gets dark, and then bright
    assert rising == sorted(rising)
    assert harm[-1] > 0.5
    grey = degrade(name, strengths[-1], images[:, :1], seeds)
    assert grey.shape == (2, 1, 96, 96)


def test_names_and_number_types_are_checked() -> None:
    with pytest.raises(UsageError, match="use some of jpeg"):
        degrade("rain", 1.0, pictures(), np.array([0, 1]))
    with pytest.raises(UsageError, match="are uint16 in 3 channels"):
        degrade("blur", 1.0, pictures().astype(np.uint16), np.array([0, 1]))
    with pytest.raises(UsageError, match="use one of simulated print"):
        simulate("mask", pictures(), np.array([0, 1]))
