"""Hi-End-MAE: what the decoder reads, who gets gradient through what, any order of axes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_methods import tiny
from torch import nn

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.published import infer_config, rename
from mimkit.core.decoders.cross import CrossDecoder
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid
from mimkit.core.masking.plan import MaskPlan
from mimkit.core.method import Method, Output
from mimkit.core.methods import DecoderConfig, EncoderConfig, HiEndMAEConfig, build
from mimkit.core.noise import Noise
from mimkit.core.reconstruction import pixel_head

CONFIG = HiEndMAEConfig(
    encoder=EncoderConfig(embed_dim=24, depth=12, num_heads=2, patch_size=4),
    decoder=DecoderConfig(dim=12, depth=2, num_heads=2),
)


def make(size: tuple[int, ...] = (16, 8, 12), config: HiEndMAEConfig = CONFIG) -> Method:
    torch.manual_seed(0)
    return build(config, Grid.for_image(size, 4, 1))


def volumes(size: tuple[int, ...] = (16, 8, 12)) -> torch.Tensor:
    return torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(1))


def run(method: Method, pixels: torch.Tensor, plan: MaskPlan | None = None) -> Output:
    return method(Batch(pixels, None, torch.arange(2)), Progress(0.0, 1), Noise(3), plan)


def decoder_of(method: Method) -> CrossDecoder:
    decoder = method.get_submodule("heads.pixels.predictor")
    assert isinstance(decoder, CrossDecoder)
    return decoder


def test_lengths_of_queries_and_memories() -> None:
    method = make()
    output, decoder = run(method, volumes()), decoder_of(method)
    assert decoder.contexts == (9, 6, 3)
    assert output.features.sequence.shape[1] == 1 + 24 // 4
    assert decoder.stem is not None
    assert decoder.stem(output.features, output.plan, None).shape == (2, 1 + 24, 12)
    assert all(decoder.memory(k, output.features).shape == (2, 1 + 6, 12) for k in range(3))


def test_blocks_above_the_last_context_learn_through_the_queries_alone() -> None:
    method = make()
    stem = decoder_of(method).stem
    assert stem is not None
    stem.trunk.embed.register_forward_hook(lambda _module, _given, out: out.detach())
    run(method, volumes()).loss.backward()
    for name, parameter in method.encoder.named_parameters():
        above = name.startswith(("blocks.10.", "blocks.11.", "norm."))
        assert above == (parameter.grad is None or not parameter.grad.any()), name


def test_targets_have_mean_zero_and_biased_deviation_one() -> None:
    method, pixels = make(), volumes()
    output = run(method, pixels)
    head = pixel_head(method)
    values = head.target(output.context, output.plan.predict).values
    torch.testing.assert_close(values.mean(-1), torch.zeros(values.shape[:2]), atol=1e-5, rtol=0)
    deviation = values.std(-1, unbiased=False)
    torch.testing.assert_close(deviation, torch.ones(values.shape[:2]), atol=1e-5, rtol=0)
    rescaled = run(method, 3 * pixels + 1, output.plan)
    again = head.target(rescaled.context, output.plan.predict).values
    torch.testing.assert_close(again, values, atol=1e-4, rtol=0)


def test_what_visible_tokens_predict_costs_nothing() -> None:
    method, pixels = make(), volumes()
    output = run(method, pixels)
    everything = torch.arange(24).expand(2, -1)
    prediction = pixel_head(method).predict(output.features, output.plan, everything)
    hidden = prediction.gather(1, output.plan.predict[..., None].expand(-1, -1, 64))
    torch.testing.assert_close(hidden, output.predictions["pixels"])


def test_two_axes_swapped_in_image_table_and_plan_give_the_same_loss() -> None:
    size, other = (16, 8, 12), (8, 16, 12)
    first, second = make(size), make(other)
    pixels = volumes(size)
    output = run(first, pixels)
    place = torch.arange(24).reshape(4, 2, 3)
    moved = place.transpose(0, 1).flatten().argsort()  # old place -> new place
    kernel = "encoder.patch_embed.proj.weight"
    state = dict(first.state_dict())
    state[kernel] = state[kernel].transpose(2, 3)
    for name in ("encoder.pos_embed", "heads.pixels.predictor.stem.trunk.pos_embed"):
        table = state[name]
        body = table[:, 1:][:, moved.argsort()]
        state[name] = torch.cat([table[:, :1], body], dim=1)
    head = "heads.pixels.predictor.head"
    inner = torch.arange(64).reshape(4, 4, 4).transpose(0, 1).flatten()
    for part in ("weight", "bias"):
        state[f"{head}.{part}"] = state[f"{head}.{part}"][inner]
    second.load_state_dict(state)
    plan = MaskPlan(moved[output.plan.visible], moved[output.plan.predict].sort(dim=1).values)
    swapped = run(second, pixels.transpose(2, 3), plan)
    torch.testing.assert_close(swapped.loss, output.loss)
    wrong = run(make(other), pixels.transpose(2, 3), plan)
    assert not torch.allclose(wrong.loss, output.loss)


def test_a_published_file_says_its_configuration_and_its_maps_are_turned_round() -> None:
    state = {
        "encoder.cls_token": torch.zeros(1, 1, 768),
        "encoder.patch_embed.proj.weight": torch.zeros(768, 1, 16, 16, 16),
        "mask_token": torch.zeros(1, 1, 384),
        "encoder_pos_embed": torch.ones(1, 8, 768),
    }
    state |= {f"encoder.blocks.{i}.mlp.fc1.weight": torch.zeros(3072, 768) for i in range(12)}
    state |= {f"decoder.blocks.{i}.norm1.bias": torch.zeros(384) for i in range(2)}
    cross = "decoder.cross_attention_blocks"
    state |= {f"{cross}.{i}.mlp.fc1.weight": torch.zeros(1536, 384) for i in range(3)}
    state |= {f"encoder_to_decoder.{i}.bias": torch.full((384,), float(i)) for i in range(4)}
    config = infer_config(state, "hi-end-mae")
    assert isinstance(config, HiEndMAEConfig)
    assert config.reads == (9, 6, 3)
    assert (config.encoder.num_heads, config.decoder.num_heads, config.decoder.depth) == (12, 12, 2)
    ours, ignored = rename(state, "hi-end-mae")
    assert not ignored
    assert not ours["encoder.pos_embed"][:, 0].any()
    predictor = "heads.pixels.predictor"
    maps = [f"{predictor}.memories.{k}.bias" for k in range(3)]
    maps.append(f"{predictor}.stem.trunk.embed.bias")
    assert [float(ours[name][0]) for name in maps] == [2.0, 1.0, 0.0, 3.0]


def test_a_context_that_the_encoder_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="not blocks of an encoder with 12"):
        make(config=replace(CONFIG, contexts=(12, 6)))


def test_tokens_without_data_are_read_by_nobody() -> None:
    method = build(tiny("hi-end-mae"), Grid.for_image((16, 16), 4, 1)).eval()
    pixels = volumes((16, 16))
    valid = torch.ones(2, 16, 16, dtype=torch.bool)
    valid[:, :8, :8] = False
    batch = Batch(torch.where(valid[:, None], pixels, 5.0), valid, torch.arange(2))
    output = method(batch, Progress(0.0, 1), Noise(3))
    assert output.plan.absent is not None
    decoder = decoder_of(method)
    assert decoder.stem is not None
    nn.init.constant_(decoder.stem.trunk.mask_token, 0.3)
    before = decoder(output.features, output.plan)
    table = decoder.stem.trunk.pos_embed
    table[:, 1:][output.plan.absent[:1]] += 10.0  # queries at absent places only
    present = ~output.plan.absent.gather(1, output.plan.predict)
    after = decoder(output.features, output.plan)
    torch.testing.assert_close(before[0][present[0]], after[0][present[0]])
