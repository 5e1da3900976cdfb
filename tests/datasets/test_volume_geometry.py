"""Where voxels lie, and that no operation on grids moves one."""

import math

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_volumes import geometries, geometry, hounsfield, rotation

from mimkit.datasets.volume_geometry import NETWORK_CODES, VolumeGeometry, corner_indices
from mimkit.datasets.volumes import Volume, resample

CODES = ("RAS", "LPS", "SPL", "ASR", "ILP")


def indexed(grid: VolumeGeometry) -> Volume:
    """Return a volume whose numbers say where each voxel is in the original grid."""
    return Volume(np.arange(math.prod(grid.shape)).reshape(grid.shape), grid)


@given(grid=geometries(), codes=st.sampled_from(CODES))
def test_turning_moves_no_voxel(grid: VolumeGeometry, codes: str) -> None:
    volume = indexed(grid)
    turned = volume.reoriented(codes)
    places = np.argwhere(turned.array >= 0)
    origin = np.stack(np.unravel_index(turned.array[tuple(places.T)], grid.shape), axis=1)
    moved = np.abs(turned.geometry.world(places) - grid.world(origin)).max()
    assert moved < 1e-9
    back = turned.turned_like(grid)
    assert back is not None
    assert np.array_equal(back.array, volume.array)
    assert back.geometry.distance(grid) < 1e-9


@pytest.mark.parametrize("codes", CODES)
def test_codes_are_those_of_nibabel(codes: str) -> None:
    turned = geometry(turn=20.0).reoriented(codes)
    assert turned.codes == codes == "".join(nibabel.aff2axcodes(turned.affine))


def test_network_order_has_slices_first_and_each_as_a_radiologist_sees_it() -> None:
    volume = hounsfield(geometry((6, 5, 4)))
    turned = volume.reoriented()
    assert turned.geometry.codes == NETWORK_CODES
    assert turned.array.shape == (4, 5, 6)
    assert np.array_equal(turned.array, volume.array.transpose(2, 1, 0))  # the file is LPS
    assert turned.geometry.spacing == pytest.approx((2.5, 0.9, 0.8))


@given(grid=geometries(), point=st.tuples(*[st.floats(-50, 50)] * 3))
def test_voxel_is_the_inverse_of_world(grid: VolumeGeometry, point: tuple[float, ...]) -> None:
    assert np.allclose(grid.voxel(grid.world(np.array(point))), point, atol=1e-6)


@given(grid=geometries())
def test_a_crop_keeps_places(grid: VolumeGeometry) -> None:
    start, size = (1, 0, -2), (2, 3, 9)
    crop = grid.crop(start, size)
    assert crop.shape == size
    assert np.allclose(crop.world(np.zeros(3)), grid.world(np.array(start)))


@given(grid=geometries(), spacing=st.tuples(*[st.floats(0.3, 8.0)] * 3))
def test_resampling_keeps_the_first_corner_and_covers_the_ground(
    grid: VolumeGeometry, spacing: tuple[float, float, float]
) -> None:
    new = grid.resampled(spacing)
    assert new.spacing == pytest.approx(spacing)
    corner = np.full(3, -0.5)
    assert np.allclose(new.world(corner), grid.world(corner), atol=1e-6)
    extents = np.array(new.shape) * new.spacing - np.array(grid.shape) * grid.spacing
    assert (np.abs(extents) <= np.maximum(np.array(spacing), 0) / 2 + 1e-6).all() or 1 in new.shape


def sheared(degrees: float, grid: VolumeGeometry) -> VolumeGeometry:
    """Tilt the stacking direction of a grid towards its second axis, slices staying as they are."""
    affine = grid.affine
    step, row = affine[:3, 2].copy(), grid.directions[:, 1]
    affine[:3, 2] = step + row * np.linalg.norm(step) * math.tan(math.radians(degrees))
    return VolumeGeometry.from_affine(affine, grid.shape)


