"""The CT domain: Hounsfield units, the window, the body, crops and planes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mimkit.core.errors import UsageError
from mimkit.datasets.errors import DataError
from mimkit.datasets.samples import UNLABELLED
from mimkit.datasets.volume_geometry import VolumeGeometry
from mimkit.datasets.volumes import Volume
from mimkit.domains.ct.augment import VolumeAugmentConfig, VolumeView, fit_size, random_view
from mimkit.domains.ct.body import bounding_box, find_body
from mimkit.domains.ct.hounsfield import hounsfield_problem
from mimkit.domains.ct.normalise import Normaliser
from mimkit.domains.ct.prepare import network_grid, prepare
from mimkit.domains.planes import flat

STILL = VolumeAugmentConfig(flip=(0, 0, 0), rotate=0, intensity=0)
NORMALISER = Normaliser(scale=(1.0,), offset=(0.0,))


def chest(size: int = 48) -> np.ndarray:
    """Return a body of water in air, with two lungs that reach the lower end of the volume."""
    random = np.random.default_rng(0)
    _, y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij")
    hu = np.full(x.shape, -1000.0)
    hu[x**2 / 0.64 + y**2 / 0.36 < 1] = 40
    for side in (-0.35, 0.35):
        hu[(x - side) ** 2 / 0.04 + y**2 / 0.09 < 1] = -850
    return (hu + random.normal(0, 15, hu.shape)).astype(np.int16)


def test_the_window_is_that_of_the_release() -> None:
    """hi-end-mae.md, acceptance check 6."""
    hu = torch.tensor([-3024, -175, 37.5, 250, 3000]).reshape(1, 1, 1, 1, 5)
    expected = torch.tensor([0, 0, 0.5, 1, 1]).reshape(hu.shape)
    torch.testing.assert_close(NORMALISER(hu), expected)
    assert NORMALISER.find_data(hu).flatten().tolist() == [False, True, True, True, True]
    torch.testing.assert_close(NORMALISER.denormalise(expected), hu.clamp(-175, 250))


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda hu: hu + 1024, "not_hounsfield", "rescale intercept was lost"),
        (lambda hu: ((hu + 1024) / 12).clip(0, 255).astype(np.uint8), "not_hounsfield", "8-bit"),
        (lambda hu: ((hu + 1024) / 12).clip(0, 255), "not_hounsfield", "8-bit picture"),
        (lambda hu: (hu / 1000.0).astype(np.float32), "not_hounsfield", "normalised already"),
        (lambda hu: hu.clip(-100, 200), "truncated_range", "cut off at -100 HU"),
        (lambda hu: hu.clip(-1000, 30), "truncated_range", "cut off at 30 HU"),
        (lambda hu: np.zeros_like(hu), "low_contrast", "between 0 and 0"),
        (lambda hu: hu * 0 - 1000 + hu % 9, "not_hounsfield", "no body"),
    ],
)
def test_numbers_that_cannot_be_hounsfield_units_are_named(change, status: str, words: str) -> None:
    assert hounsfield_problem(chest().ravel()) is None
    problem = hounsfield_problem(np.ravel(change(chest())))
    assert problem is not None
    assert problem.status == status
    assert words in problem.reason


def test_a_model_refuses_numbers_of_another_scale() -> None:
    NORMALISER.check_values(chest()[None, None])
    with pytest.raises(DataError, match=r"scan.nii: .*intercept was lost"):
        NORMALISER.check_values(chest()[None, None] + 1024, subject="scan.nii")
    with pytest.raises(DataError, match="states scale and offset"):
        NORMALISER.check_scale([2.0], [0.0])


@pytest.mark.parametrize("change", [{"window": (250.0, -175.0)}, {"spacing": (1.0, 0.0, 1.0)}])
def test_a_normaliser_checks_itself(change: dict) -> None:
    with pytest.raises(UsageError):
        Normaliser(scale=(1.0,), offset=(0.0,), **change)


def test_the_body_holds_its_lungs_and_not_the_air_around_it() -> None:
    hu = chest()
    body = find_body(hu, (4.0, 4.0, 4.0))
    assert body[hu > -300].mean() > 0.99  # tissue
    assert body[:, 24, 12:36].all()  # the lungs, cut by both ends of the volume
    assert not body[:, :4].any()
    box = bounding_box(body)
    assert box is not None
    assert box[0] == (0, 48)
    assert box[1][0] > 4


def test_a_volume_of_air_has_no_body() -> None:
    air = np.full((16, 16, 16), -1000, np.int16)
    assert not find_body(air, (1.0, 1.0, 1.0)).any()
    assert bounding_box(find_body(air, (1.0, 1.0, 1.0))) is None


def test_inside_of_a_lung_everything_is_body() -> None:
    """A crop around a pulmonary artery: air cells touch all borders and are no air outside."""
    lung = np.random.default_rng(0).normal(-850, 30, (24, 24, 24)).astype(np.int16)
    lung[8:16, 8:16, 8:16] = 40
    assert find_body(lung, (2.0, 2.0, 2.0)).all()


def test_a_volume_is_turned_resampled_and_rounded() -> None:
    geometry = VolumeGeometry.from_affine(np.diag([1.0, 1.0, 2.0, 1.0]), (6, 8, 5))
    array = np.zeros((6, 8, 5), np.float32)
    array[5, 7, 4] = 99.6  # right, front, top
    made = prepare(Volume(array, geometry))
    assert made.array.dtype == np.int16
    assert made.array.shape == (5, 8, 6)
    assert made.array[4, 0, 0] == 100  # last slice, first row (front), first column (right)
    grid = network_grid(geometry, (2.0, 2.0, 2.0))
    assert grid.shape == (5, 4, 3)
    labels = prepare(Volume((array > 0).astype(np.uint8), geometry), (1.0, 1.0, 1.0), label=True)
    assert labels.array.dtype == np.uint8
    assert labels.array.shape == (10, 8, 6)
    assert set(np.unique(labels.array)) == {0, 1}


def view(num: int = 4, size: tuple[int, int, int] = (6, 10, 10)) -> VolumeView:
    labels = torch.arange(num * int(np.prod(size))).reshape(num, *size) % 200
    return VolumeView(labels[:, None].float() / 200, labels > 3, labels)


def seen(config: VolumeAugmentConfig, seed: int = 0, **more) -> VolumeView:
    given = view()
    rows = torch.arange(len(given.images))
    return random_view(given, rows, config, torch.Generator().manual_seed(seed), **more)


def test_crops_flips_and_turns_keep_voxels_together() -> None:
    config = VolumeAugmentConfig(rotate=1.0, intensity=0)
    made = seen(config, size=(4, 6, 8))
    assert made.images.shape == (4, 1, 4, 6, 8)
    assert made.labels is not None
    assert made.valid is not None
    torch.testing.assert_close(made.images[:, 0], made.labels.float() / 200)
    assert torch.equal(made.valid, made.labels > 3)
    first = view().labels
    assert first is not None
    assert not torch.equal(made.labels, first[:, :4, :6, :8])


def test_a_part_that_is_too_large_is_padded_with_what_is_absent() -> None:
    given = view()
    made = fit_size(VolumeView(given.images, None, given.labels), (8, 10, 6))
    assert made.valid is not None
    assert made.labels is not None
    assert not made.valid[:, [0, -1]].any()
    assert bool((made.labels[:, [0, -1]] == UNLABELLED).all())
    assert made.valid[:, 1:-1].all()
    torch.testing.assert_close(made.images[:, :, 1:-1], given.images[..., 2:8])


def test_intensity_changes_values_and_leaves_air_alone() -> None:
    config = VolumeAugmentConfig(flip=(0, 0, 0), rotate=0, gain=0.1, shift=0.1, intensity=1.0)
    made, same = seen(config), seen(STILL)
    assert same.valid is not None
    assert bool((made.images[~same.valid.unsqueeze(1)] == 0).all())
    assert not torch.allclose(made.images, same.images, atol=1e-3)
    assert float((made.images - same.images).abs().max()) <= 0.2 + 1e-6
    with pytest.raises(UsageError, match=r"flip\[1\]"):
        VolumeAugmentConfig(flip=(0.5, 1.5, 0.5))


def test_planes_are_hung_as_a_radiologist_hangs_them() -> None:
    volume = torch.zeros(1, 4, 6, 8)
    volume[0, 3] = 1  # towards the head
    volume[0, :, 0] = 2  # towards the front
    volume[0, :, :, 0] = 3  # the patient's right
    picture = flat(volume, 3, (2.0, 1.0, 1.0), fill=-1)[0]
    assert picture.shape == (8, 8 + 2 + 8 + 2 + 6)  # four slices of 2 mm are 8 mm high
    axial, coronal, sagittal = picture[:6, :8], picture[:, 10:18], picture[:, 20:]
    assert axial[0, 1:].tolist() == [2] * 7
    assert axial[:, 0].tolist() == [3] * 6
    assert coronal[0, 1:].tolist() == [1] * 7  # head up
    assert coronal[:, 0].tolist() == [3] * 8
    assert sagittal[2:, 0].tolist() == [2] * 6  # looks to the left
    assert picture[6:, :8].unique().tolist() == [-1]
