"""LocalMIM: cells of every scale, who gets gradient from which level, odd grids, missing data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.published import infer_config, rename
from mimkit.core.decoders.pyramid import CellDecoder, Doubling
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid, patchify
from mimkit.core.masking.plan import MaskPlan
from mimkit.core.method import Head, Method, Output
from mimkit.core.methods import DecoderConfig, EncoderConfig, LocalMIMConfig, build
from mimkit.core.methods.localmim import default_taps
from mimkit.core.noise import Noise
from mimkit.core.objectives.regions import RegionHead, num_hidden
from mimkit.core.regions import region_sum
from mimkit.core.targets.gradients import histograms, hog, sobel
from mimkit.core.targets.pixels import PixelTarget, standardise
from mimkit.core.targets.regions import CellPixels, RegionHog, RegionPixels
from mimkit.core.tokens import membership

CONFIG = LocalMIMConfig(
    encoder=EncoderConfig(embed_dim=24, depth=8, num_heads=2, patch_size=8),
    decoder=DecoderConfig(dim=16, depth=1, num_heads=2),
)


def make(size: tuple[int, ...] = (32, 48), config: LocalMIMConfig = CONFIG, bands=3) -> Method:
    torch.manual_seed(0)
    return build(config, Grid.for_image(size, 8, bands))


def pictures(*size: int, bands: int = 3) -> torch.Tensor:
    return torch.randn(2, bands, *size, generator=torch.Generator().manual_seed(1))


def run(method: Method, pixels, valid=None, plan: MaskPlan | None = None) -> Output:
    return method(Batch(pixels, valid, torch.arange(2)), Progress(0.0, 1), Noise(3), plan)


def region_head(method: Method) -> RegionHead:
    head = method.get_submodule("heads.level3")
    assert isinstance(head, RegionHead)
    return head


def test_published_taps_and_what_replaces_them_in_shallow_encoders() -> None:
    assert default_taps(12, 4) == (1, 3, 9, 11)
    assert default_taps(24, 4) == (1, 3, 21, 23)
    assert default_taps(6, 4) == (0, 2, 3, 5)
    assert default_taps(9, 3) == (2, 5, 8)


def test_every_level_predicts_its_own_number_of_cells() -> None:
    method = make(bands=2)
    output = run(method, pictures(32, 48, bands=2))
    numbers = {name: p.shape[1:] for name, p in output.predictions.items()}
    hidden = 18
    assert numbers == {
        "level0": (hidden, 16 * 18),
        "level1": (hidden, 4 * 18),
        "level2": (hidden, 18),
    }
    assert region_head(method).predictor(output.features, output.plan).shape == (2, 6, 18)
    assert output.loss.item() == pytest.approx(sum(t.item() for t in output.terms.values()))


@pytest.mark.parametrize("number", range(4))
def test_a_level_reaches_blocks_up_to_its_tap_and_its_own_decoder_alone(number: int) -> None:
    method = make()
    run(method, pictures(32, 48)).terms[f"level{number}"].backward()
    tap = (1, 3, 5, 7)[number]
    for name, parameter in method.named_parameters():
        words = name.split(".")
        reached = parameter.grad is not None and bool(parameter.grad.any())
        if words[0] == "heads":
            expected = words[1] == f"level{number}"
        elif words[1] == "blocks":
            expected = int(words[2]) <= tap
        else:
            expected = words[1] != "norm" or number == 3
        assert reached == expected, name


def test_doubling_equals_the_transposed_convolution() -> None:
    torch.manual_seed(0)
    double, maps = Doubling(6, 4, 2), torch.randn(2, 6, 3, 5)
    cells = double(maps.flatten(2).transpose(1, 2)[:, :, None])
    grown = double.conv(maps)
    expected = patchify(grown, (2, 2)).unflatten(2, (4, 4))
    torch.testing.assert_close(cells, expected)


def test_cells_of_a_token_are_in_raster_order() -> None:
    """A decoder whose cells say their place, in the order of the target."""
    method = make()
    decoder = method.get_submodule("heads.level0.predictor")
    assert isinstance(decoder, CellDecoder)
    with torch.no_grad():
        for step, double in enumerate(decoder.doublings):
            assert isinstance(double, Doubling)
            double.conv.weight.zero_()
            double.conv.bias.zero_()
            place = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
            double.conv.weight[0, step] = place
        decoder.head.weight.zero_()
        decoder.head.bias.zero_()
        decoder.head.weight[0, 1] = 1.0
    features = run(method, pictures(32, 48))
    steps = []
    for double in decoder.doublings:
        double.register_forward_hook(lambda _m, _x, out: steps.append(out.detach()))
    seen = decoder(features.features, features.plan).detach()
    first = seen.unflatten(2, (-1, 4, 4))[:, :, 0]
    assert len(steps) == 2
    fine = steps[1][..., 1].unflatten(2, (2, 2, 2, 2))  # row, column, row inside, column inside
    torch.testing.assert_close(first, fine.permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(2, 3))


def test_coarse_weights_are_quarters_whose_mean_is_the_mask_ratio() -> None:
    method = make()
    plan = run(method, pictures(32, 48)).plan
    weight = num_hidden(plan, method.grid, 2)
    hidden = membership(plan.predict, 24).float().reshape(2, 1, 4, 6)
    pooled = torch.nn.functional.avg_pool2d(hidden, 2).flatten(1)
    torch.testing.assert_close(weight / 4, pooled)
    assert float((weight / 4).mean()) == pytest.approx(0.75)


def test_incomplete_regions_at_the_edge_of_an_odd_grid() -> None:
    """The mean over what is there, and a histogram of the pixels that are there."""
    tokens = torch.arange(15.0).reshape(1, 15, 1)
    sums = region_sum(tokens, (3, 5), 2)[0, :, 0]
    assert sums.tolist() == [12.0, 20.0, 13.0, 21.0, 25.0, 14.0]
    pixels = pictures(24, 40)
    method = make((24, 40))
    output = run(method, pixels)
    values = RegionHog(2)(output.context).values
    corner = torch.nn.functional.normalize(
        hog_counts(pixels)[:, :, :, 16:, 32:].sum(dim=(3, 4)), dim=2
    )
    torch.testing.assert_close(values[:, -1], corner.flatten(1), atol=1e-5, rtol=1e-4)
    truth = RegionPixels(PixelTarget(), 2)(output.context)
    assert truth.weight is not None
    single = standardise(patchify(pixels, (8, 8))[:, -1:], None)[0]
    kept = truth.values[:, -1][truth.weight[:, -1] > 0].reshape(2, 8, 8, 3)
    torch.testing.assert_close(kept.flatten(1), single[:, 0], atol=1e-5, rtol=1e-4)


def hog_counts(pixels: torch.Tensor) -> torch.Tensor:
    """Return the gradient length of every pixel in its bin."""
    gx, gy = sobel(pixels)
    return histograms(gx, gy, 1, 9, None, partial=False)


def test_pixels_of_cells_are_standardised_one_by_one_and_ordered_like_predictions() -> None:
    method, pixels = make((16, 16)), pictures(16, 16)
    index = torch.arange(4).expand(2, -1)
    context = method.context(Batch(pixels, None, torch.arange(2)), Progress(0.0, 1), Noise(0))
    truth = CellPixels(PixelTarget(noise_floor=0.0), 2)(context, index).values
    cells = standardise(patchify(pixels, (4, 4)), None)[0].reshape(2, 4, 4, 48)
    token, row, column = 1, 1, 0  # the second token is to the right: columns 2 and 3 of the cells
    mine = truth[:, token].reshape(2, 48, 2, 2)[:, :, row, column]
    torch.testing.assert_close(mine, cells[:, row, 2 + column])


def test_hidden_pixels_change_no_region_and_missing_data_changes_nothing() -> None:
    method, pixels = make().eval(), pictures(32, 48)
    output = run(method, pixels)
    seen = membership(output.plan.visible, 24).reshape(2, 1, 4, 6)
    hidden = ~seen.repeat_interleave(8, 2).repeat_interleave(8, 3)
    other = run(method, torch.where(hidden, pixels + 3.0, pixels), plan=output.plan)
    predictor = region_head(method).predictor
    assert torch.equal(
        predictor(output.features, output.plan), predictor(other.features, other.plan)
    )
    valid = torch.ones(2, 32, 48, dtype=torch.bool)
    valid[0, :, :24], valid[1, 11, 40] = False, False
    losses = []
    for fill in (0.0, 1e6, float("nan")):
        method.zero_grad()
        loss = run(method, torch.where(valid[:, None], pixels, fill), valid).loss
        loss.backward()
        losses.append(loss.detach())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert losses[0] == losses[1] == losses[2]


def test_flat_cells_are_learnt_from_only_as_published() -> None:
    flat = torch.full((2, 3, 32, 48), 0.4)
    method = make()
    run(method, flat).loss.backward()
    assert not any(p.grad is not None and p.grad.any() for p in method.parameters())
    published = make(config=replace(CONFIG, as_published=True))
    assert float(run(published, flat).loss.detach()) > 0
    assert not hog(flat, cell=8).any()


def test_a_bias_is_part_of_the_state_and_changes_the_target() -> None:
    method = make(config=replace(CONFIG, hog_bias=True))
    biases = {name: b for name, b in method.named_buffers() if name.endswith("target.bias")}
    assert list(biases) == [f"heads.level{k}.target.bias" for k in range(4)]
    pixels = 0.1 * pictures(32, 48)
    before = run(method, pixels)
    for bias in biases.values():
        bias.zero_()
    other = make()
    other.load_state_dict({k: v for k, v in method.state_dict().items() if k not in biases})
    after, plain = run(method, pixels), run(other, pixels)
    assert all(not torch.equal(before.terms[name], after.terms[name]) for name in after.terms)
    torch.testing.assert_close(after.loss, plain.loss)


def test_a_published_file_says_its_configuration() -> None:
    published = {
        "cls_token": torch.zeros(1, 1, 384),
        "patch_embed.proj.weight": torch.zeros(384, 3, 16, 16),
        "blocks.0.mlp.fc1.weight": torch.zeros(1536, 384),
        "hog_enc.0.conv.weight": torch.zeros(2, 1, 3, 3),
        "hog_enc.0.conv.bias": torch.zeros(2),
    }
    last = {0: 4, 1: 1, 2: 0, 3: 1}
    for k, place in last.items():
        published[f"norm.{k}.weight"] = torch.zeros(384)
        published[f"decoder.{k}.mask_token"] = torch.zeros(1, 1, 256)
        published[f"decoder.{k}.blocks.0.mlp.fc1.weight"] = torch.zeros(1024, 256)
        published[f"decoder.{k}.pred.{place}.weight"] = torch.zeros(54, 256, 1, 1)
    for key in ("decoder.0.pred.0.weight", "decoder.0.pred.3.weight", "decoder.1.pred.0.weight"):
        published[key] = torch.zeros(256, 128, 2, 2)
    published["decoder.0.pred.1.weight"] = torch.zeros(128)
    config = infer_config(published, "localmim")
    assert isinstance(config, LocalMIMConfig)
    assert (config.scales, config.num_bins, config.hog_bias) == ((4.0, 2.0, 1.0, 0.5), 18, True)
    ours, ignored = rename(published, "localmim")
    assert [row.name for row in ignored] == ["hog_enc.0.conv.weight"]
    assert {"encoder.norm.weight", "heads.level2.predictor.reader.tap_norm.weight"} <= set(ours)
    assert ours["heads.level3.predictor.head.weight"].shape == (54, 256)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"taps": (1, 3, 5)}, "do not fit an encoder"),
        ({"taps": (1, 3, 5, 6)}, "would never learn"),
        ({"scales": (3.0, 2.0, 1.0, 0.5)}, "scale 3.0"),
        ({"scales": (16.0, 2.0, 1.0, 0.5)}, "scale 16.0"),
        ({"scales": (4.0, 2.0, 1.0, 0.4)}, "scale 0.4"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        make(config=replace(CONFIG, **change))


def test_histograms_are_for_images() -> None:
    with pytest.raises(UsageError, match='target="pixels"'):
        make((16, 16, 16))
    assert isinstance(
        make((16, 16, 16), replace(CONFIG, target="pixels")).objectives["level0"], Head
    )
