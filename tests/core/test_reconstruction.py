"""Pictures: what was seen is shown as it is, and the target's normalisation is undone."""

from __future__ import annotations

import pytest
import torch
from tiny_methods import tiny

from mimkit.core.batch import Batch, Progress
from mimkit.core.grid import Grid, patchify
from mimkit.core.method import Method, Output
from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig, SelectiveMAEConfig, build
from mimkit.core.noise import Noise
from mimkit.core.reconstruction import hidden_tokens, pixel_head, predict_pixels, reconstruct
from mimkit.core.tokens import take

ENCODER = EncoderConfig(embed_dim=24, depth=1, num_heads=2, patch_size=4)
DECODER = DecoderConfig(dim=16, depth=1, num_heads=2)


def forward(config: MAEConfig | SelectiveMAEConfig, size: tuple[int, ...]) -> tuple[Method, Output]:
    torch.manual_seed(0)
    method = build(config, Grid.for_image(size, 4, 3))
    images = torch.randn(2, 3, *size) * 5 + 2
    valid = torch.ones(2, *size, dtype=torch.bool)
    valid[1, :4] = False
    batch = Batch(images, valid, torch.arange(2))
    with torch.no_grad():
        return method, method(batch, Progress(0.0, 10), Noise(1))


CONFIGS = [
    MAEConfig(encoder=ENCODER, decoder=DECODER),
    MAEConfig(encoder=ENCODER, decoder=DECODER, norm_pix=False),
    SelectiveMAEConfig(encoder=ENCODER, decoder=DECODER, mask_ratio=0.75),
]


@pytest.mark.parametrize("size", [(16, 24), (8, 16, 8)])
@pytest.mark.parametrize("config", CONFIGS)
def test_visible_pixels_are_given_and_hidden_ones_predicted(
    config: MAEConfig | SelectiveMAEConfig, size: tuple[int, ...]
) -> None:
    method, output = forward(config, size)
    picture = reconstruct(method, output)
    seen = picture.visible.bool().expand_as(picture.original)
    assert torch.equal(picture.pasted[seen], picture.original[seen])
    assert not (picture.visible * picture.predicted).any()
    assert picture.visible[0].sum() == output.plan.visible.shape[1] * method.grid.patch_pixels
    if output.plan.absent is not None:
        assert not picture.predicted[1, :, :4].any(), "absent tokens are not shown as predictions"
    assert picture.leaked_statistics == config.norm_pix
    trained = reconstruct(method, output, all_hidden=False)
    assert trained.predicted.sum() <= picture.predicted.sum()


def test_a_perfect_prediction_shows_the_truth(monkeypatch) -> None:
    method, output = forward(CONFIGS[0], (16, 24))
    head = pixel_head(method)

    def truth(features, plan, index=None):
        return head.target(output.context, plan.predict if index is None else index).values

    monkeypatch.setattr(head.predictor, "forward", truth)
    picture = reconstruct(method, output)
    torch.testing.assert_close(picture.pasted[0], picture.original[0], rtol=1e-4, atol=1e-4)
    index = hidden_tokens(output)
    patches = take(patchify(picture.original, (4, 4)), index)
    torch.testing.assert_close(
        predict_pixels(method, output, index)[0], patches[0], rtol=1e-4, atol=1e-4
    )


def test_a_sketch_is_shown_in_place_of_the_image() -> None:
    torch.manual_seed(0)
    method = build(tiny("ropim"), Grid.for_image((16, 24), 4, 3))
    images = torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        output = method(Batch(images, None, torch.arange(2)), Progress(0.0, 10), Noise(1))
    picture = reconstruct(method, output)
    sketch = output.plan.sketch
    assert sketch is not None
    expected = sketch.kept(patchify(images, (4, 4)))
    torch.testing.assert_close(patchify(picture.shown, (4, 4)), expected)
    assert picture.visible.all()
    assert picture.predicted.all()
    assert torch.equal(picture.original, images)
