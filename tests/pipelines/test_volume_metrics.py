"""Dice, HD95 and NSD: MONAI's numbers, known distances in mm, empty masks, patients drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mimkit.pipelines.volumes.metrics import (
    MEAN,
    StructureScore,
    agreement,
    cases_in_order,
    score_case,
    summarise,
)

SPACING = (3.0, 1.0, 0.5)


def box(*sides: slice) -> np.ndarray:
    mask = np.zeros((10, 14, 20), bool)
    mask[sides] = True
    return mask


def test_they_are_monais_numbers() -> None:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice
    from monai.metrics.surface_dice import compute_surface_dice

    random = np.random.default_rng(0)
    one = box(slice(2, 8), slice(3, 10), slice(4, 15))
    other = np.roll(one, (1, -2, 3), (0, 1, 2)) & (random.random(one.shape) > 0.1)
    found = agreement(one, other, SPACING, tolerance=1.5)
    masks = [torch.from_numpy(mask)[None, None].float() for mask in (one, other)]
    options: dict[str, Any] = {"include_background": True, "spacing": list(SPACING)}
    hd95 = compute_hausdorff_distance(masks[0], masks[1], percentile=95, **options)
    nsd = compute_surface_dice(masks[0], masks[1], class_thresholds=[1.5], **options)
    assert found["dice"] == pytest.approx(float(compute_dice(*masks, include_background=True)))
    assert found["hd95"] == pytest.approx(float(hd95))
    assert found["nsd"] == pytest.approx(float(nsd))


def test_distances_are_millimetres_of_each_axis() -> None:
    one = box(slice(2, 6), slice(2, 6), slice(2, 6))
    for axis, step in enumerate(SPACING):
        moved = np.roll(one, 1, axis)
        found = agreement(one, moved, SPACING, tolerance=step - 0.01)
        assert found["hd95"] == pytest.approx(step)
        assert found["nsd"] is not None
        assert found["nsd"] < 1
        assert agreement(one, moved, SPACING, tolerance=step)["nsd"] == 1.0
    assert agreement(one, one, SPACING, 0.0) == {"dice": 1.0, "hd95": 0.0, "nsd": 1.0}


def test_empty_masks() -> None:
    none, some = box(slice(0, 0)), box(slice(1, 2))
    assert agreement(none, none, SPACING, 1.0) == {"dice": None, "hd95": None, "nsd": None}
    diagonal = np.linalg.norm(np.multiply(none.shape, SPACING))
    for pair in ((none, some), (some, none)):
        found = agreement(*pair, SPACING, 1.0)
        assert found == {"dice": 0.0, "hd95": pytest.approx(diagonal), "nsd": 0.0}


def test_unknown_voxels_count_nowhere() -> None:
    truth = box(slice(2, 6), slice(2, 6), slice(2, 6)).astype(np.uint8)
    predicted = truth.copy()
    predicted[8:] = 1
    truth[8:] = 255
    (row,) = score_case(
        predicted, truth, SPACING, ("background", "liver"), case="a", group="p", tolerance=1.0
    )
    assert (row.structure, row.dice, row.hd95) == ("liver", 1.0, 0.0)
    assert row.truth_ml == row.predicted_ml == pytest.approx(64 * 1.5 / 1000)


def scores(*values: tuple[str, str, float | None]) -> list[StructureScore]:
    return [
        StructureScore(
            case=f"{patient}-{place}",
            group=patient,
            structure=name,
            dice=dice,
            hd95=None,
            nsd=None,
            truth_ml=1.0,
            predicted_ml=1.0,
        )
        for place, (patient, name, dice) in enumerate(values)
    ]


def test_patients_are_drawn_whole() -> None:
    found = summarise(
        scores(*(("a", "liver", 0.9) for _ in range(9)), ("b", "liver", 0.1)), num_draws=400
    )
    dice = found[0]
    assert dice.mean == pytest.approx(0.82)
    assert dice.num_cases == 10
    # A quarter of the draws is patient b alone; drawing cases one by one would never give 0.1.
    assert dice.interval is not None
    assert (dice.interval.low, dice.interval.high) == (pytest.approx(0.1), pytest.approx(0.9))
    assert summarise(scores(("a", "liver", 0.9)))[0].interval is None


def test_the_mean_over_structures_is_not_that_over_cases() -> None:
    found = summarise(
        scores(("a", "liver", 0.9), ("b", "liver", 0.7), ("a", "spleen", 0.2), ("c", "gut", None))
    )
    mean = next(s for s in found if s.structure == MEAN and s.metric == "dice")
    assert mean.mean == pytest.approx((0.8 + 0.2) / 2)
    gut = next(s for s in found if s.structure == "gut" and s.metric == "dice")
    assert (gut.mean, gut.num_cases) == (None, 0)
    assert cases_in_order(scores(("a", "x", 0.9), ("b", "x", 0.7), ("c", "x", None))) == [
        ("b-1", 0.7),
        ("a-0", 0.9),
    ]
