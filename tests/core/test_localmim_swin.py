"""LocalMIM on Swin: maps finer than tokens, who learns from which stage, released files."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.published import import_published, infer_config
from mimkit.core.encoders.swin import SwinConfig
from mimkit.core.encoders.swin_blocks import PatchMerging
from mimkit.core.errors import UsageError, WeightsError
from mimkit.core.grid import Grid, unpatchify
from mimkit.core.masking.plan import MaskPlan
from mimkit.core.method import Method, Output
from mimkit.core.methods import DecoderConfig, LocalMIMSwinConfig, build
from mimkit.core.methods.localmim_swin import columns_first
from mimkit.core.noise import Noise
from mimkit.core.places import cell_plan, cells_of, ravel, unravel
from mimkit.core.training.flops import training_flops

CONFIG = LocalMIMSwinConfig(
    encoder=SwinConfig(
        patch_size=16, stem_size=2, embed_dim=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 2),
        window_size=3,
    ),
    decoder=DecoderConfig(dim=16, depth=1, num_heads=2),
)  # fmt: skip


def make(config: LocalMIMSwinConfig = CONFIG, size=(48, 80), bands: int = 2) -> Method:
    torch.manual_seed(0)
    return build(config, Grid.for_image(size, config.encoder.patch_size, bands))


def run(
    method: Method,
    valid=None,
    plan: MaskPlan | None = None,
    fill=0.0,
    add: float | torch.Tensor = 0.0,
) -> Output:
    shape = (2, method.grid.channels, *method.grid.image_size)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + add
    if valid is not None:
        pixels = pixels.masked_fill(~valid[:, None], fill)
    return method(Batch(pixels, valid, torch.arange(2)), Progress(0.0, 1), Noise(3), plan)


@pytest.mark.parametrize("target", ["hog", "pixels"])
def test_every_stage_predicts_the_cells_of_its_own_map(target: str) -> None:
    method = make(replace(CONFIG, target=target))
    output = run(method)
    hidden = 15 - 3
    sides = (4, 2, 1, 1)
    numbers = [2 * 9 if target == "hog" else 2 * (16 // side) ** 2 for side in sides]
    shapes = {name: tuple(p.shape[1:]) for name, p in output.predictions.items()}
    assert shapes == {
        f"level{k}": (hidden, side**2 * number)
        for k, (side, number) in enumerate(zip(sides, numbers, strict=True))
    }
    widths = [b.shape[-1] for n, b in method.named_buffers() if n.endswith("trunk.pos_embed")]
    assert widths == [8, 16, 16, 16], "half as wide at the finest scale"


@pytest.mark.parametrize("number", range(4))
def test_a_level_reaches_stages_up_to_its_tap_and_its_own_decoder_alone(number: int) -> None:
    method = make()
    run(method).terms[f"level{number}"].backward()
    for name, parameter in method.named_parameters():
        words = name.split(".")
        reached = parameter.grad is not None and bool(parameter.grad.any())
        if words[0] == "heads":
            expected = words[1] == f"level{number}"
        elif words[1] == "layers":
            expected = int(words[2]) <= number
        else:
            expected = words[1] != "norm" or number == 3
        assert reached == expected, name


def test_some_stages_alone_reconstruct_and_what_does_not_fit_is_refused() -> None:
    method = make(replace(CONFIG, taps=(1, 3), decoder_dims=(12, 20)))
    assert list(run(method).terms) == ["level0", "level1"]
    with pytest.raises(UsageError, match="would never learn"):
        make(replace(CONFIG, taps=(0, 1)))
    with pytest.raises(UsageError, match="of 3 levels"):
        make(replace(CONFIG, decoder_dims=(8, 8, 8)))
    with pytest.raises(UsageError, match="use the stride as patch_size"):
        make(replace(CONFIG, encoder=replace(CONFIG.encoder, patch_size=8)))
    with pytest.raises(UsageError, match='target="pixels"'):
        make(size=(16, 32, 32))


def test_the_release_hides_one_more_token_and_the_same_ones_in_a_batch() -> None:
    plan, published = run(make()).plan, run(make(replace(CONFIG, as_published=True))).plan
    assert plan.predict.shape[1] == published.predict.shape[1] == 12  # of 15 times 0.75
    exact = replace(CONFIG, mask_ratio=0.6)  # 9 of 15
    assert run(make(exact)).plan.predict.shape[1] == 9
    assert run(make(replace(exact, as_published=True))).plan.predict.shape[1] == 10
    assert torch.equal(*published.visible)
    assert not torch.equal(*plan.visible)
    # Missing data is no part of any mask, so that samples then differ.
    valid = torch.ones(2, 48, 80, dtype=torch.bool)
    valid[0, :32] = False
    own = run(make(replace(CONFIG, shared_mask=True)), valid).plan
    assert own.absent is not None
    assert not own.absent.gather(1, own.visible).any()


def test_flop_formula_equals_the_counter_on_maps_finer_than_tokens() -> None:
    method = make(size=(64, 96))
    counted = training_flops(method)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = run(method)
        forward = counter.get_total_flops()
        output.loss.backward()
    assert forward / 2 == pytest.approx(counted.forward, rel=0.01)
    assert counter.get_total_flops() / 2 == pytest.approx(counted.training, rel=0.01)


def test_missing_data_and_hidden_pixels_reach_no_prediction_of_any_map() -> None:
    method = make(replace(CONFIG, target="pixels")).eval()
    valid = torch.ones(2, 48, 80, dtype=torch.bool)
    valid[0, :16], valid[1, 33, 40] = False, False
    results = []
    for fill in (0.0, float("nan")):
        method.zero_grad()
        output = run(method, valid, fill=fill)
        output.loss.backward()
        results.append((output.loss.detach(), [p.grad for p in method.parameters()]))
        assert output.plan.absent is not None
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
    output = run(method)
    hidden = torch.zeros(2, 15, 1)
    hidden = hidden.scatter(1, output.plan.predict[..., None], 1.0)
    noise = unpatchify(hidden.expand(-1, -1, method.grid.patch_dim), method.grid)
    changed = run(method, plan=output.plan, add=noise * torch.randn_like(noise))
    for name, guess in output.predictions.items():
        assert torch.equal(guess, changed.predictions[name])
    assert not torch.equal(output.terms["level0"], changed.terms["level0"])


def test_merging_in_another_order_is_the_same_with_reordered_weights() -> None:
    merging, x = PatchMerging(3, 2, post_norm=False, eps=1e-6), torch.randn(1, 2, 2, 3)
    torch.nn.init.normal_(merging.norm.weight)
    by_columns = merging(x)
    with torch.no_grad():
        for weight in (merging.norm.weight, merging.norm.bias, merging.reduction.weight):
            weight.copy_(columns_first(weight))
    torch.testing.assert_close(merging(x.transpose(1, 2)), by_columns)


def released(config: LocalMIMSwinConfig, method: Method) -> dict[str, torch.Tensor]:
    """Return what the release would have stored for a method."""
    out = {}
    for name, value in method.state_dict().items():
        name = name.removeprefix("heads.").replace(".predictor.head.", ".pred.")
        for old, new in (
            ("level", "decoder."), ("predictor.reader.", ""), ("trunk.", ""),
            ("encoder.norm.", f"encoder.norm.{len(config.encoder.depths) - 1}."),
        ):  # fmt: skip
            name = name.replace(old, new)
        number, _, rest = name.removeprefix("decoder.").partition(".")
        if rest.startswith("tap_norm."):
            name = f"encoder.norm.{number}.{rest.removeprefix('tap_norm.')}"
        out[name] = value
    out["encoder.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(9, 9)
    out["hog_enc.0.conv.weight"] = torch.zeros(2, 1, 3, 3)
    return out


@pytest.mark.parametrize("target", ["hog", "pixels"])
def test_a_released_file_says_its_configuration_and_opens(target: str) -> None:
    config = replace(
        CONFIG, target=target, num_bins=18 if target == "hog" else 9, decoder_dims=(8, 16, 16, 16),
        encoder=replace(CONFIG.encoder, eps=1e-6),
    )  # fmt: skip
    method = make(config)
    file = released(config, method)
    assert infer_config(file, "localmim-swin", decoder_heads=2) == config
    with pytest.raises(UsageError, match="--decoder-heads"):
        infer_config(file, "localmim-swin")
    opened = import_published(file, "localmim-swin", grid=method.grid, decoder_heads=2)
    assert "2 ignored" in opened.summary()
    own, other = method.state_dict(), opened.method.state_dict()
    changed = [name for name in own if not torch.equal(own[name], other[name])]
    assert changed == [f"encoder.layers.{k}.downsample.reduction.weight" for k in range(3)]
    del file["decoder.2.mask_token"]
    with pytest.raises(WeightsError, match="decoders of pre-training"):
        infer_config(file, "localmim-swin", decoder_heads=2)


def test_cells_of_tokens_are_side_by_side_and_have_the_role_of_their_token() -> None:
    index = torch.tensor([[5, 0]])  # of 2 x 3 tokens: the last and the first
    cells = cells_of(index, (2, 3), (2, 2))
    assert cells.tolist() == [[16, 17, 22, 23, 0, 1, 6, 7]]
    assert torch.equal(ravel(unravel(cells, (4, 6)), (4, 6)), cells)
    absent = torch.tensor([[False, True, False, False, False, False]])
    plan = cell_plan(MaskPlan(index, index[:, :1], absent), (2, 3), (2, 2))
    assert plan.absent is not None
    assert plan.absent[0].nonzero().flatten().tolist() == [2, 3, 8, 9]
    assert plan.predict.tolist() == [[16, 17, 22, 23]]
