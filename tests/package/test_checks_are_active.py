"""The other tests rely on signatures being checked while they run."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from mimkit.core.tokens import take


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(Exception, match="Type-check"):
        take(torch.zeros(3, 4), torch.zeros(2, 1, dtype=torch.long))


def test_an_int_may_stand_for_a_float_and_a_string_may_not() -> None:
    @import_module("signature_check").check
    def half(x: float) -> float:
        return x / 2

    assert half(1) == 0.5
    with pytest.raises(Exception, match="float"):
        half("1")  # pyright: ignore[reportArgumentType]
