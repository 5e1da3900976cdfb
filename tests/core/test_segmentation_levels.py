"""Heads with levels on images and volumes, their losses, and what they learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mimkit.core.batch import Batch, Progress
from mimkit.core.encoders.vit import ViT
from mimkit.core.grid import Grid
from mimkit.core.heads.segmentation import doubling_scales, tap_levels
from mimkit.core.heads.supervised import Supervised
from mimkit.core.heads.task import TaskConfig, TaskModel, usual_taps
from mimkit.core.heads.unetr import UnetrHead
from mimkit.core.noise import Noise
from mimkit.core.objectives.segmentation import coarser, dice_loss, focal_loss
from mimkit.core.training.engine import PlainEngine
from mimkit.core.training.optim import OptimConfig

KINDS = ("simple", "unetr", "hierarchical")
SEGMENT = TaskConfig(
    task="segment",
    classes=("background", "ball"),
    image_size=(8, 16, 16),
    taps=(0, 1, -1),
    dim=16,
    stem_dim=8,
)


def make(
    patch: tuple[int, ...], size: tuple[int, ...], depth: int = 3, **options: Any
) -> TaskModel:
    torch.manual_seed(0)
    grid = Grid.for_image(size, patch, 1)
    return TaskModel(ViT(grid, 16, depth, 2), replace(SEGMENT, image_size=size, **options))


def balls(num: int, seed: int = 0) -> Batch:
    """Return noisy volumes with a brighter ball, and a shell that nobody labelled."""
    random = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.arange(n) for n in (8, 16, 16)), indexing="ij")
    where = torch.stack([a.float() for a in axes])
    centre = torch.rand(num, 3, generator=random) * torch.tensor([4.0, 8.0, 8.0]) + 2.0
    away = (where - centre[:, :, None, None, None]).square().sum(1).sqrt()
    labels = (away < 3.0).long()
    images = labels + torch.randn(labels.shape, generator=random)
    labels[(away >= 3.0) & (away < 3.5)] = 255
    return Batch(images[:, None], None, torch.arange(num), labels)


def supervised(model: TaskModel, **options: Any) -> Supervised:
    return Supervised(model, torch.tensor([0.5, 1.5]), 1000.0, **options)


def per_sample(losses: Supervised, batch: Batch) -> torch.Tensor:
    return losses(batch, Progress(0.0, 1), Noise()).per_sample


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("patch", "size"),
    [((4, 8, 8), (8, 16, 16)), ((12, 12, 12), (12, 24, 12)), ((6, 16), (12, 32)), ((1, 1), (5, 4))],
)
def test_scores_have_the_resolution_of_any_grid(
    kind: Any, patch: tuple[int, ...], size: tuple[int, ...]
) -> None:
    model = make(patch, size, head=kind)
    assert model(Batch(torch.randn(2, 1, *size), None, torch.arange(2))).shape == (2, 2, *size)
    larger = [2 * n for n in size]
    assert model(Batch(torch.randn(1, 1, *larger), None, torch.arange(1))).shape[2:] == (*larger,)


def test_levels_and_the_taps_that_enter_there() -> None:
    assert doubling_scales((12,)) == [(1,), (2,), (4,), (8,), (12,)]
    assert doubling_scales((4, 8)) == [(1, 1), (2, 2), (4, 4), (4, 8)]
    assert tap_levels((3, 6, 9, -1), 4) == ((-1,), (9,), (6,), (3,))
    assert tap_levels((3, 6, 9, -1), 3) == ((-1, 9), (6,), (3,))
    assert tap_levels((2, -1), 4) == ((-1,), (), (), (2,))
    assert usual_taps("unetr", 12, (16, 16, 16)) == (3, 6, 9, -1)
    assert usual_taps("unetr", 12, (4, 8, 8), read=(9, 6, 3)) == (3, 6, 9, -1)
    assert usual_taps("hierarchical", 12, (8, 8, 8), read=(-1,)) == (4, 8, -1)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_every_parameter_learns_from_all_levels(kind: Any) -> None:
    model = make((4, 8, 8), (8, 16, 16), head=kind, deep_supervision=True)
    per_sample(supervised(model, loss="dice-ce"), balls(2)).mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_unetr_is_monais() -> None:
    """The decoder gives what MONAI's UNETR gives from the same hidden states and weights."""
    from monai.networks.nets.unetr import UNETR

    torch.manual_seed(0)
    grid = Grid.for_image((32, 32, 32), 16, 1)
    theirs = UNETR(1, 3, (32, 32, 32), feature_size=4, hidden_size=16, mlp_dim=16, num_heads=2)
    head = UnetrHead(grid, 16, 3, (3, 6, 9, -1), feature_size=4)
    ours = head.state_dict()
    names = head.monai_names()
    decoder = {k: v for k, v in theirs.state_dict().items() if not k.startswith("vit.")}
    assert sorted(names.values()) == sorted(decoder)
    assert all(ours[name].shape == decoder[other].shape for name, other in names.items())
    head.load_state_dict({name: decoder[other] for name, other in names.items()})
    encoder = ViT(grid, 16, 12, 2, class_token=False)
    image = torch.randn(1, 1, 32, 32, 32)
    features = encoder.encode(image, taps=(3, 6, 9))
    hidden = [features.taps.get(i, torch.zeros(())) for i in range(12)]
    theirs.vit.forward = lambda x: (features.sequence, hidden)  # type: ignore[method-assign]
    torch.testing.assert_close(head(features, image), theirs(image))


