"""Masks that follow regions: those of the loop over images, and the paper's variants."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_fsfm import GRID, faces, hidden, make_fsfm, maps_of, step
from torch import Tensor

from mimkit.core.batch import Batch, Progress
from mimkit.core.masking.facial import CLASSES, FACE
from mimkit.core.masking.region_maps import (
    COVERED,
    RegionMask,
    token_classes,
    token_regions,
)
from mimkit.core.noise import FixedNoise, Noise
from mimkit.core.tokens import membership
from mimkit.pipelines.benchmarks.region_masks import LoopMask, face_maps, region_context

NAMES = [region.name for region in FACE.regions]


def members(batch: Batch) -> Tensor:
    bits = token_classes(maps_of(batch), GRID.patch, len(CLASSES))
    return token_regions(bits, FACE.regions)


def rows_of(scope: Tensor, choice: Tensor) -> Tensor:
    """Return how many tokens of a scope are chosen, per sample."""
    return (scope & choice).sum(dim=1)


@pytest.mark.parametrize("drawn", range(FACE.num_drawn))
@pytest.mark.parametrize(
    ("size", "patch", "ratio"),
    [(64, 4, 0.75), (42, 6, 0.5), (60, 12, 0.75), (112, 16, 0.6), (64, 8, 0.1)],
)
def test_masks_are_those_of_the_loop(drawn: int, size: int, patch: int, ratio: float) -> None:
    num, num_tokens = 24, (size // patch) ** 2
    random = torch.Generator().manual_seed(drawn)
    maps = face_maps(num, size, seed=drawn)
    maps[::3] = (
        torch.randint(0, 11, (8, size // patch, size // patch), generator=random)
        .to(torch.int8)
        .repeat_interleave(patch, 1)
        .repeat_interleave(patch, 2)
    )
    noise = torch.rand(num, num_tokens, generator=random)
    num_hidden = round(num_tokens * ratio)
    draws = FixedNoise({"mask": noise, "region": torch.tensor([(drawn + 0.5) / FACE.num_drawn])})
    strategy = RegionMask(num_tokens - num_hidden, num_hidden, FACE, shared_draw=True)
    plan = strategy(region_context(maps, patch, draws))
    wanted, region = LoopMask(num_hidden, patch)(maps, drawn, noise)
    assert torch.equal(membership(plan.predict, num_tokens), wanted)
    assert torch.equal(plan.subsets[COVERED], region)
    assert torch.equal(membership(plan.visible, num_tokens), ~wanted)


def test_classes_of_tokens_are_counted_pixel_by_pixel() -> None:
    maps = torch.randint(-3, 15, (5, 7, 15), generator=torch.Generator().manual_seed(0))
    for dtype in (torch.int8, torch.int64):
        bits = token_classes(maps.to(dtype), (7, 5), 11)
        assert bits.shape == (5, 3)
        for image in range(5):
            for token in range(3):
                pixels = maps[image, :, 5 * token : 5 * token + 5]
                found = {k for k in range(11) if int(bits[image, token]) >> (k + 1) & 1}
                assert found == {int(k) for k in pixels.unique() if 0 <= k < 11}


def test_each_image_loses_a_region_that_it_shows() -> None:
    batch, num = faces(32), GRID.num_tokens
    output = step(make_fsfm(), batch)
    region, member = output.plan.subsets[COVERED], members(batch)
    assert region.any(dim=1).all()
    assert rows_of(region, hidden(output)).equal(region.sum(dim=1)), "a region is hidden whole"
    drawn = [
        {NAMES[g] for g in range(8) if torch.equal(region[i], member[i, g])} for i in range(32)
    ]
    assert all(names & set(NAMES[: FACE.num_drawn]) for names in drawn)
    assert len(set.union(*drawn)) >= 4, "images lose different regions"
    without_hair = maps_of(batch).masked_fill(maps_of(batch) == 10, 0)
    bald = step(make_fsfm(), replace(batch, regions=without_hair)).plan.subsets[COVERED]
    assert bald.any(dim=1).all()
    assert hidden(output).sum(dim=1).tolist() == [num * 3 // 4] * 32


def test_a_batch_shares_its_region_as_published() -> None:
    batch = faces(8)
    maps_of(batch)[0].clamp_max_(1)  # a face of skin
    draws = FixedNoise({"region": torch.tensor([2.5 / 6])})
    output = make_fsfm(as_published=True)(batch, Progress(0.0, 10), draws)
    assert torch.equal(output.plan.subsets[COVERED], members(batch)[:, NAMES.index("nose")])
    assert not output.plan.subsets[COVERED][0].any()
    assert output.loss.isfinite()


@pytest.mark.parametrize("masking", ["crfr-p", "crfr-r", "frp", "fasking-i", "random"])
def test_variants_differ_in_what_is_hidden(masking: str) -> None:
    batch = faces(64)
    method = make_fsfm(masking=masking)
    output = step(method, batch)
    chosen, member = hidden(output), members(batch)
    assert chosen.sum(dim=1).tolist() == [48] * 64
    covering = masking.startswith("crfr")
    assert ("region" in output.terms) == covering
    region = output.plan.subsets.get(COVERED, torch.zeros_like(chosen))
    assert region.any(dim=1).all() == covering
    if masking == "fasking-i":
        parts = member[:, [0, 1, 2, 3, 5]].any(dim=1)
        full = parts.sum(dim=1) <= 48
        assert full.any()
        assert (chosen | ~parts)[full].all(), "facial parts come first"
        return
    claimed = member[:, NAMES.index("boundary")] | member[:, : NAMES.index("boundary")].any(dim=1)
    background = member[:, NAMES.index("background")] & ~claimed & ~region
    background &= ~member[:, NAMES.index("hair")]
    large = background.sum(dim=1) > 8
    share = rows_of(chosen, ~region) / (~region).sum(dim=1)
    apart = (rows_of(chosen, background) / background.sum(dim=1) - share)[large].abs().mean()
    assert (apart < 0.04) == (masking in ("crfr-p", "frp")), "every region gives the same share"


@pytest.mark.parametrize("masking", ["crfr-p", "crfr-r", "frp", "fasking-i"])
def test_without_a_map_any_token_is_hidden(masking: str) -> None:
    method, batch = make_fsfm(masking=masking), faces(regions=False)
    output = step(method, batch)
    empty = replace(batch, regions=torch.zeros(4, 32, 32, dtype=torch.int8))
    other = step(method, empty)
    assert torch.equal(output.plan.predict, other.plan.predict)
    assert float(output.terms.get("region", torch.zeros(())).detach()) == 0.0
    many = method.context(faces(800, regions=False), Progress(0.0, 10), Noise(0))
    often = membership(method.mask(many).predict, GRID.num_tokens).float().mean(dim=0)
    assert (often - 0.75).abs().max() < 0.08, "all tokens alike"


def test_a_region_larger_than_the_budget_is_hidden_in_part() -> None:
    batch = replace(faces(), regions=torch.full((4, 32, 32), 10))
    output = step(make_fsfm(mask_ratio=0.25), batch)
    assert hidden(output).sum(dim=1).tolist() == [16] * 4
    assert torch.equal(output.plan.subsets[COVERED], hidden(output))
    assert torch.equal(output.terms["region"], output.terms["pixels"])


def test_absent_tokens_are_hidden_and_of_no_region() -> None:
    batch = faces(6)
    valid = torch.ones(6, 32, 32, dtype=torch.bool)
    valid[:, :, :12] = False
    output = step(make_fsfm(), replace(batch, valid=valid))
    absent = output.plan.absent
    assert absent is not None
    assert not (output.plan.subsets[COVERED] & absent).any()
    assert not absent.gather(1, output.plan.visible).any()
    assert hidden(output).sum(dim=1).tolist() == [48] * 6
    assert (hidden(output) | ~absent).all()
