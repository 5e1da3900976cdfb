"""MFF: the fusion's weights, what it leaves alone, MAE as its smallest case, published tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.published import import_published, infer_config
from mimkit.core.encoders.fusion import TapFusion
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid
from mimkit.core.method import Method, Output
from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig, MFFConfig, build
from mimkit.core.methods.mff import default_blocks
from mimkit.core.noise import Noise
from mimkit.core.positions import sincos

CONFIG = MFFConfig(
    encoder=EncoderConfig(embed_dim=24, depth=5, num_heads=2, patch_size=8),
    decoder=DecoderConfig(dim=16, depth=1, num_heads=2),
)
GRID = Grid.for_image((32, 48), 8, 3)


def make(config: MFFConfig | MAEConfig = CONFIG) -> Method:
    torch.manual_seed(0)
    return build(config, GRID)


def run(method: Method) -> Output:
    pixels = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    return method(Batch(pixels, None, torch.arange(2)), Progress(0.0, 1), Noise(3))


def fusion(method: Method) -> TapFusion:
    assert isinstance(method.neck, TapFusion)
    return method.neck


def test_weights_start_equal_and_their_gradient_sums_to_zero() -> None:
    method = make()
    neck = fusion(method)
    assert default_blocks(12) == (0, 2, 4, 6, 8, 11)
    assert neck.taps == (0, 2)
    torch.testing.assert_close(neck.weights, torch.full((3,), 1 / 3))
    run(method).loss.backward()
    assert neck.proj_weights.grad is not None
    assert neck.proj_weights.grad.abs().max() > 1e-6
    assert float(neck.proj_weights.grad.sum().abs()) < 1e-6
    # One projection less than layers: the last is used as it is.
    grads = [p.grad for p in neck.projections.parameters()]
    assert len(grads) == 4
    assert all(grad is not None and grad.any() for grad in grads)


def test_fusion_by_hand() -> None:
    method = make()
    neck, output = fusion(method), run(method)
    context = output.context
    with torch.no_grad():
        neck.proj_weights.copy_(torch.tensor([0.3, -1.0, 2.0])[:, None, None, None])
    every = method.encoder.encode_patches(context.patches, output.plan, taps=(0, 2, 4))
    share = torch.tensor([0.3, -1.0, 2.0]).softmax(0)
    first, second = neck.projections
    fused = share[0] * first(every.taps[0]) + share[1] * second(every.taps[2])
    fused = fused + share[2] * every.taps[4]
    norm = method.get_submodule("encoder.norm")
    latent = run(method).features.sequence
    torch.testing.assert_close(latent, norm(fused))


def test_blocks_are_the_same_with_and_without_fusion() -> None:
    method = make()
    output = run(method)
    plain = method.encoder.encode_patches(output.context.patches, output.plan, taps=(0, 2))
    assert torch.equal(plain.taps[2], output.features.taps[2])
    assert not torch.equal(plain.sequence, output.features.sequence)


def test_the_last_block_alone_is_mae() -> None:
    method = make(replace(CONFIG, fused_blocks=(4,)))
    mae = make(MAEConfig(encoder=CONFIG.encoder, decoder=CONFIG.decoder))
    ours = {k: v for k, v in method.state_dict().items() if not k.startswith("neck.")}
    mae.load_state_dict(ours)
    assert torch.equal(run(method).loss, run(mae).loss)
    assert "neck.proj_weights" not in dict(method.named_parameters())


@pytest.mark.parametrize("blocks", [(0, 2), (2, 0, 4), (0, 0, 4), (-1, 4), ()])
def test_blocks_that_cannot_be_fused_are_refused(blocks: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="end with the last of 5"):
        make(replace(CONFIG, fused_blocks=blocks))


def test_published_tables_start_with_the_row_and_are_loaded_as_they_are() -> None:
    published = make(replace(CONFIG, as_published=True))
    table = published.get_buffer("encoder.pos_embed")[0, 1:].reshape(4, 6, 24)
    assert torch.equal(table[:, :1, :12].expand(-1, 6, -1), table[..., :12])
    swapped = torch.cat([table[..., 12:], table[..., :12]], dim=-1).flatten(0, 1)
    torch.testing.assert_close(swapped, sincos((4, 6), 24))
    state = released(published)
    state["backbone.pos_embed"] = torch.randn(1, 25, 24)
    grid = {"config": replace(CONFIG, as_published=True), "grid": GRID}
    method = import_published(state, "mff", **grid).method
    assert torch.equal(method.get_buffer("encoder.pos_embed"), state["backbone.pos_embed"])
    torch.testing.assert_close(run(method).plan.visible, run(published).plan.visible)


def test_released_names_say_the_configuration() -> None:
    state = released(make())
    found = infer_config(state, "mff", num_heads=2, decoder_heads=2)
    assert isinstance(found, MFFConfig)
    assert (found.encoder, found.decoder) == (CONFIG.encoder, CONFIG.decoder)


def released(method: Method) -> dict[str, torch.Tensor]:
    """Return a method's tensors by the released code's names."""
    words = {
        "encoder.patch_embed.proj": "backbone.patch_embed.projection",
        "encoder.blocks": "backbone.layers",
        "encoder.norm": "backbone.ln1",
        "encoder.": "backbone.",
        "neck.projections": "backbone.proj_layers",
        "neck.proj_weights": "backbone.proj_weights",
        "heads.pixels.predictor.blocks": "neck.decoder_blocks",
        "heads.pixels.predictor.norm": "neck.ln1",
        "heads.pixels.predictor.head": "neck.decoder_pred",
        "heads.pixels.predictor.mask_token": "neck.mask_token",
        "heads.pixels.predictor.": "neck.decoder_",
        ".norm1": ".ln1",
        ".norm2": ".ln2",
        ".mlp.fc1": ".ffn.layers.0.0",
        ".mlp.fc2": ".ffn.layers.1",
    }
    out = {}
    for name, value in method.state_dict().items():
        for ours, theirs in words.items():
            name = name.replace(ours, theirs)
        out[name] = value
    return out


def test_the_shares_of_the_layers_are_told_to_the_log() -> None:
    method = make()
    told = method.scalars()
    assert list(told) == ["fusion/0", "fusion/2", "fusion/4"]
    assert float(torch.stack(list(told.values())).sum()) == pytest.approx(1.0)
    assert make(MAEConfig(encoder=CONFIG.encoder, decoder=CONFIG.decoder)).scalars() == {}
