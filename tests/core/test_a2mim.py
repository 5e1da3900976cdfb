"""A2MIM: the fill, the token inside the network, the frequency loss, and the ResNet."""

from __future__ import annotations

import pytest
import torch
from tiny_methods import tiny
from torch.utils.flop_counter import FlopCounterMode

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.published import import_published, infer_config
from mimkit.core.context import Context
from mimkit.core.corruption import FillAndToken
from mimkit.core.encoders.resnet import ResNet
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid, unpatchify
from mimkit.core.masking.plan import MaskPlan
from mimkit.core.method import Method, Output
from mimkit.core.methods import MethodConfig, build
from mimkit.core.methods.a2mim import ResNetConfig, resnet_config
from mimkit.core.noise import Noise
from mimkit.core.objectives.frequency import focal_frequency
from mimkit.core.reconstruction import pixel_head, reconstruct
from mimkit.core.targets.pixels import CentredTarget
from mimkit.core.tokens import all_tokens, membership
from mimkit.core.training.flops import training_flops

RESNET = resnet_config(ResNetConfig(depths=(1, 2, 1, 1), width=4))
PUBLISHED = {"as_published": True, "mask_layer": 0, "mask_gamma": None}


def make(config: MethodConfig, size: tuple[int, int] = (32, 32)) -> Method:
    torch.manual_seed(0)
    return build(config, Grid.for_image(size, config.encoder.patch_size, 3))


def vit(**options) -> Method:
    return make(tiny("a2mim", **options))


def step(method: Method, images: torch.Tensor, plan: MaskPlan | None = None) -> Output:
    batch = Batch(images, None, torch.arange(len(images)))
    return method(batch, Progress(0.0, 1), Noise(0), plan)


@pytest.mark.parametrize("all_pixels", [True, False])
def test_hidden_pixels_are_filled_with_the_mean(all_pixels: bool) -> None:
    method, images = vit(as_published=all_pixels), torch.randn(2, 3, 32, 32)
    output = step(method, images)
    corruption = method.corruption
    assert isinstance(corruption, FillAndToken)
    filled = corruption.fill(output.context, output.plan).unflatten(2, (16, 3))
    pixels = output.context.patches.unflatten(2, (16, 3))
    seen = membership(output.plan.visible, 64)
    assert torch.equal(filled[seen], pixels[seen])
    for sample in range(2):
        chosen = pixels[sample] if all_pixels else pixels[sample][seen[sample]]
        hidden = filled[sample][~seen[sample]]
        expected = chosen.mean(dim=(0, 1)).expand_as(hidden)
        torch.testing.assert_close(hidden, expected, atol=1e-6, rtol=1e-5)


