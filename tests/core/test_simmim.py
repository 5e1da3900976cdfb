"""SimMIM: counts of units, the published loss, published weights in and their pixel order."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest
import torch
from tiny_methods import swin, tiny
from torch.nn import functional

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.published import import_published
from mimkit.core.decoders.linear import LinearDecoder
from mimkit.core.encoders.contract import Features
from mimkit.core.errors import WeightsError
from mimkit.core.grid import Grid, unpatchify
from mimkit.core.method import Method, Output
from mimkit.core.methods import SimMIMConfig, build
from mimkit.core.methods.swin_weights import prepare_swin
from mimkit.core.noise import Noise
from mimkit.core.reconstruction import pixel_head
from mimkit.core.tokens import all_tokens, membership

FAMILY = ("simmim", "data-scaling", "satvision-toa")


def method_of(name: str, size: tuple[int, int] = (32, 48), channels: int = 3, **options) -> Method:
    torch.manual_seed(0)
    return build(tiny(name, **options), Grid.for_image(size, 4, channels))


def run(method: Method, seed: int = 1) -> Output:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(3, method.grid.channels, *method.grid.image_size, generator=generator)
    return method(Batch(images, None, torch.arange(3)), Progress(0.0, 1), Noise(seed))


def published_state(method: Method) -> dict[str, torch.Tensor]:
    """Return a method's weights as the released code stores them."""
    state, channels = {}, method.grid.channels
    for name, value in method.state_dict().items():
        if name.startswith("encoder."):
            state[name] = value
        elif name.startswith("corruption."):
            state[name.replace("corruption", "encoder")] = value
        else:
            rows = value.unflatten(0, (-1, channels)).transpose(0, 1).flatten(0, 1)
            kind = name.rpartition(".")[2]
            state[f"decoder.0.{kind}"] = rows[..., None, None] if kind == "weight" else rows
    state["encoder.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16).long()
    state["encoder.layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    return state


@pytest.mark.parametrize(
    ("units", "ratio", "hidden", "published"),
    [((6, 6), 0.6, 22, 22), ((7, 7), 0.6, 30, 30), ((10, 10), 0.55, 55, 56)],
)
def test_hidden_counts_are_ceilings(units, ratio: float, hidden: int, published: int) -> None:
    grid = Grid(units, (4, 4), 3)
    for flag, wanted in ((False, hidden), (True, published)):
        config = tiny("simmim", mask_ratio=ratio, as_published=flag)
        assert build(config, grid).mask.num_predict == wanted
    assert ceil(100 * 0.55) == 56, "the float's error that the default leaves out"


def test_units_are_hidden_as_a_whole() -> None:
    method = method_of("simmim", (32, 48), mask_unit=2)
    output = run(method)
    hidden = membership(output.plan.predict, 96).reshape(3, 4, 2, 6, 2)
    whole = hidden.all(dim=4).all(dim=2)
    assert torch.equal(whole, hidden.any(dim=4).any(dim=2))
    assert whole.flatten(1).sum(1).tolist() == [ceil(24 * 0.6)] * 3
    assert len({tuple(row) for row in whole.flatten(1).tolist()}) == 3, "each sample has its own"


@pytest.mark.parametrize("name", ["simmim", "satvision-toa"])
def test_the_loss_is_the_published_ratio_over_hidden_pixels(name: str) -> None:
    method = method_of(name)
    output = run(method)
    everything = all_tokens(3, method.grid.num_tokens, torch.device("cpu"))
    predicted = pixel_head(method).predict(output.features, output.plan, everything)
    hidden = membership(output.plan.predict, method.grid.num_tokens)
    mask = unpatchify(hidden[..., None].float().expand(-1, -1, 48), method.grid)[:, :1]
    error = (output.context.images - unpatchify(predicted, method.grid)).abs() * mask
    torch.testing.assert_close(output.loss, error.sum() / (mask.sum() + 1e-5) / 3)
    (slope,) = torch.autograd.grad(output.loss, predicted, allow_unused=True)
    assert slope is None, "predictions of visible tokens are no part of the loss"


def test_the_mask_token_learns_and_stands_for_hidden_tokens_only() -> None:
    method = method_of("simmim")
    assert method.corruption is not None
    token = method.corruption.get_parameter("mask_token")
    run(method).loss.backward()
    assert token.grad is not None
    assert token.grad.abs().sum() > 0
    method.zero_grad()
    method.encoder(torch.randn(1, 3, 32, 48)).sum().backward()
    assert token.grad is None, "without a plan nothing is hidden"


@pytest.mark.parametrize("cell", [1, 2])
def test_the_head_is_a_convolution_and_a_pixel_shuffle(cell: int) -> None:
    grid, stride = Grid((4, 6), (4, 4), 5), 4 * cell
    weight = torch.randn(5 * stride**2, 7, 1, 1)
    state = prepare_swin(
        {
            "encoder.patch_embed.proj.weight": torch.zeros(3, 5, 2, 2),
            "decoder.0.weight": weight,
            "decoder.0.bias": torch.arange(5.0 * stride**2),
        }
    )
    decoder = LinearDecoder(grid, 7, grid.patch_dim, cell)
    decoder.head.load_state_dict(
        {"weight": state["decoder.0.weight"], "bias": state["decoder.0.bias"]}
    )
    cells = torch.randn(2, 4 // cell, 6 // cell, 7)
    shuffled = functional.pixel_shuffle(
        functional.conv2d(cells.movedim(-1, 1), weight, torch.arange(5.0 * stride**2)), stride
    )
    index = all_tokens(2, 24, torch.device("cpu"))
    plan = run(method_of("simmim")).plan
    ours = decoder(Features(cells.flatten(1, 2), 0), plan, index)
    torch.testing.assert_close(unpatchify(ours, grid), shuffled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILY)
def test_published_weights_tell_the_architecture(name: str) -> None:
    options = {"window_size": 4, "depths": (1, 2, 3), "num_heads": (2, 4, 2), "patch_size": 8}
    if name == "satvision-toa":
        options["extra_norm_period"] = 2
    version = 1 if name == "simmim" else 2
    config = replace(tiny(name), encoder=replace(swin(version, 3), **options))
    torch.manual_seed(1)
    method = build(config, Grid.for_image((32, 32), 8, 4))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    state = published_state(method)
    if version == 2:
        state["encoder.layers.0.blocks.0.attn.relative_coords_table"] = torch.zeros(1, 7, 7, 2)
    imported = import_published(state, name, image_size=32)
    assert imported.config.encoder == config.encoder
    fates = {row.name: row.fate for row in imported.fates}
    assert fates["computed.encoder.layers.0.blocks.1.attn_mask"] == "ignored"
    assert "fresh" not in fates.values()
    wanted, found = run(method).loss, run(imported.method).loss
    if name != "data-scaling":  # its window of the target is no part of the weights
        torch.testing.assert_close(found, wanted)
    for (ours, a), (_, b) in zip(
        method.state_dict().items(), imported.method.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), ours


def test_a_file_of_another_method_is_refused() -> None:
    with pytest.raises(WeightsError, match="no place in simmim"):
        import_published({"cls_token": torch.zeros(1, 1, 8)}, "simmim", image_size=32)
    state = published_state(method_of("simmim"))
    kept = {k: v for k, v in state.items() if "qkv" not in k}
    with pytest.raises(WeightsError, match="not in the file"):
        import_published(kept, "simmim", config=tiny("simmim"), image_size=32)


def test_the_configuration_of_the_paper_is_the_default() -> None:
    config = SimMIMConfig()
    grid = Grid.for_image((192, 192), config.encoder.patch_size, 3)
    with torch.device("meta"):
        method = build(config, grid)
    assert (method.mask.num_predict, grid.num_tokens) == (22, 36)
    assert config.encoder.stride == 32
