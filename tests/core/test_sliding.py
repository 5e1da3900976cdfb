"""Sliding windows: MONAI's answer, every voxel once, whatever the grouping, in bounded memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mimkit.core.errors import UsageError
from mimkit.core.heads.sliding import Slab, Windows, slide

SIZE = (6, 8, 10)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv3d(1, 4, 3, padding=1).eval()


def blended(volume: Tensor, windows: Windows, **options: Any) -> tuple[Tensor, Tensor]:
    """Return scores and labels; every voxel must come once."""
    scores = torch.full((4, *volume.shape[1:]), torch.nan)
    labels = torch.full(volume.shape[1:], 99, dtype=torch.uint8)
    score, times = network(), torch.zeros(volume.shape[1:])

    def put(slab: Slab) -> None:
        scores[(slice(None), *slab.place)] = slab.scores()
        labels[slab.place] = slab.winners()
        times[slab.place] += 1

    with torch.inference_mode():
        for slab in slide(windows, lambda p: windows.cut(volume, p), score, 4, **options):
            put(slab)
    assert times.min() == times.max() == 1
    return scores, labels


def volume_of(*shape: int) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(15, 20, 23), (6, 8, 10), (5, 9, 7), (3, 30, 11), (40, 8, 4)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
def test_it_is_monais_answer(shape: tuple[int, int, int], overlap: float) -> None:
    from monai.inferers.utils import sliding_window_inference

    volume = volume_of(*shape)
    with torch.inference_mode():
        wanted = sliding_window_inference(
            volume[None], SIZE, 3, network(), overlap=overlap, mode="gaussian"
        )
    assert isinstance(wanted, Tensor)
    windows = Windows(shape, SIZE, overlap)
    scores, labels = blended(volume, windows, batch_size=3)
    torch.testing.assert_close(scores, wanted[0], rtol=1e-4, atol=1e-5)
    sure = wanted[0].topk(2, dim=0).values.diff(dim=0).abs()[0] > 1e-4
    assert torch.equal(labels[sure], wanted[0].argmax(0)[sure].to(torch.uint8))


@given(budget=st.integers(0, 200_000), batch_size=st.integers(1, 5))
def test_strips_and_batches_change_nothing(budget: int, batch_size: int) -> None:
    volume, windows = volume_of(13, 40, 11), Windows((13, 40, 11), SIZE, 0.5)
    whole = blended(volume, windows)
    parts = blended(volume, windows, budget=budget, batch_size=batch_size)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_sums_fit_the_budget_and_the_depth_does_not_matter() -> None:
    for depth in (60, 6000):
        windows = Windows((depth, 500, 40), SIZE, 0.5)
        strips = windows.strips(20, budget := 2_000_000)
        assert strips[0][0] == 0
        assert strips[-1][1] == 500
        for low, high in strips:
            assert 4 * 21 * SIZE[0] * (high - low) * 40 <= budget
    assert windows.strips(20, None) == [(0, 500)]


def test_images_have_windows_too() -> None:
    image, windows = volume_of(20, 17), Windows((20, 17), (8, 6), 0.5)
    slabs = list(slide(windows, lambda p: windows.cut(image, p), lambda x: x.repeat(1, 2, 1, 1), 2))
    rows = [slab.place[0] for slab in slabs]
    assert [r.start for r in rows] == [0, 4, 8, 12]
    assert rows[-1].stop == 20


def test_skipped_windows_are_background() -> None:
    volume = volume_of(12, 24, 10).abs()
    volume[:, :, 9:] = 0.0
    seen = []

    def score(images: Tensor) -> Tensor:
        seen.extend(bool(image.any()) for image in images)
        return torch.stack([-images[:, 0], images[:, 0]], dim=1)

    windows = Windows((12, 24, 10), SIZE, 0.0)
    labels = torch.full((12, 24, 10), 9, dtype=torch.uint8)
    for slab in slide(
        windows,
        lambda p: windows.cut(volume, p),
        score,
        2,
        skip=lambda x: not x.any(),
        batch_size=2,
    ):
        labels[slab.place] = slab.winners()
        assert slab.scores().isfinite().all()
    assert seen == [True] * 4  # 2 x 2 of 2 x 3 windows
    assert torch.equal(labels.bool(), volume[0] > 0)


@pytest.mark.parametrize(
    ("size", "overlap", "said"), [((4, 4), 0.5, "do not fit"), (SIZE, 1.0, "is no share")]
)
def test_impossible_windows_are_refused(size: tuple[int, ...], overlap: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Windows((9, 9, 9), size, overlap)
