"""The parts of a report: pictures that are true, words that follow from numbers."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tiny_models import normaliser_dict, tiny_method

from mimkit.core.batch import Batch, Progress
from mimkit.core.grid import Grid
from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig, build
from mimkit.core.noise import Noise
from mimkit.core.reconstruction import pixel_head, reconstruct
from mimkit.domains.satellite.domain import SATELLITE
from mimkit.pipelines.evaluate import Evaluation
from mimkit.pipelines.probing import ProbeScore
from mimkit.pipelines.reporting.charts import place_colours, smoothed
from mimkit.pipelines.reporting.embedding import project
from mimkit.pipelines.reporting.facts import RunFacts
from mimkit.pipelines.reporting.pictures import HIDDEN, heat, overlay, picture_uri, shrink
from mimkit.pipelines.reporting.probes import probe_blocks
from mimkit.pipelines.reporting.reconstructions import never_trained, reconstruct_batch
from mimkit.pipelines.reporting.tasks import Answers, confusion_table, spread
from mimkit.pipelines.reporting.verdicts import duration, finetune_verdict, pretrain_verdict


def batch(num: int = 3, size: int = 32, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(num, 3, size // 4, size // 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    valid = torch.ones(num, size, size, dtype=torch.bool)
    valid[0, :, : size // 4] = False
    return Batch(images, valid, torch.arange(num))


def test_visible_pixels_are_the_same_in_original_and_reconstruction() -> None:
    method, _ = tiny_method()
    normaliser = SATELLITE.normaliser(normaliser_dict())
    given = batch()
    found = reconstruct_batch(method, given, SATELLITE, normaliser, seed=5)
    result = reconstruct(method, method(given, Progress(1.0, 1), Noise(5)))
    assert given.valid is not None
    for n, shown in enumerate(found.shown):
        valid = given.valid[n].numpy()
        seen = result.visible[n, 0].bool().numpy() & valid
        guessed = result.predicted[n, 0].bool().numpy() & valid
        assert seen.any()
        assert guessed.any()
        assert np.array_equal(shown.pasted[seen], shown.original[seen])
        assert np.array_equal(shown.visible[seen], shown.original[seen])
        assert (shown.visible[valid & ~seen] == HIDDEN).all()
        assert not np.array_equal(shown.pasted[guessed], shown.original[guessed])
        for picture in (shown.original, shown.visible, shown.pasted, shown.error):
            assert picture.shape == (32, 32, 3)
        assert (shown.original[~valid] == 0).all()
        assert (shown.visible[~valid] == 0).all()
        black = heat(np.zeros((1, 1)), 1.0)[0, 0]
        assert (shown.error[~guessed] == black).all()
    assert found.leaked_statistics
    assert found.error > 0


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_perfect_guess_looks_like_the_original(norm_pix: bool) -> None:
    """The target's own standardisation and the domain's normalisation are both undone."""
    encoder = EncoderConfig(embed_dim=24, depth=1, num_heads=3, patch_size=8)
    decoder = DecoderConfig(dim=16, depth=1, num_heads=2)
    config = MAEConfig(encoder=encoder, decoder=decoder, norm_pix=norm_pix)
    method = build(config, Grid.for_image((32, 32), 8, 3)).eval()
    given = batch()
    output = method(given, Progress(1.0, 1), Noise(1))
    head = pixel_head(method)

    def knows(features: object, plan: object, index: torch.Tensor | None = None) -> torch.Tensor:
        assert index is not None or plan is not None
        chosen = output.plan.predict if index is None else index
        return head.target(output.context, chosen).values

    head.predictor.forward = knows  # type: ignore[method-assign]
    found = reconstruct_batch(method, given, SATELLITE, SATELLITE.normaliser(normaliser_dict()), 1)
    assert found.leaked_statistics is norm_pix
    assert found.error == pytest.approx(0.0, abs=1e-9)
    for shown in found.shown:
        difference = shown.pasted.astype(int) - shown.original.astype(int)
        assert np.abs(difference).max() <= 1  # rounding


def test_constant_patches_are_counted_where_there_is_data() -> None:
    method, _ = tiny_method()
    given = batch()
    images = given.images.clone()
    images[1] = 0.25
    normaliser = SATELLITE.normaliser(normaliser_dict())
    found = reconstruct_batch(method, replace(given, images=images), SATELLITE, normaliser, 0)
    assert found.constant_share == pytest.approx(16 / (16 * 3 - 4))  # one column has no data


def test_a_decoder_without_training_is_recognised() -> None:
    method, _ = tiny_method()
    predictor = pixel_head(method).predictor
    assert never_trained(predictor)
    with torch.no_grad():
        next(p for p in predictor.parameters() if p.ndim == 1).add_(1e-3)
    assert not never_trained(predictor)


def decoded(uri: str, kind: str) -> np.ndarray:
    head, _, text = uri.partition(",")
    assert head == f"data:image/{kind};base64"
    content = base64.b64decode(text, validate=True)
    if kind == "jpeg":
        import simplejpeg

        return simplejpeg.decode_jpeg(content)
    return (imread(io.BytesIO(content), format="png")[..., :3] * 255).round().astype(np.uint8)


def test_small_pictures_are_exact_and_large_ones_are_reduced() -> None:
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (64, 48, 3), dtype=np.uint8)
    assert np.array_equal(decoded(picture_uri(small), "png"), small)
    large = np.full((1300, 700, 3), 90, np.uint8)
    assert decoded(picture_uri(large), "jpeg").shape == (433, 233, 3)
    squares = np.kron(np.array([[10, 20], [30, 50]], np.uint8), np.ones((2, 2), np.uint8))
    picture = np.stack([squares] * 3, axis=-1)
    assert shrink(picture, 2)[..., 0].tolist() == [[10, 20], [30, 50]]
    assert shrink(picture, 4) is picture


def test_classes_are_painted_over_grey_and_unknown_places_stay_grey() -> None:
    image = np.full((1, 3, 3), (30, 60, 90), np.uint8)
    classes = np.array([[0, 1, 255]], np.uint8)
    painted = overlay(image, classes, {0: (255, 0, 0), 1: (0, 0, 255)}, strength=1.0)
    assert painted.tolist() == [[[255, 0, 0], [0, 0, 255], [60, 60, 60]]]


def test_maps_do_not_depend_on_chance() -> None:
    features = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    for kind in ("pca", "tsne"):
        first, what = project(features, kind, 0)
        assert np.array_equal(first, project(features, kind, 0)[0])
        assert first.shape == (40, 2)
        assert what.startswith({"pca": "principal components", "tsne": "t-SNE"}[kind])
    assert project(features[:8], "tsne", 0)[1].startswith("principal")
    colours = place_colours(np.array([5.0, 1.0, 3.0]), np.array([0.0, 1.0, 2.0]))
    assert colours[:, 0].tolist() == [240, 40, 140]
    assert colours[:, 2].tolist() == [40, 140, 240]


def test_a_noisy_line_is_smoothed_without_bending_its_ends() -> None:
    assert smoothed([2.0] * 100) == pytest.approx(np.full(100, 2.0))
    line = [float(n) for n in range(100)]
    assert smoothed(line)[10:90] == pytest.approx(np.array(line[10:90]))
    assert smoothed([1.0, math.nan, 3.0]).tolist() == [1.0, 2.0, 3.0]


def test_shown_answers_go_from_the_best_to_the_worst() -> None:
    answers = Answers(np.arange(5), np.array([0.5, 1.0, 0.0, 0.75, 0.25]))
    assert answers.correct[spread(answers, 3)].tolist() == [1.0, 0.5, 0.0]
    assert answers.correct[spread(answers, 1)].tolist() == [1.0]
    assert len(spread(answers, 9)) == 5


def test_the_confusion_matrix_is_shaded_by_rows() -> None:
    table = confusion_table(("a", "b"), [[30, 10], [0, 0]], "pixels")
    first, second = table.cells
    assert [cell.text for cell in first] == ["a", "30", "10"]
    assert [cell.shade for cell in first[1:]] == pytest.approx([0.45, 0.15])
    assert [cell.shade for cell in second[1:]] == [0.0, 0.0]


def facts(losses: Sequence[float | None] = (2.0, 1.5, 1.0), **changes: Any) -> RunFacts:
    steps = tuple(
        {"step": 10 * n + 10, "epoch": n, "loss": loss, "terms": {"pixels": loss}, "seconds": 10.0}
        | {"data_wait": 0.01}
        for n, loss in enumerate(losses)
    )
    recipe = {"epochs": 3, "method": {"name": "mae"}}
    made = RunFacts(Path("runs/pre"), "pretrain", recipe, {}, steps, (), None, None, True)
    return replace(made, **changes)


def waiting(*shares: float) -> tuple[dict[str, Any], ...]:
    lines = facts((2.0, 1.0, 0.5)).steps
    return tuple(line | {"data_wait": share} for line, share in zip(lines, shares, strict=True))


def test_a_good_run_is_called_good() -> None:
    verdict = pretrain_verdict(facts(), None, None)
    assert verdict.tone == "good"
    assert verdict.headline == "Finished: 3 epochs, 30 steps, 30 s; not probed"
    assert verdict.findings == ("training loss from 2 to 1",)
    assert verdict.problems == ()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (facts((1.0, 1.2, 1.1)), "the loss does not fall (1 at the start, 1.1 at the end)"),
        (facts(steps=waiting(0.9, 0.2, 0.3)), "training waited for data 25% of the time"),
        (
            facts((2.0, None), finished=False, bad_step={"step": 7, "rows": [1, 2]}),
            "stopped at step 7: loss or gradient was not finite; the 2 samples",
        ),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(made: RunFacts, words: str) -> None:
    verdict = pretrain_verdict(made, None, None)
    assert any(words in problem for problem in verdict.problems), verdict.problems
    assert verdict.tone == ("bad" if made.bad_step else "warn")


def test_the_first_wait_for_data_is_no_problem() -> None:
    assert not pretrain_verdict(facts(steps=waiting(0.9, 0.0, 0.0)), None, None).problems


def test_an_untrained_decoder_is_said() -> None:
    (problem,) = pretrain_verdict(facts(), None, None, ("pixels",)).problems
    assert "the decoder of 'pixels' was never trained" in problem


def evaluation(**scores: tuple[float, float]) -> Evaluation:
    """Return scores of the model and of random weights, by probe."""

    def line(probe: str, name: str, value: float, spread: float) -> ProbeScore:
        return ProbeScore(
            features=name,
            probe=probe,
            labels=None,
            accuracy=value,
            accuracy_std=spread,
            balanced=value,
            balanced_std=spread,
            num_draws=1 if name == "model" else 3,
        )

    lines = [
        line(probe, name, value, spread)
        for name, place, spread in (("model", 0, 0.0), ("random initialisation", 1, 0.02))
        for probe, values in scores.items()
        for value in values[place : place + 1]
    ]
    return Evaluation(
        model="m",
        data="d",
        unit="tile",
        classes=("a", "b"),
        num_train=9,
        num_test=4,
        probes=tuple(lines),
    )


RANDOM_WEIGHTS = "than one with random weights"


@pytest.mark.parametrize(
    ("scores", "words", "fine"),
    [
        ({"linear": (0.9, 0.7)}, f"better {RANDOM_WEIGHTS}", True),
        ({"linear": (0.71, 0.7)}, f"no better {RANDOM_WEIGHTS}", False),
        ({"linear": (0.6, 0.7)}, f"worse {RANDOM_WEIGHTS}", False),
        ({"linear": (0.9, 0.7), "kNN": (0.9, 0.8)}, f"better {RANDOM_WEIGHTS}", True),
        (
            {"linear": (0.71, 0.7), "kNN": (0.9, 0.8)},
            f"better {RANDOM_WEIGHTS} in the kNN probe",
            True,
        ),
        (
            {"linear": (0.9, 0.7), "kNN": (0.7, 0.8)},
            f"better {RANDOM_WEIGHTS} in the linear probe and worse in the kNN probe",
            True,
        ),
    ],
)
def test_better_than_random_means_by_more_than_the_spread(
    scores: dict[str, tuple[float, float]], words: str, fine: bool
) -> None:
    verdict = pretrain_verdict(facts(), evaluation(**scores), None)
    assert verdict.headline.endswith(f"the encoder is {words}")
    assert bool(verdict.problems) is not fine
    for number, (probe, (model, _)) in enumerate(scores.items(), start=1):
        text = f"{probe} probe on frozen features: balanced accuracy {model:.3f}"
        assert verdict.findings[number].startswith(text)


def test_the_probe_table_marks_the_best() -> None:
    table = probe_blocks(evaluation(linear=(0.9, 0.7)))[1]
    assert table.kind == "table"
    rows = table.cells  # type: ignore[union-attr]
    assert [cell.text for cell in rows[0]] == ["model", "0.900"]
    assert [cell.text for cell in rows[1]] == ["random initialisation", "0.700 ± 0.020"]
    assert [row[1].strong for row in rows] == [True, False]


def scores(**changes: Any) -> dict[str, Any]:
    plain = {"task": "segment", "split": "test", "classes": ["a", "b"], "num_samples": 4}
    plain |= {"accuracy": 0.9, "balanced_accuracy": 0.8, "miou": 0.7, "count": [70, 30]}
    return plain | {"recall": [0.95, 0.65], "iou": [0.85, 0.55]} | changes


def test_scores_are_compared_with_the_most_frequent_class() -> None:
    verdict = finetune_verdict(facts(kind="finetune", scores=scores()))
    assert verdict.tone == "good"
    assert "finds 80% of a class on average, mean IoU 0.70" in verdict.headline
    assert any("would give 0.700" in text for text in verdict.findings)
    assert any("weakest b (IoU 0.55)" in text for text in verdict.findings)
    poor = finetune_verdict(facts(kind="finetune", scores=scores(accuracy=0.7)))
    assert any("most frequent class would score as well" in text for text in poor.problems)
    without = scores(count=[70, 0], recall=[0.95, None], iou=[0.85, None])
    missing = finetune_verdict(facts(kind="finetune", scores=without))
    assert any("the test has no b" in text for text in missing.problems)


def test_a_test_without_labels_is_a_problem() -> None:
    plain = {"task": "segment", "split": "test", "classes": ["a", "b"], "num_samples": 0}
    verdict = finetune_verdict(facts(kind="finetune", scores=plain))
    assert verdict.tone == "warn"
    assert "nothing is known about new places" in verdict.problems[0]


def test_numbers_that_are_missing_are_left_out() -> None:
    assert facts((2.0, None, 1.0)).ends("loss") == (2.0, 1.0)
    assert facts((None,)).ends("loss") is None
    assert math.isnan(facts((None, 1.0)).series("loss")[1][0])
    assert facts(()).mean_over_time("data_wait") is None
    assert [duration(s) for s in (42.4, 720.0, 36_000.0)] == ["42 s", "12 min", "10.0 h"]
