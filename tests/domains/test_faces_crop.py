"""Crops, points, poses and regions of faces, on drawn pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_faces import draw_face, face_box, face_points

from mimkit.core.errors import UsageError
from mimkit.core.masking.facial import CLASSES
from mimkit.datasets.errors import DataError
from mimkit.datasets.samples import Samples
from mimkit.datasets.store import StoreMeta
from mimkit.domains.faces.crop import (
    CropConfig,
    crop_transform,
    cut_crop,
    cut_map,
    refuse_other_crop,
    to_crop,
)
from mimkit.domains.faces.detect import Face, WholeImage, choose, face_from_box
from mimkit.domains.faces.domain import FACES
from mimkit.domains.faces.parsing import MIRRORED, draw_regions, find_map, read_map, translate
from mimkit.domains.faces.quality import blur, hidden_features, pose
from mimkit.domains.imaging.augment import AugmentConfig

ID = {name: place for place, name in enumerate(CLASSES)}


def drawn_face(size: tuple[int, int] = (160, 128)) -> Face:
    points = tuple((float(x), float(y)) for x, y in face_points(face_box(size)))
    return Face(face_box(size), 1.0, points)


def test_a_crop_of_its_own_size_copies_pixels() -> None:
    image = draw_face()
    face = drawn_face()
    side = round(face.side * 1.3)
    crop = CropConfig(size=side)
    transform = crop_transform(face, crop, *image.shape[:2])
    pixels, valid = cut_crop(image, transform, crop)
    left, top = int(transform[2]), int(transform[5])
    assert valid.all()
    assert np.array_equal(pixels, image[top : top + side, left : left + side])


@given(
    x=st.floats(-20, 120),
    y=st.floats(-20, 90),
    side=st.floats(8, 200),
    margin=st.floats(1, 3),
)
def test_an_unaligned_square_stays_inside_and_square(
    x: float, y: float, side: float, margin: float
) -> None:
    face = face_from_box((x, y, x + side, y + 0.8 * side))
    a, b, c, d, e, f = crop_transform(face, CropConfig(margin=margin, size=32), 80, 100)
    assert (b, d) == (0, 0)
    assert a == e > 0
    assert min(c, f) >= 0
    assert c + 32 * a <= 100 + 1e-9
    assert f + 32 * e <= 80 + 1e-9


@pytest.mark.parametrize("degrees", [-25.0, 10.0, 160.0])
def test_alignment_levels_the_eyes(degrees: float) -> None:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    upright = drawn_face()
    centre = np.array([80.0, 64.0])
    moved = (upright.array() - centre) @ turn.T + centre
    face = replace(upright, points=tuple(map(tuple, moved.tolist())))
    assert pose(face).roll == pytest.approx(degrees, abs=1e-6)
    assert pose(face).yaw == pytest.approx(pose(upright).yaw, abs=1e-9)
    for align in ("eyes", "similarity"):
        crop = CropConfig(align=align, size=64)
        points = to_crop(face.array(), crop_transform(face, crop, 128, 160))
        assert points[0, 1] == pytest.approx(points[1, 1], abs=0.5)
        assert points[0, 0] < points[1, 0]
        assert points[3, 1] > points[0, 1]  # the mouth is below, also of a face upside down


def test_similarity_maps_the_template_onto_itself() -> None:
    from mimkit.domains.faces.crop import TEMPLATE

    face = Face((30, 30, 80, 100), 1.0, TEMPLATE)
    crop = CropConfig(align="similarity", margin=1.0, size=112)
    assert crop_transform(face, crop, 112, 112) == pytest.approx((1, 0, 0, 0, 1, 0), abs=1e-9)


def test_beyond_the_picture_is_invalid_and_black() -> None:
    image = np.full((60, 60, 3), 200, np.uint8)
    face = face_from_box((20, 20, 70, 70))
    crop = CropConfig(align="eyes", size=32)
    pixels, valid = cut_crop(image, crop_transform(face, crop, 60, 60), crop)
    assert 0 < valid.mean() < 1
    assert (pixels[~valid] == 0).all()
    assert (pixels[valid] > 90).all()


def test_maps_are_cut_as_pixels_are() -> None:
    """A map whose classes are the grey values of the picture is the same picture after cutting."""
    labels = np.kron(np.arange(64).reshape(8, 8), np.ones((10, 10))).astype(np.uint8)
    image = np.repeat(labels[..., None], 3, axis=2)
    face = face_from_box((20, 20, 60, 60))
    for align in ("none", "eyes"):
        crop = CropConfig(size=26, margin=1.3, align=align, interpolation="nearest")
        transform = crop_transform(face, crop, 80, 80)
        pixels, valid = cut_crop(image, transform, crop)
        same = cut_map(labels, transform, 26)[valid] == pixels[..., 0][valid]
        assert same.mean() > 0.97  # nearest pixels on an edge may fall either way


def test_a_whole_picture_is_its_own_crop() -> None:
    image = draw_face((100, 140))
    (face,) = WholeImage(1.3)(image, "")
    transform = crop_transform(face, CropConfig(size=50), *image.shape[:2])
    assert transform == (2.0, 0.0, 0.0, 0.0, 2.0, 20.0)
    assert face.estimated


def test_which_of_several_faces() -> None:
    small, large = face_from_box((45, 45, 60, 60), 0.99), face_from_box((0, 0, 40, 40), 0.95)
    faces = [small, large]
    assert choose(faces, "largest", (100, 100)) == [large]
    assert choose(faces, "central", (100, 100)) == [small]
    assert choose(faces, "all", (100, 100)) == [large, small]
    assert choose(faces, "reject", (100, 100)) == []
    assert choose([small], "reject", (100, 100)) == [small]


def test_another_crop_is_refused() -> None:
    crop = CropConfig()
    refuse_other_crop(crop, CropConfig(), "store")
    with pytest.raises(DataError, match=r"none-1\.5-224-bicubic-v1, and the model is for none-1\."):
        refuse_other_crop(crop, CropConfig(margin=1.5), "store")
    with pytest.raises(DataError, match="cropped as unknown"):
        refuse_other_crop(crop, None, "store")
    with pytest.raises(UsageError, match=r"crop\.margin: is 0\.5"):
        CropConfig(margin=0.5)


def test_drawn_regions_lie_on_the_features() -> None:
    points = face_points((10, 10, 90, 110))
    regions = draw_regions(points, 128)
    at = [regions[int(y), int(x)] for x, y in points[:2]]
    assert at == [ID["right_eye"], ID["left_eye"]]
    x, y = points[2]
    assert regions[int(y - 3), int(x)] == ID["nose"]
    x, y = points[3:].mean(axis=0)
    assert regions[int(y), int(x)] == ID["inner_mouth"]
    assert regions[127, 127] == ID["background"]
    assert set(np.unique(regions)) == set(range(len(CLASSES)))
    assert hidden_features(regions) == ()
    assert hidden_features(np.where(regions == ID["left_eye"], 1, regions)) == ("left eye",)


def test_maps_of_parsers_become_ours(tmp_path: Path) -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[5:8, 3:6], labels[5:8, 14:17], labels[12:14, 8:12] = 4, 5, 11  # CelebAMask: eyes, lip
    ours = translate(labels, "celebamask", "map")
    assert ours[6, 4] == ID["right_eye"]  # whatever the source calls it, it is on the left
    assert ours[6, 15] == ID["left_eye"]
    assert ours[13, 10] == ID["upper_lip"]
    assert np.array_equal(translate(labels[:, ::-1], "celebamask", "map")[6, 4:7], ours[6, 4:7])
    with pytest.raises(DataError, match="has a class 11, and lapa has 0 to 10"):
        translate(labels, "lapa", "map.png")
    path = tmp_path / "a" / "1.png"
    path.parent.mkdir()
    Image.fromarray(labels).save(path)
    assert find_map(tmp_path, "a/1.jpg") == path
    assert read_map(path, "celebamask", (40, 40), "resize")[12, 8] == ID["right_eye"]
    with pytest.raises(DataError, match="is 20x20 pixels and its picture 40x40"):
        read_map(path, "celebamask", (40, 40), "reject")
    path.write_bytes(b"not a picture")
    with pytest.raises(DataError, match="no map that can be read"):
        read_map(path, "lapa", (20, 20), "reject")


def test_blur_is_seen() -> None:
    from PIL import ImageFilter

    sharp = draw_face((224, 224))
    soft = np.asarray(Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(3)))
    assert blur(sharp) > 100 > 30 > blur(soft)


def test_a_mirror_changes_the_sides_of_regions() -> None:
    """The region map of a mirrored face is that of a face: right is left of left."""
    meta = StoreMeta(
        domain="faces",
        sensor="face",
        bands=("red", "green", "blue"),
        size=(64, 64),
        dtype="uint8",
        scale=(1 / 255,) * 3,
        offset=(0.0,) * 3,
        num_samples=8,
        shard=8,
        regions=CLASSES,
        facts={"crop": CropConfig(size=64).to_dict()},
    )
    regions = draw_regions(face_points((7, 7, 57, 57)), 64)
    image = np.zeros((3, 64, 64), np.uint8)
    image[:, regions == ID["right_eye"]] = 255
    samples = Samples(np.stack([image] * 8), None, np.arange(8), regions=np.stack([regions] * 8))
    normaliser = FACES.fit(meta, [(samples.pixels, None)])
    config = AugmentConfig(rotate=False, min_area=1, max_ratio=1)
    generator = torch.Generator().manual_seed(0)
    batch = FACES.to_batch(samples, meta, normaliser, augment=config, generator=generator)
    assert batch.regions is not None
    mirrored = 0
    for seen, found in zip(batch.images, batch.regions, strict=True):
        columns = [
            (found == ID[name]).nonzero()[:, 1].float().mean()
            for name in ("right_eye", "left_eye", "right_brow", "left_brow")
        ]
        assert columns[0] < columns[1]
        assert columns[2] < columns[3]
        bright = (seen[0] > seen[0].mean() + 1).nonzero()[:, 1].float().mean()
        mirrored += int(bright > 32)
    assert 0 < mirrored < 8
    assert [MIRRORED[i] for i in MIRRORED] == list(range(len(CLASSES)))
    with pytest.raises(UsageError, match="upside down"):
        FACES.to_batch(samples, meta, normaliser, augment=AugmentConfig(), generator=generator)
    other = replace(meta, facts={"crop": CropConfig(size=64, margin=2).to_dict()})
    with pytest.raises(DataError, match="cropped as none-2-64"):
        FACES.to_batch(samples, other, normaliser)
