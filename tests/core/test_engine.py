"""The plain engine: one update however it is cut, exact continuation, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mimkit.core.batch import Batch, Progress
from mimkit.core.errors import WeightsError
from mimkit.core.grid import Grid
from mimkit.core.method import Method
from mimkit.core.methods import (
    DecoderConfig,
    EncoderConfig,
    MAEConfig,
    MethodConfig,
    SelectiveMAEConfig,
    build,
)
from mimkit.core.noise import Noise
from mimkit.core.training.engine import (
    NonFiniteLossError,
    PlainEngine,
    SharedNoise,
    split,
    step_seed,
)
from mimkit.core.training.optim import OptimConfig

ENCODER = EncoderConfig(embed_dim=16, depth=2, num_heads=2, patch_size=4)
DECODER = DecoderConfig(dim=16, depth=1, num_heads=2)
METHODS: list[MethodConfig] = [
    MAEConfig(encoder=ENCODER, decoder=DECODER),
    SelectiveMAEConfig(encoder=ENCODER, decoder=DECODER, mask_ratio=0.5),
]
GRID = Grid.for_image((16, 16), 4, 2)
OPTIM = OptimConfig(base_lr=0.1, warmup_epochs=1)


def make_engine(config: MethodConfig = METHODS[0], optim: OptimConfig = OPTIM, **options: object):
    torch.manual_seed(0)
    return PlainEngine(build(config, GRID), optim, batch_size=6, num_epochs=4, **options)  # type: ignore[arg-type]


def make_batch(seed: int, size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 2, 16, 16, generator=generator)
    valid = torch.rand(size, 16, 16, generator=generator) > 0.1
    return Batch(images, valid, torch.arange(size) + 10 * seed)


def run(engine: PlainEngine, steps: range, parts: int = 1) -> list[float]:
    losses = []
    for step in steps:
        noise, progress = Noise(step_seed(3, step)), Progress(step / 5, 4)
        result = engine.step(split(make_batch(step), parts), progress, noise)
        losses.append(float(result.loss))
    return losses


def weights(engine: PlainEngine) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in engine.model.state_dict().items()}


@pytest.mark.parametrize("config", METHODS, ids=lambda c: c.name)
def test_a_run_continues_with_the_same_bits(config: MethodConfig) -> None:
    whole, first, second = (make_engine(config) for _ in range(3))
    expected = run(whole, range(10))
    assert run(first, range(4)) == expected[:4]
    saved = {name: value.clone() for name, value in first.state().items()}
    second.load_state(saved)
    assert run(second, range(4, 10)) == expected[4:]
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(second)[name]), name


@pytest.mark.parametrize("config", METHODS, ids=lambda c: c.name)
def test_a_batch_may_be_cut_into_parts(config: MethodConfig) -> None:
    whole, cut = make_engine(config), make_engine(config)
    assert run(whole, range(1)) == pytest.approx(run(cut, range(1), parts=4), rel=1e-5)
    # Gradients, not weights: Adam makes steps of one size from the rounding of zero gradients.
    other = dict(cut.model.named_parameters())
    for name, parameter in whole.model.named_parameters():
        torch.testing.assert_close(other[name].grad, parameter.grad, rtol=1e-3, atol=1e-6)


def test_the_loss_falls() -> None:
    engine = make_engine()
    batch = make_batch(0)
    losses = [float(engine.step([batch], Progress(1.0, 4), Noise(1)).loss) for _ in range(40)]
    assert losses[-1] < 0.9 * losses[0]


def test_sample_weights_scale_gradients() -> None:
    engine = make_engine(optim=replace(OPTIM, weight_decay=0.0))
    nothing = engine.step([make_batch(0)], Progress(2.0, 4), Noise(1), sample_weight=torch.zeros(6))
    assert float(nothing.loss) == 0.0
    assert float(nothing.grad_norm) == 0.0
    assert (nothing.per_sample > 0).all()


def test_a_bad_step_leaves_weights_and_moments_alone() -> None:
    engine = make_engine()
    run(engine, range(3))
    before = {name: value.clone() for name, value in engine.state().items()}
    bad = make_batch(7)
    bad.images[2] = float("inf")
    with pytest.raises(NonFiniteLossError, match="not finite") as caught:
        engine.step([replace(bad, valid=None)], Progress(1.0, 4), Noise(1))
    assert caught.value.ids.tolist() == bad.ids.tolist()
    for name, value in engine.state().items():
        assert torch.equal(value, before[name]), name
    run(engine, range(3, 5))  # and it can go on


def test_a_state_of_another_network_is_refused() -> None:
    engine = make_engine()
    other = PlainEngine(
        build(MAEConfig(encoder=replace(ENCODER, depth=1), decoder=DECODER), GRID),
        OPTIM,
        batch_size=6,
        num_epochs=4,
    )
    before = weights(engine)
    with pytest.raises(WeightsError, match="is missing for this architecture"):
        engine.load_state(other.state())
    assert all(torch.equal(value, before[name]) for name, value in weights(engine).items())


def test_gradients_are_clipped() -> None:
    free, clipped = make_engine(), make_engine(optim=replace(OPTIM, clip_grad=1e-3))
    norms = [
        float(engine.step([make_batch(1)], Progress(1.0, 4), Noise(1)).grad_norm)
        for engine in (free, clipped)
    ]
    assert norms[0] == norms[1] > 1e-3  # what is reported is the norm before clipping
    left = [p.grad for p in clipped.model.parameters() if p.grad is not None]
    assert float(torch.nn.utils.get_total_norm(left)) == pytest.approx(1e-3, rel=1e-3)


def test_bf16_computes_like_float32_and_keeps_float32_weights() -> None:
    exact, fast = make_engine(), make_engine(precision="bf16")
    assert run(fast, range(3)) == pytest.approx(run(exact, range(3)), rel=0.03)
    assert {value.dtype for value in fast.model.state_dict().values()} == {torch.float32}


def test_draws_of_parts_are_those_of_the_whole() -> None:
    shared = SharedNoise(Noise(5), 6)
    parts = [shared.at(start).uniform("mask", (2, 3)) for start in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), Noise(5).uniform("mask", (6, 3)))
    again = SharedNoise(Noise(5), 6).at(0)
    first, second = again.uniform("mask", (6, 3)), again.uniform("mask", (6, 3))
    assert not torch.equal(first, second)  # a second draw of one name in a step is another draw


def test_seeds_of_steps_and_streams_differ() -> None:
    seeds = {
        step_seed(seed, step, stream)
        for seed in range(10)
        for step in range(50)
        for stream in range(3)
    }
    assert len(seeds) == 1500


def test_everything_that_should_learn_moves() -> None:
    engine = make_engine(METHODS[1])
    before = weights(engine)
    run(engine, range(1, 3))
    method = engine.model
    assert isinstance(method, Method)
    still = [n for n, p in method.named_parameters() if torch.equal(before[n], p)]
    assert still == []
    assert isinstance(method, nn.Module)
