"""Plans, scores and the curriculum."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimkit.core.batch import Batch, Progress
from mimkit.core.context import Context, make_context
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid, patchify
from mimkit.core.masking.plan import check_counts, count, plan_from_scores
from mimkit.core.masking.progressive import Curriculum, SimilarityProgressive
from mimkit.core.masking.strategies import BlockMask, RandomMask, UnitMask
from mimkit.core.methods import MAEConfig, SelectiveMAEConfig
from mimkit.core.noise import FixedNoise, Noise
from mimkit.core.tokens import membership, take


def context(
    grid: Grid, images: torch.Tensor, seed: int = 0, epoch: float = 0.0, valid=None, noise=None
) -> Context:
    batch = Batch(images, valid, torch.arange(len(images)))
    noise = noise or Noise(seed)
    return make_context(batch, grid, Progress(float(epoch), 800), noise, lambda patches: patches)


def random_context(shape=(6, 8), batch=3, **options) -> Context:
    grid = Grid(shape, (4,) * len(shape), 2)
    images = torch.randn(batch, 2, *grid.image_size, generator=torch.Generator().manual_seed(9))
    return context(grid, images, **options)


@given(st.integers(2, 400), st.floats(0.05, 0.95))
def test_count_is_the_floor_of_the_exact_product(n: int, share: float) -> None:
    exact = n * share
    assert count(n, share) in (int(exact), round(exact))
    assert count(100, 1 - 0.9) == 10, "the published truncation gives 9"


def test_published_and_corrected_counts_of_the_cards() -> None:
    assert MAEConfig(as_published=True).mask_ratio == 0.75
    published = SelectiveMAEConfig(as_published=True).selection(196)
    assert (published.num_seeds, published.num_visible, published.num_predict) == (14, 29, 49)
    assert not SelectiveMAEConfig().selection(196).shared_ranks


@pytest.mark.parametrize("counts", [(0, 4), (4, 0), (8, 9)])
def test_impossible_counts_are_explained(counts: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="do not fit a grid of 16 tokens"):
        check_counts(16, *counts)
    with pytest.raises(UsageError, match="too few to start from"):
        SelectiveMAEConfig(mask_ratio=0.95).selection(32)


@given(st.integers(0, 10_000))
def test_visible_and_predicted_tokens_never_meet(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(4, 20, generator=generator)
    absent = torch.rand(4, 20, generator=generator) < 0.3
    plan = plan_from_scores(scores, 5, 7, absent=absent)
    seen, asked = membership(plan.visible, 20), membership(plan.predict, 20)
    assert not (seen & asked).any()
    assert (seen.sum(1) == 5).all()
    assert (asked.sum(1) == 7).all()
    for row in range(4):
        present = int((~absent[row]).sum())
        assert int((seen[row] & absent[row]).sum()) == max(0, 5 - present)
    assert torch.equal(plan.predict, plan.predict.sort(1).values)


def test_permuting_the_batch_permutes_the_random_mask() -> None:
    noise = torch.rand(3, 48)
    order = torch.tensor([2, 0, 1])
    mask = RandomMask(12, 36)
    plain = mask(random_context(noise=FixedNoise({"mask": noise})))
    turned = mask(random_context(noise=FixedNoise({"mask": noise[order]})))
    assert torch.equal(plain.visible[order], turned.visible)
    assert torch.equal(plain.predict[order], turned.predict)


@pytest.mark.parametrize("shape", [(6, 8), (5, 7), (4, 4, 6)])
@pytest.mark.parametrize("strategy", [UnitMask, BlockMask, RandomMask])
def test_every_strategy_keeps_its_counts_on_any_grid(strategy, shape) -> None:
    extra = {"unit": 2} if strategy is UnitMask else {}
    mask = strategy(num_visible=9, num_predict=20, **extra)
    plan = mask(random_context(shape))
    assert plan.visible.shape == (3, 9)
    assert plan.predict.shape == (3, 20)


def test_units_are_hidden_whole() -> None:
    mask = UnitMask(num_visible=16, num_predict=32, unit=4)
    plan = mask(random_context((8, 12)))
    seen = membership(plan.visible, 96).reshape(3, 2, 4, 3, 4)
    share = seen.float().mean(dim=(2, 4))
    assert set(share.unique().tolist()) == {0.0, 1.0}


def test_blocks_hide_connected_areas() -> None:
    """Neighbours share their fate more often under block masking than under random masking."""
    agreement = {}
    for strategy in (RandomMask, BlockMask):
        plan = strategy(num_visible=72, num_predict=72)(random_context((12, 12), batch=16))
        seen = membership(plan.visible, 144).reshape(16, 12, 12)
        agreement[strategy] = (seen[:, :, 1:] == seen[:, :, :-1]).float().mean()
    assert agreement[BlockMask] > agreement[RandomMask] + 0.2


@pytest.mark.parametrize(
    ("epoch", "stage", "kinds"),
    [
        (0, 1, {"near"}),
        (280, 1, {"near"}),
        (290, 2, {"near", "far"}),
        (300, 3, {"far"}),
        (580, 3, {"far"}),
        (590, 4, {"far", "random"}),
        (600, 5, {"random"}),
        (799, 5, {"random"}),
    ],
)
def test_stages_of_the_card(epoch: int, stage: int, kinds: set[str]) -> None:
    published = Curriculum(280.0, 300.0, 580.0, 600.0, in_epochs=True)
    for curriculum in (published, Curriculum()):
        assert curriculum.stage(Progress(float(epoch), 800)) == stage
        (first, share), rest = curriculum.mix(Progress(float(epoch), 800))
        assert {first, rest} == kinds
        assert share == pytest.approx(0.5 if len(kinds) == 2 else 1.0)


def test_milestones_are_shares_of_any_run() -> None:
    assert Curriculum().stage(Progress(4.0, 10)) == 3
    assert Curriculum(280.0, 300.0, 580.0, 600.0, in_epochs=True).stage(Progress(4.0, 10)) == 1


def clusters() -> Context:
    """Tokens of one sample: eight groups of similar patches."""
    grid = Grid((8, 8), (2, 2), 1)
    centres = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    noise = 0.1 * torch.randn(64, 4, generator=torch.Generator().manual_seed(2))
    patches = centres.repeat_interleave(8, dim=0) + noise
    images = patches.reshape(8, 8, 2, 2).permute(0, 2, 1, 3).reshape(1, 1, 16, 16)
    return context(grid, images)


def expand(mask: SimilarityProgressive, ctx: Context, epoch: float) -> torch.Tensor:
    from dataclasses import replace

    return mask(replace(ctx, progress=Progress(float(epoch), 800))).visible


def test_near_is_more_similar_than_random_than_far() -> None:
    ctx = clusters()
    mask = SimilarityProgressive(16, 4, 16, score="uniform")
    tokens = torch.nn.functional.normalize(patchify(ctx.images, (2, 2)), dim=-1)
    similarity = {}
    for name, epoch in (("near", 0), ("far", 400), ("random", 700)):
        visible = expand(mask, clusters(), epoch)
        seeds, added = take(tokens, visible[:, :4]), take(tokens, visible[:, 4:])
        similarity[name] = float((added @ seeds.mT).amax(-1).mean())
        assert len(set(visible[0].tolist())) == 16
    assert similarity["near"] > similarity["random"] > similarity["far"]


def test_content_score_prefers_edges_and_published_score_does_not() -> None:
    grid = Grid((8, 8), (4, 4), 1)
    images = torch.zeros(64, 1, 32, 32)
    images[:, :, :, 16:] = torch.randn(64, 1, 32, 16)
    busy = torch.arange(64).reshape(8, 8)[:, 4:].flatten()
    shares = {}
    for score in ("hog-energy", "uniform"):
        mask = SimilarityProgressive(12, 6, 12, score=score)
        visible = mask(context(grid, images, epoch=700)).visible[:, :6]
        shares[score] = torch.isin(visible, busy).float().mean()
    assert shares["hog-energy"] > 0.9
    assert 0.35 < shares["uniform"] < 0.65


def test_sampling_is_in_proportion_to_the_score() -> None:
    """Gumbel top-k: the first draw falls on a token with probability p."""
    mask = SimilarityProgressive(4, 2, 4)
    score = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).expand(20_000, 4)
    keys = mask.keys(score, random_context(), "seed")
    first = keys.argmax(dim=1).bincount(minlength=4) / 20_000
    torch.testing.assert_close(first, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.012, rtol=0)


def test_published_random_ranks_are_shared_and_ours_are_not() -> None:
    grid = Grid((8, 8), (2, 2), 1)
    image = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(4))
    images = image.expand(6, 1, 16, 16)
    for shared in (True, False):
        mask = SimilarityProgressive(16, 8, 16, score="hog-energy", draw="top", shared_ranks=shared)
        visible = mask(context(grid, images, epoch=700)).visible.sort(dim=1).values
        same = (visible == visible[:1]).all()
        assert bool(same) is shared
