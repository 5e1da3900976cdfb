"""The probe table: who sees which labels, how draws become one line, what raw pixels give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mimkit.core.batch import Batch
from mimkit.core.errors import UsageError
from mimkit.pipelines import probing
from mimkit.pipelines.features import (
    band_means,
    histogram,
    pixel_sources,
    thumbnail,
    token_labels,
    token_means,
)
from mimkit.pipelines.probing import Labelled, Truth, probe_table, table_markdown

CLASSES = ("a", "b", "c")


def draw(num_per_class: int, seed: int, noise: float) -> tuple[Tensor, Tensor]:
    labels = torch.arange(3).repeat_interleave(num_per_class)
    random = torch.Generator().manual_seed(seed)
    centres = 3 * torch.eye(3, 6)
    return centres[labels] + noise * torch.randn(len(labels), 6, generator=random), labels


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth(draw(30, 0, 1.0)[1], draw(40, 1, 1.0)[1], CLASSES)


def kind(name: str, noise: float, seed: int = 0) -> Labelled:
    return Labelled(name, draw(30, seed, noise)[0], draw(40, seed + 1, noise)[0])


def test_better_features_have_better_lines(truth: Truth) -> None:
    kinds = [kind("good", 0.3), kind("poor", 4.0)]
    table = probe_table(kinds, truth, few=(5,), num_draws=3)
    found = {(line.features, line.probe, line.labels): line.accuracy for line in table}
    assert len(found) == len(table) == 2 * 2 * 2
    for probe in ("linear", "kNN"):
        for labels in (None, 5):
            assert found["good", probe, labels] > 0.95
            assert found["good", probe, labels] > found["poor", probe, labels] + 0.2


def test_seeds_of_a_kind_become_one_line_with_their_spread(truth: Truth) -> None:
    kinds = [kind("random", 2.0, seed) for seed in (0, 10, 20)]
    together = probe_table(kinds, truth, few=(4,), num_draws=2)
    alone = [probe_table([one], truth, few=(4,), num_draws=2) for one in kinds]
    assert [line.num_draws for line in together] == [3, 6, 3, 6]
    for place, line in enumerate(together):
        means = [table[place].accuracy for table in alone]
        assert line.accuracy == pytest.approx(np.mean(means))
    full = [table[0].accuracy for table in alone]
    assert together[0].accuracy_std == pytest.approx(np.std(full))


def test_every_kind_of_features_sees_the_same_rows(
    truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    fit_probe = probing.fit_probe

    def spy(features: Tensor, labels: Tensor, *args: object, **settings: object) -> object:
        seen.append(tuple(features[:, -1].long().tolist()))
        return fit_probe(features, labels, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(probing, "fit_probe", spy)
    number = torch.arange(90)[:, None].float()
    kinds = [
        replace(one, train=torch.cat([one.train, number], dim=1), test=torch.zeros(120, 7))
        for one in (kind("one", 1.0), kind("other", 2.0))
    ]
    probe_table(kinds, truth, few=(3,), num_draws=4)
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert first == second
    assert len(set(first)) == 5  # all rows, and four draws
    assert {len(rows) for rows in first} == {90, 9}


def test_few_labels_of_rare_classes_and_voters_fit(truth: Truth) -> None:
    """A kNN probe with more voters than labels would only count classes."""
    table = probe_table([kind("good", 0.3)], truth, few=(2,), num_draws=3, num_neighbours=50)
    line = next(line for line in table if (line.probe, line.labels) == ("kNN", 2))
    assert line.accuracy > 0.8


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([1, 1, 1], [0, 1], "class 'b'"),
        ([], [0, 1], "0 labelled training"),
        ([0, 1], [], "0 test rows"),
    ],
)
def test_too_few_labels_are_named(train: list[int], test: list[int], message: str) -> None:
    sides = [torch.tensor(side, dtype=torch.long) for side in (train, test)]
    labels = Truth(sides[0], sides[1], CLASSES)
    features = Labelled("x", torch.zeros(len(train), 2), torch.zeros(len(test), 2))
    with pytest.raises(UsageError, match=message):
        probe_table([features], labels)


def test_whole_scenes_are_kept_out_when_a_penalty_is_chosen(truth: Truth) -> None:
    groups = torch.arange(90) // 6
    grouped = probe_table([kind("poor", 3.0)], replace(truth, groups=groups), few=())
    assert 0.4 < grouped[0].accuracy < 1.0


def test_the_table_as_text_puts_all_labels_first(truth: Truth) -> None:
    text = table_markdown(probe_table([kind("good", 0.3)], truth, few=(5, 2), num_draws=2))
    lines = text.splitlines()
    assert [line.split("|")[3].strip() for line in lines[2:]] == ["all", "all", "2", "2", "5", "5"]
    assert "±" not in lines[2]
    assert "±" in lines[4]


def images() -> Batch:
    """Return two images of two bands; the right half of the second holds no data."""
    values = torch.randn(2, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 32, 32, dtype=torch.bool)
    valid[1, :, 16:] = False
    return Batch(torch.where(valid[:, None], values, torch.nan), valid, torch.arange(2))


def test_raw_features_leave_out_pixels_without_data() -> None:
    batch = images()
    means = band_means(batch)
    assert torch.allclose(means[0], batch.images[0].mean(dim=(1, 2)), atol=1e-6)
    assert torch.allclose(means[1], batch.images[1, :, :, :16].mean(dim=(1, 2)), atol=1e-6)
    tokens = token_means(batch, (8, 8))
    assert torch.allclose(tokens[1, 4], batch.images[1, :, 8:16, :8].mean(dim=(1, 2)), atol=1e-6)
    assert torch.equal(tokens[1, 2], torch.zeros(2))
    bins = histogram(batch, num_bins=4, span=(-2.0, 2.0)).unflatten(1, (2, 4))
    assert torch.allclose(bins.sum(dim=2), torch.ones(2, 2))
    lowest = (batch.images[1, 0, :, :16] < -1).float().mean()
    assert bins[1, 0, 0] == pytest.approx(float(lowest))
    small = thumbnail(batch).unflatten(1, (2, 16, 16))
    corner = batch.images[0, 1, :2, :2].mean()
    assert small[0, 1, 0, 0] == pytest.approx(float(corner), abs=1e-6)
    assert [source.name for source in pixel_sources()] == [
        "band means",
        "colour histogram",
        "16x16 pixels",
    ]
    assert all(torch.isfinite(source.extract(batch)).all() for source in pixel_sources())


def test_a_token_has_a_class_when_most_of_its_pixels_have() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, :4, 4:] = 2
    labels[0, 4:, :2] = 1
    labels[0, 4:, 4:] = 255
    assert token_labels(labels, (4, 4)).tolist() == [[0, 2, 255, 255]]
    assert token_labels(labels, (4, 4), min_share=0.5).tolist()[0][2] in (0, 1)
