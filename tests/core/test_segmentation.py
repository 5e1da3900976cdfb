"""Heads for tasks: shapes, sharpness, missing data, storage, scores."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mimkit.core.batch import Batch
from mimkit.core.checkpoints.model_dir import save_model
from mimkit.core.encoders.vit import ViT
from mimkit.core.errors import UsageError, WeightsError
from mimkit.core.grid import Grid
from mimkit.core.heads.metrics import Scores, confusion
from mimkit.core.heads.segmentation import default_taps, upsampling_steps
from mimkit.core.heads.task import TaskConfig, TaskModel, load_task
from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig, build
from mimkit.core.objectives.labels import balanced_weights, cross_entropy

SEGMENT = TaskConfig(
    task="segment",
    classes=("water", "land", "cloud"),
    image_size=(16, 24),
    taps=(0, -1),
    dim=16,
    stem_dim=8,
)
CLASSIFY = TaskConfig(task="classify", classes=("a", "b"), image_size=(16, 24))


def make(config: TaskConfig, patch: tuple[int, int] = (8, 4), channels: int = 5) -> TaskModel:
    torch.manual_seed(0)
    grid = Grid.for_image((16, 24), patch, channels)
    model = TaskModel(ViT(grid, 16, 2, 2), config)
    with torch.no_grad():
        for parameter in model.head.parameters():
            if parameter.ndim > 1:  # the last layer starts so small that nothing would show
                parameter.normal_(std=0.2)
    return model.eval()


def images(*shape: int, valid: torch.Tensor | None = None) -> Batch:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    return Batch(values, valid, torch.arange(shape[0]))


@pytest.mark.parametrize("patch", [(8, 4), (1, 1), (16, 3)])
@pytest.mark.parametrize("channels", [1, 13])
def test_scores_have_the_resolution_of_any_image(patch: tuple[int, int], channels: int) -> None:
    model = make(SEGMENT, patch, channels)
    assert model(images(2, channels, 16, 24)).shape == (2, 3, 16, 24)
    assert model(images(1, channels, 32, 48)).shape == (1, 3, 32, 48)


def test_taps_and_steps() -> None:
    assert default_taps(12) == (2, 5, 8, -1)
    assert default_taps(2) == (0, -1)
    assert default_taps(1) == (-1,)
    assert upsampling_steps((16, 14)) == [(2, 2), (2, 7), (2, 1), (2, 1)]


def test_every_parameter_of_head_and_encoder_learns() -> None:
    model = make(SEGMENT)
    loss = cross_entropy(model(images(2, 5, 16, 24)), torch.randint(0, 3, (2, 16, 24)))
    loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # The key bias shifts all attention scores of a query alike, the final norm is a tap here.
    assert without == []


def test_a_prediction_does_not_depend_on_its_batch() -> None:
    model, batch = make(SEGMENT), images(3, 5, 16, 24)
    alone = torch.cat(
        [model(replace(batch, images=i[None], ids=batch.ids[:1])) for i in batch.images]
    )
    torch.testing.assert_close(model(batch), alone, rtol=1e-5, atol=1e-5)


def test_pixels_without_data_change_nothing() -> None:
    valid = torch.ones(2, 16, 24, dtype=torch.bool)
    valid[:, :, :9] = False
    for config in (SEGMENT, CLASSIFY):
        model, batch = make(config), images(2, 5, 16, 24, valid=valid)
        garbage = batch.images.clone()
        garbage[:, :, :, :9] = math.nan
        torch.testing.assert_close(model(batch), model(replace(batch, images=garbage)))


def test_absent_tokens_are_not_read() -> None:
    # The head's convolutions see zeros there; the encoder must not see the tokens at all.
    valid = torch.ones(1, 16, 24, dtype=torch.bool)
    valid[:, :8, :4] = False
    model, batch = make(CLASSIFY), images(1, 5, 16, 24, valid=valid)
    kept = {}
    original = model.encoder.encode

    def spy(*args, **kwargs):
        kept["features"] = original(*args, **kwargs)
        return kept["features"]

    model.encoder.encode = spy  # type: ignore[method-assign]
    model(batch)
    assert kept["features"].readable[0].tolist() == [True, False, *[True] * 11]


def test_a_pixel_edge_inside_a_patch_can_be_learned() -> None:
    torch.manual_seed(0)
    grid = Grid.for_image((16, 16), (8, 8), 1)
    config = replace(SEGMENT, classes=("dark", "bright"), image_size=(16, 16), taps=(-1,))
    model = TaskModel(ViT(grid, 16, 1, 2), config)
    pixels = (torch.rand(8, 1, 16, 16) > 0.5).float()
    target = pixels[:, 0].long()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        batch = Batch(pixels, None, torch.arange(8))
        cross_entropy(model(batch), target).backward()
        optimiser.step()
    predicted = model(Batch(pixels, None, torch.arange(8))).argmax(1)
    assert (predicted == target).float().mean() > 0.99


def test_losses_leave_unlabelled_places_out() -> None:
    scores = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 3, (2, 4, 4))
    target[:, :2] = 255
    changed = scores.clone()
    changed[:, :, :2] += 5.0
    weight = torch.tensor([1.0, 2.0, 4.0])
    assert cross_entropy(scores, target) == cross_entropy(changed, target)
    expected = torch.nn.functional.cross_entropy(scores, target, weight, ignore_index=255)
    torch.testing.assert_close(cross_entropy(scores, target, weight), expected)
    unknown = torch.full_like(target, 255)
    assert cross_entropy(scores, unknown) == 0


def test_class_weights_fall_with_frequency() -> None:
    weight = balanced_weights(torch.tensor([100.0, 25.0, 0.0]))
    torch.testing.assert_close(weight, torch.tensor([2 / 3, 4 / 3, 0.0]))


def test_scores_from_a_confusion_matrix() -> None:
    predicted, target = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 0, 0, 1, 255])
    scores = Scores.of(confusion(predicted, target, 3))
    assert scores.accuracy == 0.75
    assert scores.recall == (2 / 3, 1.0, None)
    assert scores.iou == (2 / 3, 0.5, None)
    assert scores.miou == pytest.approx(7 / 12)
    assert scores.count == (3, 1, 0)


def test_a_head_that_cannot_work_is_refused() -> None:
    grid = Grid.for_image((16, 24), 8, 3)
    with pytest.raises(UsageError, match="at least 2"):
        replace(SEGMENT, classes=("one",)).build(grid, 16)
    with pytest.raises(UsageError, match="more than 255"):
        replace(CLASSIFY, classes=tuple(map(str, range(256)))).build(grid, 16)
    with pytest.raises(UsageError, match="deep_supervision: needs a head with levels"):
        replace(SEGMENT, deep_supervision=True).build(grid, 16)


def saved(directory, task: TaskConfig | None):
    config = MAEConfig(
        encoder=EncoderConfig(embed_dim=16, depth=2, num_heads=2, patch_size=8),
        decoder=DecoderConfig(dim=16, depth=1, num_heads=2),
    )
    method = build(config, Grid.for_image((16, 24), 8, 5))
    model = TaskModel(method.encoder, task or SEGMENT)
    extra = {"extra": {"task": task}, "parts": {"head": model.head}} if task else {}
    save_model(directory, method, config, normaliser={}, recipe="", data={}, **extra)
    return model.eval()


def test_a_task_model_comes_back_from_its_directory(tmp_path) -> None:
    model = saved(tmp_path, SEGMENT)
    loaded = load_task(tmp_path)
    assert loaded.config == SEGMENT
    batch = images(1, 5, 16, 24)
    torch.testing.assert_close(loaded.model(batch), model(batch), rtol=0, atol=0)


def test_an_encoder_without_head_says_what_to_do(tmp_path) -> None:
    saved(tmp_path, None)
    with pytest.raises(UsageError, match="mimkit finetune") as error:
        load_task(tmp_path)
    assert error.value.exit_code == 2


def test_a_head_of_another_shape_is_refused(tmp_path) -> None:
    saved(tmp_path, SEGMENT)
    text = (tmp_path / "config.json").read_text().replace('"dim": 16', '"dim": 32', 2)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError):
        load_task(tmp_path)
