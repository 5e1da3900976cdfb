"""iTPN: units that do not mix, a pyramid that is trained, and what a hidden token may show."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_methods import tiny

from mimkit.core.batch import Batch, Progress
from mimkit.core.decoders.feature_pyramid import PyramidConfig, PyramidTrunk
from mimkit.core.encoders.hivit import HiViT, HiViTConfig
from mimkit.core.errors import UsageError
from mimkit.core.frozen import FrozenTeacher
from mimkit.core.grid import Grid, patchify
from mimkit.core.method import Method, Output
from mimkit.core.methods import EncoderConfig, ITPNClipConfig, ITPNConfig, build
from mimkit.core.noise import Noise

SIZE = (16, 24)


def make(name: str, **options) -> Method:
    torch.manual_seed(0)
    config = tiny(name, **options)
    return build(config, Grid.for_image(SIZE, config.encoder.patch_size, 3))


def run(method: Method, pixels, plan=None, features=None) -> Output:
    batch = Batch(pixels, None, torch.arange(len(pixels)), features=features)
    return method(batch, Progress(1.0, 10), Noise(3), plan)


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def unit(method: Method, number: int) -> tuple[slice, slice]:
    """Return the pixels of a unit."""
    row, column = divmod(number, method.grid.shape[1])
    return slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)


def test_units_do_not_influence_each_other_before_the_main_stage() -> None:
    encoder = make("itpn").encoder
    assert isinstance(encoder, HiViT)
    patches = patchify(pixels(), (4, 4))
    changed = patches.clone()
    changed[:, 5] += 1.0
    before, after = (encoder.units(p, encoder.stage_taps) for p in (patches, changed))
    maps = [(before[1][tap], after[1][tap]) for tap in encoder.stage_taps]
    for one, other in ((before[0], after[0]), *maps):
        differs = (one != other).any(dim=-1)
        assert differs[:, 5].all()
        assert differs.sum() == 2


def test_cells_of_a_unit_are_embedded_as_by_a_strided_convolution() -> None:
    torch.manual_seed(0)
    config = HiViTConfig(embed_dim=32, stem_depths=(1, 1), depth=1, num_heads=2, patch_size=16)
    embed = config.build(Grid.for_image((32, 48), 16, 3)).patch_embed
    images = torch.randn(1, 3, 32, 48)
    maps = torch.nn.functional.conv2d(images, embed.proj.weight, embed.proj.bias, stride=4)
    cells = maps.unflatten(2, (2, 4)).unflatten(4, (3, 4)).permute(0, 2, 4, 3, 5, 1)
    expected = embed.norm(cells.reshape(1, 6, 16, 8))
    torch.testing.assert_close(embed(patchify(images, (16, 16))), expected)


def test_the_pyramid_has_1_4_and_16_cells_per_visible_unit() -> None:
    method = make("itpn")
    output, trunk = run(method, pixels()), method.trunk
    assert isinstance(trunk, PyramidTrunk)
    num = method.mask.num_visible
    shapes = [level.shape for level in trunk.levels(output.features, output.plan)]
    assert shapes == [(2, num, 1, 12), (2, num, 4, 12), (2, num, 16, 12)]


def test_two_levels_leave_the_finest_and_its_weights_out() -> None:
    pyramid = PyramidConfig(dim=12, depth=1, levels=2)
    method = make("itpn", pyramid=pyramid)
    output, trunk = run(method, pixels()), method.trunk
    assert isinstance(trunk, PyramidTrunk)
    assert [level.shape[2] for level in trunk.levels(output.features, output.plan)] == [1, 4]
    assert not [name for name in method.state_dict() if "8to4" in name]
    output.loss.backward()
    learning = [p for p in trunk.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.any() for p in learning)


def test_a_hidden_place_holds_a_mask_token_per_level_and_its_position() -> None:
    method = make("itpn")
    output, trunk = run(method, pixels()), method.trunk
    assert isinstance(trunk, PyramidTrunk)
    assert output.features.trunk is not None
    assert trunk.mask_token is not None
    place = int(output.plan.predict[0, 0])
    expected = 3 * trunk.mask_token[0, 0] + trunk.pos_embed[0, place]
    torch.testing.assert_close(output.features.trunk[0, place], expected)


def test_positions_of_visible_units_are_stretched_as_published_only() -> None:
    plain, published = make("itpn").encoder, make("itpn", as_published=True).encoder
    assert isinstance(plain, HiViT)
    assert isinstance(published, HiViT)
    shape = plain.grid.shape
    torch.testing.assert_close(plain.positions(shape, some=True), plain.positions(shape))
    moved = published.positions(shape, some=True) - published.positions(shape)
    assert moved.shape == (24, 24)
    assert 0.001 < moved.abs().max() < 0.5


@pytest.mark.parametrize("published", [False, True])
def test_the_main_head_sees_a_hidden_unit_only_as_published(published: bool) -> None:
    method = make("itpn-clip", as_published=published).eval()
    given = torch.randn(2, 24, 24)
    before = run(method, pixels(), features=given)
    place = int(before.plan.predict[0, 0])
    rows, columns = unit(method, place)
    changed = pixels()
    changed[0, :, rows, columns] += 1.0
    after = run(method, changed, before.plan, given)
    main, auxiliary = (
        (before.predictions[n] != after.predictions[n]).any(dim=-1) for n in before.predictions
    )
    assert not auxiliary.any()
    assert main.sum() == int(published)
    assert bool(main[0, place]) == published


def test_teacher_features_come_from_the_batch_or_from_the_frozen_model() -> None:
    method = make("itpn-clip").eval()
    assert isinstance(method.teacher, FrozenTeacher)
    features = method.teacher.tokens(pixels())
    own = run(method, pixels())
    assert torch.equal(run(method, pixels(), own.plan, features).loss, own.loss)
    other = run(method, pixels(), own.plan, features.flip(1))
    assert not torch.equal(other.loss, own.loss)
    before = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    method.after_step(Progress(1.0, 10))
    assert all(torch.equal(before[n], v) for n, v in method.teacher.state_dict().items())


def test_a_teacher_of_another_patch_sees_resized_images_and_its_own_scale() -> None:
    encoder = EncoderConfig(embed_dim=24, depth=1, num_heads=2, patch_size=6)
    encoder = encoder.build(Grid((4, 6), (6, 6), 3))
    teacher = FrozenTeacher(encoder, gain=(2.0,), offset=(-1.0,))
    scaled = torch.nn.functional.interpolate(2.0 * pixels() - 1.0, (24, 36), mode="bicubic")
    torch.testing.assert_close(teacher.tokens(pixels()), encoder.encode(scaled).last)


def test_missing_or_wrong_features_are_refused() -> None:
    method = make("itpn-clip", teacher=None, teacher_dim=8)
    with pytest.raises(UsageError, match="holds no features"):
        run(method, pixels())
    with pytest.raises(UsageError, match="do not fit"):
        run(method, pixels(), features=torch.randn(2, 24, 9))


def test_sizes_that_cannot_be_divided_are_refused() -> None:
    config, other = tiny("itpn"), tiny("itpn-clip")
    assert isinstance(config, ITPNConfig)
    assert isinstance(other, ITPNClipConfig)
    with pytest.raises(UsageError, match="cells per axis"):
        build(config, Grid.for_image((18, 18), 6, 3))
    with pytest.raises(UsageError, match="is not a multiple of the 16 cells"):
        build(replace(config, decoder=replace(config.decoder, dim=24)), Grid((4, 4), (4, 4), 3))
    shallow = replace(other, encoder=replace(config.encoder, embed_dim=64))
    with pytest.raises(UsageError, match="is not an attention block"):
        build(shallow, Grid((4, 4), (4, 4), 3))


def test_relative_bias_and_positions_follow_another_image_size() -> None:
    encoder = make("itpn").encoder.eval()
    assert encoder.encode(torch.randn(1, 3, 24, 32)).last.shape == (1, 48, 24)
