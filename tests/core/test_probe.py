"""Probes of frozen features: pooling, ridge, nearest neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimkit.core.batch import Batch
from mimkit.core.encoders.vit import ViT
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid
from mimkit.core.heads.knn import knn_scores
from mimkit.core.heads.pool import Pooling, image_features, on_tokens, token_statistics
from mimkit.core.heads.probe import (
    accuracy,
    balanced_accuracy,
    few_labels,
    fit_probe,
    fit_ridges,
    holdout,
)


def clusters(num_per_class: int, num_features: int, seed: int, spread: float = 1.0):
    """Return noisy points around one centre per class, and their classes."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, num_features, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(3).repeat_interleave(num_per_class)
    noise = torch.randn(len(labels), num_features, generator=random)
    return centres[labels] + spread * noise, labels


@pytest.mark.parametrize("num_features", [5, 80])
def test_ridge_solves_the_normal_equations(num_features: int) -> None:
    x, y = clusters(10, num_features, 0)
    fit = fit_ridges(x, y, 3, (0.3,))[0]
    z = (x.double() - fit.mean) / fit.std
    target = torch.nn.functional.one_hot(y, 3).double() * 2 - 1
    gradient = z.T @ (z @ fit.weight + fit.bias - target) / len(z) + 0.3 * fit.weight
    assert gradient.abs().max() < 1e-9
    assert torch.allclose((z @ fit.weight + fit.bias - target).mean(dim=0), torch.zeros(3).double())


def test_ridge_agrees_with_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = clusters(12, 6, 1)
    fit = fit_ridges(x, y, 3, (0.5,))[0]
    z = ((x.double() - fit.mean) / fit.std).numpy()
    target = np.eye(3)[y.numpy()] * 2 - 1
    other = linear_model.Ridge(alpha=0.5 * len(z)).fit(z, target)
    assert np.allclose(fit.scores(x).numpy(), other.predict(z), atol=1e-8)


def test_sample_weight_equals_repeated_rows() -> None:
    x, y = clusters(6, 4, 2)
    twice = torch.cat([x, x[:5]])
    weight = torch.ones(len(x))
    weight[:5] = 2.0
    one = fit_ridges(twice, torch.cat([y, y[:5]]), 3, (0.1,))[0]
    other = fit_ridges(x, y, 3, (0.1,), weight)[0]
    assert torch.allclose(one.scores(x), other.scores(x), atol=1e-9)


def test_constant_and_scaled_features_change_nothing() -> None:
    x, y = clusters(15, 4, 3)
    plain = fit_ridges(x, y, 3, (0.1,))[0].scores(x)
    changed = torch.cat([x * torch.tensor([1.0, 1e3, 1e-3, 5.0]), torch.full((len(x), 1), 7.3)], 1)
    assert torch.allclose(fit_ridges(changed, y, 3, (0.1,))[0].scores(changed), plain, atol=1e-4)


def test_probe_chooses_a_penalty_that_generalises() -> None:
    x, y = clusters(8, 200, 4, spread=3.0)
    queries, truth = clusters(200, 200, 5, spread=3.0)
    chosen = fit_probe(x, y, 3, seed=0)
    weakest = fit_ridges(x, y, 3, (1e-4,))[0]
    assert chosen.strength > 1e-4
    found = accuracy(chosen.scores(queries).argmax(1), truth)
    assert found >= accuracy(weakest.scores(queries).argmax(1), truth)
    assert found > 0.8


def test_probe_of_noise_is_chance() -> None:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 20, generator=random), torch.arange(3).repeat(100)
    queries = torch.randn(3000, 20, generator=random)
    found = accuracy(fit_probe(x, y, 3).scores(queries).argmax(1), torch.arange(3).repeat(1000))
    assert abs(found - 1 / 3) < 0.05


def test_wrong_labels_are_named() -> None:
    with pytest.raises(UsageError, match="outside of the classes"):
        fit_ridges(torch.zeros(2, 2), torch.tensor([0, 3]), 3)
    with pytest.raises(UsageError, match="0 labelled rows"):
        fit_ridges(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), 3)


@given(st.integers(0, 50), st.lists(st.integers(0, 3), min_size=2, max_size=40))
def test_holdout_leaves_every_class_on_the_training_side(seed: int, values: list[int]) -> None:
    labels = torch.tensor(values)
    out = holdout(labels, 0.25, seed)
    assert torch.equal(labels[~out].unique(), labels.unique())
    assert torch.equal(out, holdout(labels, 0.25, seed))
    repeated = [v for v in labels.unique().tolist() if (labels == v).sum() > 1]
    assert set(labels[out].tolist()) == set(repeated)