@given(grid=geometries(), degrees=st.floats(1.0, 30.0))
def test_shear_is_measured_and_taken_out(grid: VolumeGeometry, degrees: float) -> None:
    assert grid.shear < 1e-5
    tilted = sheared(degrees, grid)
    assert tilted.shear == pytest.approx(degrees, abs=1e-6)
    upright = tilted.unsheared()
    assert upright.shear < 1e-5
    assert upright.spacing == pytest.approx(grid.spacing)
    inside = upright.voxel(tilted.world(corner_indices(tilted.shape)))
    assert inside.min() > -1e-6
    assert (inside <= np.array(upright.shape) - 1 + 1e-6).all()


def test_obliqueness_is_the_angle_to_the_patients_axes() -> None:
    axes = rotation(np.array([1.0, 0.0, 0.0]), 12.0)
    grid = VolumeGeometry.from_axes(axes, (1, 2, 3), (0, 0, 0), (4, 4, 4))
    assert grid.obliqueness == pytest.approx(12.0)
    assert grid.voxel_volume == pytest.approx(6.0)


@pytest.mark.parametrize("turn", [0.0, 25.0])
def test_interpolation_is_exact_for_a_field_linear_in_the_patient(turn: float) -> None:
    grid = geometry((12, 11, 10), turn=turn)
    slope = np.array([3.0, -2.0, 0.5])
    places = np.moveaxis(np.indices(grid.shape), 0, -1)
    volume = Volume((grid.world(places) @ slope).astype(np.float32), grid)
    target = geometry(spacing=(0.7, 0.6, 1.4)).crop((1, 1, 1), (7, 7, 4)).reoriented("SPL")
    result = resample(volume, target, fill=np.nan)
    expected = target.world(np.moveaxis(np.indices(target.shape), 0, -1)) @ slope
    indices = grid.voxel(target.world(np.moveaxis(np.indices(target.shape), 0, -1)))
    inner = ((indices >= 0) & (indices <= np.array(grid.shape) - 1)).all(axis=-1)
    beyond = ((indices < -0.51) | (indices > np.array(grid.shape) - 0.49)).any(axis=-1)
    assert inner.sum() > 50
    assert np.abs(result.array - expected)[inner].max() < 1e-2
    assert np.isnan(result.array[beyond]).all()
    assert np.isfinite(result.array[inner]).all()


def test_resampling_integers_rounds_and_keeps_their_type() -> None:
    volume = hounsfield(geometry((6, 6, 6), spacing=(1, 1, 1)))
    same = resample(volume, volume.geometry.reoriented("SPL"))
    assert same.array.dtype == np.int16
    assert np.array_equal(same.array, volume.reoriented("SPL").array)
    labels = Volume((volume.array > 0).astype(np.uint8) * 7, volume.geometry)
    finer = resample(labels, volume.geometry.resampled((0.5, 0.5, 0.5)), order=0)
    assert set(np.unique(finer.array)) == {0, 7}
    assert np.array_equal(finer.array[::2, ::2, ::2], labels.array)


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.diag([1.0, 1.0, 0.0, 1.0]), "flattens"),
        (np.diag([1.0, np.nan, 1.0, 1.0]), "not finite"),
        (np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]), "flattens"),
    ],
)
def test_an_affine_without_volume_is_refused(affine: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VolumeGeometry.from_affine(affine, (2, 2, 2))


@pytest.mark.parametrize("codes", ["RA", "RRS", "RLS", "XYZ", "ras"])
def test_a_wrong_orientation_is_refused(codes: str) -> None:
    with pytest.raises(ValueError, match="three letters"):
        geometry().reoriented(codes)


@pytest.mark.parametrize("order", [0, 1])
def test_parallel_grids_are_interpolated_as_any_others(
    order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(
        np.random.default_rng(0).normal(size=(9, 1, 12)).astype(np.float32),
        geometry((9, 1, 12), spacing=(1.0, 2.0, 3.0), turn=30.0),
    )
    target = volume.geometry.resampled((0.7, 0.9, 4.1)).crop((-2, 0, 1), (15, 3, 9))
    fast = resample(volume, target.reoriented("SAR"), order=order, fill=-5.0)
    monkeypatch.setattr("mimkit.datasets.volumes._STRAIGHT", -1.0)
    general = resample(volume, target.reoriented("SAR"), order=order, fill=-5.0)
    assert (fast.array == -5.0).any()
    assert np.abs(fast.array - general.array).max() < 1e-5
