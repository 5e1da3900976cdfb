"""Plain data to trees of dataclasses: round trips and errors that name the field."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimkit.core.config_tree import from_plain, to_plain
from mimkit.core.errors import UsageError
from mimkit.core.methods import EncoderConfig, MAEConfig, MethodConfig, SelectiveMAEConfig


@dataclass(frozen=True, kw_only=True)
class Leaf:
    rate: float = 1e-4
    steps: int = 3
    kind: Literal["a", "b"] = "a"
    path: Path | None = None
    pair: tuple[float, float] = (0.9, 0.95)
    names: tuple[str, ...] = ()
    on: bool = True


@dataclass(frozen=True, kw_only=True)
class Tree:
    method: MethodConfig
    leaf: Leaf = field(default_factory=Leaf)
    extra: dict[str, int] = field(default_factory=dict)


@given(
    st.builds(
        Leaf,
        rate=st.floats(allow_nan=False, allow_infinity=False),
        steps=st.integers(),
        names=st.lists(st.text(max_size=4)).map(tuple),
        on=st.booleans(),
    )
)
def test_round_trip(leaf: Leaf) -> None:
    assert from_plain(Leaf, to_plain(leaf)) == leaf


@pytest.mark.parametrize("method", [MAEConfig(mask_ratio=0.6), SelectiveMAEConfig(num_rounds=4)])
def test_a_union_is_told_apart_by_name(method: MethodConfig) -> None:
    tree = Tree(method=method, extra={"x": 1})
    assert from_plain(Tree, to_plain(tree)) == tree


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"method": {"name": "mae", "mask_rato": 1}}, r"recipe\.method\.mask_rato.*'mask_ratio'"),
        ({"method": {"name": "may"}}, r"recipe\.method\.name: is 'may'; use one of .*\bmae,"),
        ({}, r"recipe\.method: is missing"),
        ({"method": {"name": "mae"}, "leaf": {"rate": "fast"}}, r"leaf\.rate.*not a number"),
        ({"method": {"name": "mae"}, "leaf": {"steps": 1.5}}, r"leaf\.steps: is 1\.5"),
        ({"method": {"name": "mae"}, "leaf": {"steps": True}}, r"leaf\.steps: is True"),
        ({"method": {"name": "mae"}, "leaf": {"kind": "c"}}, r"leaf\.kind: is 'c'; use one of a"),
        ({"method": {"name": "mae"}, "leaf": {"pair": [1]}}, r"leaf\.pair.*list of 2 values"),
        ({"method": {"name": "mae"}, "leaf": [1]}, r"leaf: is \[1\].*a mapping"),
        ({"method": {"name": "mae"}, "leaf": {"path": 3}}, r"leaf\.path: is 3.*a path"),
        ({"method": {"name": "mae"}, "extra": 3}, r"extra: is 3.*a mapping"),
        ([], r"recipe: is \[\].*a mapping"),
    ],
)
def test_errors_name_field_value_and_fix(data: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_plain(Tree, data)


def test_yaml_numbers_without_a_dot_are_numbers() -> None:
    assert from_plain(Leaf, {"rate": "1e-4"}).rate == 1e-4
    assert isinstance(from_plain(Leaf, {"rate": 1}).rate, float)
    assert from_plain(EncoderConfig, {"mlp_ratio": 2}).mlp_ratio == 2.0