def test_holdout_keeps_scenes_whole() -> None:
    groups = torch.arange(5).repeat_interleave(4)
    out = holdout(torch.zeros(20, dtype=torch.int64), 0.25, 3, groups)
    assert {tuple(out[groups == g].tolist()) for g in range(5)} == {(True,) * 4, (False,) * 4}


def test_few_labels_takes_equally_many() -> None:
    labels = torch.tensor([0] * 9 + [1] * 4 + [2] * 2)
    rows = few_labels(labels, 3, 1)
    assert labels[rows].bincount().tolist() == [3, 3, 2]
    assert not torch.equal(rows, few_labels(labels, 3, 2))


def test_balanced_accuracy_counts_classes_equally() -> None:
    labels = torch.tensor([0] * 9 + [1])
    assert balanced_accuracy(torch.zeros(10, dtype=torch.int64), labels) == 0.5
    assert accuracy(torch.zeros(10, dtype=torch.int64), labels) == 0.9


def test_nearest_neighbours_agree_with_brute_force() -> None:
    x, y = clusters(20, 6, 8)
    queries, _ = clusters(5, 6, 9)
    scores = knn_scores(x, y, queries, 3, num_neighbours=4, temperature=0.1, chunk=4)
    z, q = ((v - x.mean(0)) / x.std(0, correction=0) for v in (x, queries))
    for row, point in zip(scores, q, strict=True):
        cosine = torch.tensor([torch.cosine_similarity(point, other, dim=0) for other in z])
        best = cosine.argsort(descending=True)[:4]
        weight = torch.exp(cosine[best] / 0.1)
        votes = torch.stack([weight[y[best] == c].sum() for c in range(3)]) / weight.sum()
        assert torch.allclose(row, votes, atol=1e-5)
    whole = knn_scores(x, y, queries, 3, num_neighbours=4, temperature=0.1)
    assert torch.allclose(scores, whole, atol=1e-5)


def test_statistics_leave_out_unreadable_tokens() -> None:
    tokens = torch.randn(2, 6, 3)
    readable = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    mean, std = token_statistics(tokens, readable, std=True)
    assert torch.allclose(mean[0], tokens[0, :4].mean(0), atol=1e-6)
    assert torch.allclose(std[0], tokens[0, :4].std(0, correction=0), atol=1e-6)
    assert torch.allclose(std[1], tokens[1].std(0, correction=0), atol=1e-6)


def encoder() -> ViT:
    """Return a small encoder for 16-pixel images."""
    torch.manual_seed(0)
    return ViT(Grid((4, 4), (4, 4), 2), 24, 3, 2).eval()


def batch(valid: torch.Tensor | None = None) -> Batch:
    """Return two images."""
    images = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    return Batch(images, valid, torch.arange(2))


def test_pooled_width_follows_what_is_asked() -> None:
    wide = Pooling(taps=(0, 2, -1), class_token=True)
    assert image_features(encoder(), batch(), wide).shape == (2, 3 * 3 * 24)
    assert image_features(encoder(), batch(), Pooling(std=False)).shape == (2, 24)


def test_pixels_without_data_do_not_change_features() -> None:
    valid = torch.ones(2, 16, 16, dtype=torch.bool)
    valid[0, :, :8] = False
    one = batch(valid)
    other = Batch(torch.where(valid[:, None], one.images, torch.nan), valid, one.ids)
    first, second = (image_features(encoder(), b, Pooling(taps=(1, -1))) for b in (one, other))
    assert torch.isfinite(second).all()
    assert torch.equal(first, second)
    everything = image_features(encoder(), batch(), Pooling(taps=(1, -1)))
    assert not torch.allclose(first[0], everything[0])
    assert torch.allclose(first[1], everything[1], atol=1e-5)


def test_unknown_tap_is_named() -> None:
    with pytest.raises(UsageError, match="tap 3"):
        image_features(encoder(), batch(), Pooling(taps=(3,)))


def test_a_coarse_cell_stands_for_its_tokens() -> None:
    cells = torch.arange(4.0).reshape(1, 4, 1)
    found = on_tokens(cells, (2, 2), (4, 4)).reshape(4, 4)
    assert found[:2, :2].unique().tolist() == [0.0]
    assert found[2:, 2:].unique().tolist() == [3.0]
    assert on_tokens(cells, (2, 2), (2, 2)) is cells