def test_losses_leave_unlabelled_places_out_and_equal_monais_on_the_rest() -> None:
    from monai.losses.dice import DiceLoss
    from monai.losses.focal_loss import FocalLoss

    random = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 4, 4, 4, generator=random)
    target = torch.randint(0, 3, (2, 4, 4, 4), generator=random)
    target[:, 0] = 255
    known, truth = scores[:, :, 1:], target[:, None, 1:]
    options = {"to_onehot_y": True, "reduction": "none"}
    dice = DiceLoss(softmax=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-6, **options)
    torch.testing.assert_close(dice_loss(scores, target), dice(known, truth).flatten(1).mean(1))
    focal = FocalLoss(use_softmax=True, **options)(known, truth).flatten(1).sum(1)
    torch.testing.assert_close(focal_loss(scores, target, torch.ones(3)), focal)
    nothing = torch.full_like(target, 255)
    assert dice_loss(scores, nothing).tolist() == [0.0, 0.0]
    assert focal_loss(scores, nothing, torch.ones(3)).tolist() == [0.0, 0.0]
    right = 50.0 * torch.nn.functional.one_hot(target % 3, 3).movedim(-1, 1).float()
    assert dice_loss(right, target).abs().max() < 1e-5


def test_coarse_labels_are_those_in_the_middle_of_cells() -> None:
    labels = torch.tensor([[0, 0, 0, 7, 255, 255, 1, 1, 1]])
    assert coarser(labels, (3,)).tolist() == [[0, 255, 1]]
    assert coarser(labels, (9,)) is labels


@pytest.mark.parametrize("loss", ["cross-entropy", "dice-ce", "dice-focal"])
def test_a_batch_may_be_cut_anywhere(loss: Any) -> None:
    model = make((4, 8, 8), (8, 16, 16), head="unetr", deep_supervision=True).eval()
    losses, batch = supervised(model, loss=loss), balls(3)
    assert batch.labels is not None
    pieces = zip(batch.images.split(2), batch.ids.split(2), batch.labels.split(2), strict=True)
    parts = [per_sample(losses, Batch(images, None, *rest)) for images, *rest in pieces]
    torch.testing.assert_close(per_sample(losses, batch), torch.cat(parts))


def test_unlabelled_voxels_change_no_loss() -> None:
    model = make((4, 8, 8), (8, 16, 16), head="unetr", deep_supervision=True).eval()
    batch = balls(2)
    assert batch.labels is not None
    batch = replace(batch, labels=torch.full_like(batch.labels, 255))
    for loss in ("dice-ce", "dice-focal"):
        assert per_sample(supervised(model, loss=loss), batch).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_ball_is_found_better_than_by_a_constant_answer(kind: Any) -> None:
    model = make((4, 8, 8), (8, 16, 16), head=kind, deep_supervision=kind != "simple")
    optim = OptimConfig(base_lr=0.16, warmup_epochs=0, layer_decay=None, clip_grad=1.0)
    losses = supervised(model, loss="dice-ce")
    engine = PlainEngine(losses, optim, batch_size=8, num_epochs=40)
    for step in range(40):
        engine.step([balls(8, step + 1)], Progress(step, 40), Noise())
    batch = balls(8, seed=0)
    assert batch.labels is not None
    known = batch.labels != 255
    truth = (batch.labels == 1)[known]
    with torch.no_grad():
        guess = (model.eval()(batch).argmax(1) == 1)[known]
    found = 2 * (guess & truth).sum() / (guess.sum() + truth.sum())
    constant = 2 * truth.sum() / (len(truth) + truth.sum())  # everything is ball
    assert found > constant + 0.3
