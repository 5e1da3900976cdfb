"""Scores of detectors: against scikit-learn, against numbers worked out by hand, and one class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from mimkit.core.errors import UsageError
from mimkit.core.heads import curves


def labelled(values: list[int], flags: list[bool]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(values, dtype=torch.float64) / 8, torch.tensor(flags)


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=40))
def test_curve_and_area_are_those_of_scikit_learn(pairs: list[tuple[int, bool]]) -> None:
    scores, positive = labelled([v for v, _ in pairs], [p for _, p in pairs])
    if curves.undefined(positive):
        with pytest.raises(UsageError, match="undefined"):
            curves.auc(scores, positive)
        return
    got = curves.roc(scores, positive)
    fpr, tpr, threshold = roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(got.fpr, fpr)
    np.testing.assert_allclose(got.tpr, tpr)
    np.testing.assert_array_equal(got.threshold, threshold)
    assert curves.auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    # The equal error rate lies on the curve, where a false alarm is as likely as a miss.
    rate = curves.eer(scores, positive)
    crossing = np.interp(0.0, (got.fpr - got.fnr).numpy(), got.fpr.numpy())
    if len(set((got.fpr - got.fnr).tolist())) == len(got.fpr):
        assert rate == pytest.approx(crossing)
    assert 0 <= rate <= 1
    assert curves.eer(scores, ~positive) == pytest.approx(1 - rate)


def test_rates_at_a_threshold_by_hand() -> None:
    #             bona fide -----------  print --------  replay
    scores, positive = labelled([0, 1, 2, 6, 5, 7, 8, 3, 4], [False] * 4 + [True] * 5)
    kinds = ["", "", "", "", "print", "print", "print", "replay", "replay"]
    got = curves.error_rates(scores, positive, 0.5, kinds)
    assert got.bpcer == 1 / 4
    assert got.species == {"print": 0.0, "replay": 0.5}
    assert (got.apcer, got.acer) == (0.5, 0.375)  # the worst species counts
    assert got.hter == pytest.approx((1 / 5 + 1 / 4) / 2)  # all attacks together
    assert got.accuracy == pytest.approx(7 / 9)
    assert curves.error_rates(scores, positive, 0.5).apcer == pytest.approx(1 / 5)
    assert curves.tpr_at_fpr(scores, positive, 0.01) == pytest.approx(2 / 5)
    assert curves.tpr_at_fpr(scores, positive, 0.25) == 1.0
    assert curves.eer_threshold(scores, positive) == pytest.approx(3.5 / 8)
    assert curves.eer_threshold(torch.ones(2), torch.tensor([True, False])) == 1.0


def test_a_threshold_of_other_data_is_never_better_than_the_chosen_one() -> None:
    generator = torch.Generator().manual_seed(0)
    positive = torch.arange(200) % 2 == 0
    test = torch.randn(200, generator=generator) + positive * 1.5
    moved = test - 2.0  # the same detector on another camera
    honest = curves.error_rates(moved, positive, curves.eer_threshold(test, positive))
    flattering = curves.error_rates(moved, positive, curves.eer_threshold(moved, positive))
    assert honest.hter > 0.4 > flattering.hter


def test_det_axes_are_normal_deviates() -> None:
    fpr, fnr = curves.Roc(
        torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 0.5, 1.0]), torch.zeros(3)
    ).det()
    assert fpr[1] == pytest.approx(0.0)
    assert fpr[2] == pytest.approx(3.719, abs=1e-3)
    assert fnr.tolist() == pytest.approx([-v for v in fpr.tolist()], abs=1e-3)


def test_calibration_by_hand() -> None:
    probabilities = torch.tensor([0.125, 0.125, 0.9375, 0.9375, 1.0])
    positive = torch.tensor([False, True, True, True, True])
    got = curves.reliability(probabilities, positive)
    assert got.count == (2, 3)
    assert got.observed == (0.5, 1.0)
    assert got.ece == pytest.approx((2 * 0.375 + 3 * (1 - 2.875 / 3)) / 5)
    with pytest.raises(UsageError, match="between 0 and 1"):
        curves.reliability(torch.tensor([1.2]), torch.tensor([True]))


def test_video_scores() -> None:
    values, groups = torch.tensor([0.0, 0.2, 1.0, 0.3, 0.5]), torch.tensor([1, 1, 1, 0, 0])
    assert curves.reduce_groups(values, groups).tolist() == pytest.approx([0.4, 0.4])
    assert curves.reduce_groups(values, groups, "median").tolist() == pytest.approx([0.4, 0.2])


def test_frames_of_one_video_do_not_narrow_the_interval() -> None:
    generator = torch.Generator().manual_seed(1)
    positive = torch.arange(20) % 2 == 0
    scores = torch.randn(20, generator=generator) + positive.double()
    groups = torch.arange(20)
    videos = curves.bootstrap(curves.auc, scores, positive, groups)
    many, flags = scores.repeat_interleave(30), positive.repeat_interleave(30)
    frames = curves.bootstrap(curves.auc, many, flags, groups.repeat_interleave(30))
    single = curves.bootstrap(curves.auc, many, flags, torch.arange(600))
    assert videos is not None
    assert frames is not None
    assert single is not None
    assert (frames.low, frames.high) == pytest.approx((videos.low, videos.high))
    assert videos.low < curves.auc(scores, positive) < videos.high
    assert single.high - single.low < 0.5 * (videos.high - videos.low)
    assert curves.bootstrap(curves.auc, scores, positive, torch.zeros(20, dtype=torch.long)) is None


def test_scores_that_are_not_numbers_are_named() -> None:
    with pytest.raises(UsageError, match="1 of 2 are not finite"):
        curves.auc(torch.tensor([math.nan, 1.0]), torch.tensor([True, False]))
    with pytest.raises(UsageError, match="no negative among 2"):
        curves.error_rates(torch.ones(2), torch.ones(2, dtype=torch.bool), 0.5)
