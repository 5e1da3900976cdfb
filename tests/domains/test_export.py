"""The normaliser as a module gives what the normaliser gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mimkit.domains.domain import ExportModule, get_domain
from mimkit.domains.imaging.export import NormaliserModule
from mimkit.domains.imaging.normalise import Normaliser

OPTICAL = Normaliser(
    domain="satellite",
    sensor="landsat8-oli",
    bands=("B2", "B3", "B4"),
    scale=(2e-5, 2e-5, 4e-5),
    offset=(-0.1, -0.1, 0.1),
    units="reflectance",
    mean=(0.1, 0.12, 0.2),
    std=(0.02, 0.03, 0.05),
    low=(0.05, 0.06, 0.1),
    high=(0.3, 0.3, 0.5),
    nodata=0,
)


def module_of(normaliser: Normaliser) -> ExportModule:
    return get_domain("satellite").export_module(normaliser)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_it_equals_the_normaliser_to_the_bit(dtype: str) -> None:
    stored = np.random.default_rng(0).integers(1, 30_000, (2, 3, 8, 9)).astype(dtype)
    got = module_of(OPTICAL)(torch.from_numpy(stored.astype(np.float32)))
    torch.testing.assert_close(got, OPTICAL(stored), rtol=0, atol=0)
    assert got.std() > 0.3, "not all clipped"


def test_pixels_without_data_become_zero() -> None:
    stored = np.full((1, 3, 4, 4), 9000.0, np.float32)
    stored[0, :, 0, 0] = 0  # all bands say "no data"
    stored[0, 0, 0, 1] = 0  # a dark pixel
    stored[0, 1, 0, 2] = np.nan
    stored[0, 1, 0, 3] = np.inf
    valid = OPTICAL.find_data(stored)
    got = module_of(OPTICAL)(torch.from_numpy(stored))
    torch.testing.assert_close(got, OPTICAL(stored, valid), rtol=0, atol=0)
    assert not got[0, :, 0, [0, 2, 3]].any()
    assert bool((got[0, :, 0, 1] != 0).all())
    kept = module_of(replace(OPTICAL, nodata=None))(torch.from_numpy(stored))
    assert bool(kept[0, :, 0, 0].all()), "without a nodata number zero is a value"


def test_it_goes_back_to_stored_numbers() -> None:
    module = module_of(OPTICAL)
    assert isinstance(module, NormaliserModule)
    inside = torch.rand(2, 3, 4, 4) - 0.5
    torch.testing.assert_close(module(module.invert(inside)), inside, rtol=1e-4, atol=1e-4)
