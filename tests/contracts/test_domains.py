"""What every registered domain must do, on stored numbers that are made here."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mimkit.core.batch import Batch
from mimkit.core.errors import UsageError
from mimkit.datasets.errors import DataError
from mimkit.datasets.samples import UNLABELLED, Samples
from mimkit.datasets.store import StoreMeta
from mimkit.domains.domain import DOMAINS, Domain, Normaliser, get_domain
from mimkit.domains.planes import flat

EXAMPLES = {
    "satellite": StoreMeta(
        domain="satellite",
        sensor="sentinel2-l2a",
        bands=("B02", "B03", "B04", "B08"),
        size=(24, 32),
        dtype="uint16",
        scale=(1e-4,) * 4,
        offset=(0.0,) * 4,
        units="reflectance",
        num_samples=6,
        shard=6,
        nodata=0,
        classes=("a", "b", "c"),
    ),
    "ct": StoreMeta(
        domain="ct",
        sensor="ct",
        bands=("ct",),
        size=(16, 24, 32),
        dtype="int16",
        scale=(1.0,),
        offset=(0.0,),
        units="HU",
        num_samples=6,
        shard=6,
        classes=("a", "b", "c"),
    ),
    "faces": StoreMeta(
        domain="faces",
        sensor="face",
        bands=("red", "green", "blue"),
        size=(24, 32),
        dtype="uint8",
        scale=(1 / 255,) * 3,
        offset=(0.0,) * 3,
        units="intensity",
        num_samples=6,
        shard=6,
        classes=("a", "b", "c"),
    ),
}
RANGES = {"satellite": (100, 9000), "ct": (-900, 1200), "faces": (0, 256)}
"""Stored numbers that occur."""

BRIGHT_DARK = {"satellite": (8000, 200), "ct": (200, -100), "faces": (220, 20)}
"""Stored numbers that no clipping makes equal."""


def test_every_domain_has_an_example() -> None:
    assert EXAMPLES.keys() == DOMAINS.keys()


def test_unknown_domain_is_an_answer() -> None:
    with pytest.raises(UsageError, match="'moon': is not known; use one of ct, faces, "):
        get_domain("moon")


@pytest.fixture(params=sorted(DOMAINS))
def meta(request: pytest.FixtureRequest) -> StoreMeta:
    return EXAMPLES[request.param]


@pytest.fixture
def domain(meta: StoreMeta) -> Domain:
    return get_domain(meta.domain)


@pytest.fixture
def stored(meta: StoreMeta) -> Samples:
    random = np.random.default_rng(5)
    shape = (meta.num_samples, *meta.size)
    all_pixels = (meta.num_samples, meta.num_channels, *meta.size)
    pixels = random.integers(*RANGES[meta.domain], all_pixels)
    valid = random.random(shape) > 0.2
    labels = random.integers(0, len(meta.classes), shape).astype(np.uint8)
    labels[~valid] = UNLABELLED
    rows = np.array([4, 0, 5, 2, 1, 3])
    return Samples(pixels.astype(meta.dtype), valid, rows, labels)


@pytest.fixture
def normaliser(domain: Domain, meta: StoreMeta, stored: Samples) -> Normaliser:
    return domain.fit(meta, [(stored.pixels, stored.valid)])


def augmented(
    domain: Domain, stored: Samples, meta: StoreMeta, normaliser: Normaliser, seed: int = 0
) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return domain.to_batch(stored, meta, normaliser, augment=True, generator=generator)


def test_it_fills_the_contract(domain: Domain, meta: StoreMeta, normaliser: Normaliser) -> None:
    assert isinstance(domain, Domain)
    assert isinstance(normaliser, Normaliser)
    assert domain.name == meta.domain == normaliser.domain
    assert normaliser.bands == meta.bands
    assert all(band in domain.describe(meta) for band in meta.bands)
    assert normaliser.units in domain.describe(normaliser)


def test_batch_has_the_shapes_asked_for(
    domain: Domain, meta: StoreMeta, stored: Samples, normaliser: Normaliser
) -> None:
    size = tuple(16 for _ in meta.size)
    for augment in (False, True):
        batch = domain.to_batch(
            stored,
            meta,
            normaliser,
            size=size,
            augment=augment,
            generator=torch.Generator().manual_seed(1),
        )
        assert batch.images.shape == (6, meta.num_channels, *size)
        assert batch.images.dtype == torch.float32
        assert batch.valid is not None
        assert batch.valid.shape == (6, *size)
        assert batch.labels is not None
        assert batch.labels.dtype == torch.int64
        assert set(batch.labels.unique().tolist()) <= {0, 1, 2, UNLABELLED}
        assert batch.ids.tolist() == stored.rows.tolist()


def test_without_augmentation_pixels_stay_where_they_are(
    domain: Domain, meta: StoreMeta, stored: Samples, normaliser: Normaliser
) -> None:
    batch = domain.to_batch(stored, meta, normaliser)
    assert torch.equal(batch.images, normaliser(stored.pixels, stored.valid))
    assert batch.valid is not None
    assert stored.valid is not None
    assert np.array_equal(batch.valid.numpy(), stored.valid)
    assert batch.labels is not None
    assert stored.labels is not None
    assert np.array_equal(batch.labels.numpy(), stored.labels)


def test_valid_and_labels_move_with_the_pixels(
    domain: Domain, meta: StoreMeta, normaliser: Normaliser
) -> None:
    """A bright half is valid and of class 1, a dark half is neither; no view may part them."""
    left = np.zeros((6, *meta.size), bool)
    left[..., : meta.size[-1] // 2] = True
    pixels = np.where(left[:, None], *BRIGHT_DARK[meta.domain]).repeat(meta.num_channels, axis=1)
    rows = np.arange(6)
    samples = Samples(pixels.astype(meta.dtype), left, rows, left.astype(np.uint8))
    seen = augmented(domain, samples, meta, normaliser)
    assert seen.valid is not None
    assert seen.labels is not None
    assert bool(seen.valid.any())
    assert not bool(seen.valid.all())
    assert torch.equal(seen.valid, seen.labels == 1)
    unmoved = normaliser(samples.pixels[:1])[0].flatten(1)
    bright, dark = unmoved[:, 0], unmoved[:, -1]
    valid = seen.valid.unsqueeze(1).expand_as(seen.images)
    for image, keep in zip(seen.images, seen.valid, strict=True):
        values = image[:, keep]
        # Dark, invalid neighbours must not leak into valid pixels by interpolation.
        assert torch.allclose(values, values[:, :1].expand_as(values), atol=1e-5)
        assert bool(((values - bright[:, None]).abs() < (bright - dark)[:, None].abs() / 2).all())
    assert bool((seen.images[~valid] == 0).all())


def test_generator_decides_the_views(
    domain: Domain, meta: StoreMeta, stored: Samples, normaliser: Normaliser
) -> None:
    once = augmented(domain, stored, meta, normaliser, seed=3)
    again = augmented(domain, stored, meta, normaliser, seed=3)
    other = augmented(domain, stored, meta, normaliser, seed=4)
    assert torch.equal(once.images, again.images)
    assert not torch.equal(once.images, other.images)


def test_views_do_not_depend_on_the_rest_of_the_batch(
    domain: Domain, meta: StoreMeta, stored: Samples, normaliser: Normaliser
) -> None:
    whole = augmented(domain, stored, meta, normaliser)
    assert stored.valid is not None
    assert stored.labels is not None
    for part in (slice(0, 2), slice(2, 6)):
        some = Samples(
            stored.pixels[part], stored.valid[part], stored.rows[part], stored.labels[part]
        )
        seen = augmented(domain, some, meta, normaliser)
        assert torch.equal(seen.images, whole.images[part])
        assert seen.labels is not None
        assert whole.labels is not None
        assert torch.equal(seen.labels, whole.labels[part])


def test_augmentation_needs_a_generator(
    domain: Domain, meta: StoreMeta, stored: Samples, normaliser: Normaliser
) -> None:
    with pytest.raises(UsageError, match="no generator"):
        domain.to_batch(stored, meta, normaliser, augment=True)


def test_normaliser_survives_json(domain: Domain, stored: Samples, normaliser: Normaliser) -> None:
    again = domain.normaliser(json.loads(json.dumps(normaliser.to_dict())))
    assert again == normaliser
    assert torch.equal(again(stored.pixels, stored.valid), normaliser(stored.pixels, stored.valid))


def test_normaliser_is_read_strictly(domain: Domain, normaliser: Normaliser) -> None:
    plain = normaliser.to_dict()
    for wrong in (
        {"domain": "another"},
        {"bands": list(normaliser.bands[1:])},
        {"surprise": 1},
        {"scale": [0.0] * len(normaliser.bands)},
    ):
        with pytest.raises(UsageError):
            domain.normaliser(plain | wrong)
    with pytest.raises(UsageError, match="missing"):
        domain.normaliser({k: v for k, v in plain.items() if k != "scale"})


def test_other_band_order_is_refused(
    domain: Domain, meta: StoreMeta, stored: Samples, normaliser: Normaliser
) -> None:
    several = len(meta.bands) > 1
    turned = replace(meta, bands=meta.bands[::-1] if several else ("mr",))
    with pytest.raises(UsageError, match="order" if several else "lacks"):
        domain.to_batch(stored, turned, normaliser)
    with pytest.raises(UsageError, match=f"scene.tif: lacks {meta.bands[0]}"):
        normaliser.check_bands(meta.bands[1:], "scene.tif")


def test_no_pixels_no_normaliser(domain: Domain, meta: StoreMeta, stored: Samples) -> None:
    with pytest.raises(DataError, match="no valid pixel"):
        domain.fit(meta, [(stored.pixels, np.zeros_like(stored.valid))])


def test_pictures(domain: Domain, meta: StoreMeta, stored: Samples, normaliser: Normaliser) -> None:
    batch = domain.to_batch(stored, meta, normaliser)
    bands = domain.display_bands(meta)
    assert bands == domain.display_bands(normaliser)
    assert all(0 <= band < meta.num_channels for band in bands)
    pictures = domain.to_rgb(normaliser.denormalise(batch.images), bands, batch.valid)
    seen = flat(batch.images[:, 0], len(meta.size))
    assert pictures.shape == (*seen.shape, 3)
    assert pictures.min() == 0
    assert pictures.max() == 255


def test_exports_hold_the_normaliser(
    domain: Domain, meta: StoreMeta, stored: Samples, normaliser: Normaliser
) -> None:
    module = domain.export_module(normaliser)
    images = torch.from_numpy(stored.pixels.astype(np.float32))
    torch.testing.assert_close(module(images), normaliser(stored.pixels), rtol=1e-5, atol=1e-5)
    inside = normaliser(stored.pixels)
    torch.testing.assert_close(module(module.invert(inside)), inside, rtol=1e-3, atol=1e-3)


def test_a_stated_scale_is_compared(meta: StoreMeta, normaliser: Normaliser) -> None:
    ones, zeros = [1.0] * meta.num_channels, [0.0] * meta.num_channels
    normaliser.check_scale(ones, zeros)
    normaliser.check_scale(meta.scale, meta.offset)
    with pytest.raises(DataError, match="states scale and offset"):
        normaliser.check_scale([7.0, *ones[1:]], zeros, "scene.tif")


def test_scene_bands_are_found_by_name(domain: Domain, normaliser: Normaliser) -> None:
    turned = (*normaliser.bands[::-1], "something else")
    assert domain.scene_bands(normaliser, turned) == normaliser.bands
    with pytest.raises(UsageError, match=f"scene.tif: lacks {normaliser.bands[0]}"):
        domain.scene_bands(normaliser, normaliser.bands[1:], "scene.tif")