def test_as_published_hidden_pixels_matter_through_their_mean_alone() -> None:
    method, images = vit(**PUBLISHED).eval(), torch.randn(1, 3, 32, 32)
    before = step(method, images)
    hidden = int(before.plan.predict[0, 0])
    row, column = 4 * (hidden // 8), 4 * (hidden % 8)
    swapped, brighter = images.clone(), images.clone()
    swapped[0, :, row, column] = images[0, :, row + 1, column + 2]
    swapped[0, :, row + 1, column + 2] = images[0, :, row, column]
    brighter[0, :, row, column] += 5.0
    same, other = (step(method, x, before.plan).predictions["pixels"] for x in (swapped, brighter))
    torch.testing.assert_close(before.predictions["pixels"], same, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(before.predictions["pixels"], other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("weight", "share"), [(0.0, 0.0), (0.5, 0.0), (0.5, 0.1)])
def test_visible_pixels_are_trained_by_their_share_alone(weight: float, share: float) -> None:
    method = vit(frequency_weight=weight, frequency_visible=share)
    found: list[torch.Tensor] = []

    def keep(_module: object, _inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        found.append(output)

    assert method.trunk is not None
    method.trunk.register_forward_hook(keep)
    output = step(method, torch.randn(2, 3, 32, 32))
    output.loss.backward()
    grad = found[0].grad
    assert grad is not None
    hidden = membership(output.plan.predict, 64)
    assert grad[hidden].abs().min() > 0
    assert bool(grad[~hidden].any()) == (share > 0)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("gamma", [None, 0.5])
def test_the_token_enters_at_its_layer(layer: int, gamma: float | None) -> None:
    method = vit(mask_layer=layer, mask_gamma=gamma)
    corruption = method.corruption
    assert isinstance(corruption, FillAndToken)
    assert (corruption.mask_gamma is None) == (gamma is None)
    calls: list[int] = []
    forward = corruption.forward

    def count(layer: int, tokens: torch.Tensor, hidden: torch.Tensor, context: Context):
        changed = forward(layer, tokens, hidden, context)
        calls.extend([layer] * (changed is not tokens))
        return changed

    corruption.forward = count  # type: ignore[method-assign]
    output = step(method, torch.randn(2, 3, 32, 32))
    output.loss.backward()
    assert calls == [layer]
    assert corruption.mask_token.grad is not None
    assert corruption.mask_token.grad.abs().sum() > 0
    tokens, hidden = torch.randn(1, 4, 24), torch.tensor([[True, False, True, False]])
    changed = forward(layer, tokens, hidden, output.context)
    assert torch.equal(changed[~hidden], tokens[~hidden])
    expected = tokens[hidden] * (1.0 if gamma is None else gamma) + corruption.mask_token[0]
    torch.testing.assert_close(changed[hidden], expected)


def test_focal_frequency_by_its_definition() -> None:
    true, guess = torch.randn(2, 3, 8, 6), torch.randn(2, 3, 8, 6, requires_grad=True)
    spectra = [torch.fft.fft2(x.double(), norm="ortho") for x in (guess, true)]
    square = (spectra[0] - spectra[1]).abs().square()
    weight = torch.log(1 + square.sqrt())
    weight = (weight / weight.amax(dim=(1, 2, 3), keepdim=True)).detach()
    loss = focal_frequency(torch.fft.fft2(guess - true, norm="ortho"))
    torch.testing.assert_close(loss, (weight * square).mean(dim=(1, 2, 3)).float())
    (ours,) = torch.autograd.grad(loss.sum(), guess, retain_graph=True)
    (theirs,) = torch.autograd.grad((weight * square).mean(dim=(1, 2, 3)).sum(), guess)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    nothing = focal_frequency(torch.fft.fft2(true - true, norm="ortho"))
    assert nothing.tolist() == [0.0, 0.0]


def test_spectra_of_images_are_compared_one_by_one_unless_as_published() -> None:
    images = torch.randn(2, 3, 32, 32)
    for published in (False, True):
        method = vit(as_published=published).eval()
        both = step(method, images)
        alone = step(method, images[:1], both.plan.rows(slice(1)))
        assert both.terms.keys() == {"pixels", "frequency"}
        same = torch.allclose(alone.per_sample, both.per_sample[:1], rtol=1e-5)
        assert same != published


def test_a_resnet_computes_what_torchvision_does() -> None:
    models = pytest.importorskip("torchvision.models")
    theirs = models.resnet50(weights=None).eval()
    ours = ResNet(Grid.for_image((64, 96), 32, 3)).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state, strict=True)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            x = stage(x)
        torch.testing.assert_close(ours.encode(images).last, x.flatten(2).transpose(1, 2))


def test_a_resnet_learns_everywhere_and_costs_what_it_says() -> None:
    method = make(RESNET, (64, 96))
    assert method.corruption is not None
    corruption = method.corruption
    assert isinstance(corruption, FillAndToken)
    assert corruption.mask_token.shape == (1, 1, 4 * 4 * 4), "the width in front of the last stage"
    images = torch.randn(4, 3, 64, 96)
    with FlopCounterMode(display=False) as counter:
        output = step(method, images)
        forward = counter.get_total_flops()
        output.loss.backward()
    counted = training_flops(method)
    assert forward / 4 == pytest.approx(counted.forward, rel=0.01)
    assert counter.get_total_flops() / 4 == pytest.approx(counted.training, rel=0.01)
    grads = {name: p.grad for name, p in method.named_parameters()}
    assert all(g is not None and g.isfinite().all() and g.any() for g in grads.values())


def test_hidden_pixels_change_no_prediction_of_a_resnet() -> None:
    method, images = make(RESNET, (64, 96)).eval(), torch.randn(2, 3, 64, 96)
    before = step(method, images)
    hidden = membership(before.plan.predict, 6)[..., None].expand(-1, -1, 3072).float()
    at = unpatchify(hidden, method.grid)
    after = step(method, torch.where(at > 0, 7.0, images), before.plan)
    assert torch.equal(before.predictions["pixels"], after.predictions["pixels"])
    other = step(method, torch.where(at > 0, images, images + 1.0), before.plan)
    assert not torch.equal(before.predictions["pixels"], other.predictions["pixels"])


def test_a_resnet_says_what_it_cannot_do() -> None:
    with pytest.raises(UsageError, match=r"tokens of \(16, 16\) pixels.*use patch_size 32"):
        build(RESNET, Grid.for_image((64, 64), 16, 3))
    encoder = make(RESNET, (64, 64)).encoder
    plan = MaskPlan(torch.tensor([[0, 1]]), torch.tensor([[2]]))
    with pytest.raises(UsageError, match="convolutions need the whole grid"):
        encoder.encode(torch.randn(1, 3, 64, 64), plan)


def released(method: Method, renamed: dict[str, str]) -> dict[str, torch.Tensor]:
    """Return a method's weights under the names and in the layouts of a released file."""
    state = {}
    for name, value in method.state_dict().items():
        for ours, theirs in renamed.items():
            name = name.replace(ours, theirs)
        if name.startswith("neck."):  # colours first, as a convolution for a pixel shuffle
            pixels = len(value) // 3
            value = value[torch.arange(3 * pixels).reshape(pixels, 3).T.flatten()]
            value = value[..., None, None] if value.ndim > 1 else value
        state[name] = value
    return state


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_released_files_are_read(kind: str) -> None:
    renamed = {"trunk.decoder.head": "neck.decoder_pred.0", "corruption.": "backbone."}
    if kind == "vit":
        config = tiny("a2mim", mask_gamma=None, mask_layer=0)
        renamed |= {"encoder.norm.": "backbone.ln1.", "encoder.blocks.": "backbone.layers."}
        renamed |= {"norm1": "ln1", "norm2": "ln2", "mlp.fc1": "ffn.layers.0.0"}
        renamed |= {"mlp.fc2": "ffn.layers.1", "patch_embed.proj": "patch_embed.projection"}
    else:
        config = RESNET
    method = make(config, (64, 64))
    state = released(method, renamed | {"encoder.": "backbone."})
    if kind == "resnet":
        for name in ("backbone.mask_token", "backbone.mask_gamma"):
            state[name] = state[name].reshape(1, -1, 1, 1)
    assert infer_config(state, "a2mim") == config
    loaded = import_published(state, "a2mim", image_size=64).method.state_dict()
    own = method.state_dict()
    assert loaded.keys() == own.keys()
    assert all(torch.equal(loaded[name], value) for name, value in own.items())


def test_a_vit_of_the_paper_has_its_tables() -> None:
    full = build(tiny("a2mim"), Grid((14, 14), (4, 4), 3))
    table = full.get_parameter("encoder.blocks.1.attn.relative_position_bias_table")
    assert table.shape == (732, 2)
    assert full.get_parameter("encoder.pos_embed").shape == (1, 197, 24)
    assert "encoder.rel_pos_bias.relative_position_bias_table" not in full.state_dict()


def test_the_residual_is_what_is_added_to_the_mean_of_each_channel() -> None:
    method = build(tiny("a2mim", residual=True), Grid.for_image((16, 16), 4, 3))
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    valid = torch.ones(2, 16, 16, dtype=torch.bool)
    valid[1, :2] = False
    batch = Batch(images + 5, valid, torch.arange(2))
    output = method(batch, Progress(1.0, 10), Noise(3))
    every = all_tokens(2, 16, torch.device("cpu"))
    target = pixel_head(method).target
    assert isinstance(target, CentredTarget)
    value = target(output.context, every)
    assert value.weight is not None
    for row in range(2):
        for channel in range(3):
            numbers = value.values[row, :, channel::3][value.weight[row, :, channel::3] > 0]
            assert abs(float(numbers.mean())) < 1e-5
    picture = reconstruct(method, output)
    hidden = picture.predicted.bool().expand_as(picture.pasted)
    assert picture.leaked_statistics
    assert abs(float(picture.pasted[hidden].mean()) - 5) < 1, "the mean is added again"
