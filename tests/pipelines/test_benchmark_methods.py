"""Methods beside MAE, and volumes beside MONAI: equal work, honest rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.to_monai import set_norm_eps
from mimkit.core.errors import UserError
from mimkit.core.masking.plan import MaskPlan
from mimkit.core.methods import METHODS, DecoderConfig, EncoderConfig, MAEConfig, build
from mimkit.core.noise import Noise
from mimkit.pipelines import cli
from mimkit.pipelines.benchmarks import compare, mae3d, methods
from mimkit.pipelines.benchmarks.monai_mae import Monai, MonaiMAE
from mimkit.pipelines.benchmarks.steps import Ours, Workload, tiny

ENCODER = EncoderConfig(embed_dim=24, depth=2, num_heads=2, patch_size=8)
CONFIG = MAEConfig(encoder=ENCODER, decoder=DecoderConfig(dim=48, depth=2, num_heads=4))
VOLUMES = Workload(batch_size=2, image_size=24, patch_size=8, channels=1, rank=3)
IMAGES = Workload(batch_size=2, image_size=64, patch_size=8)
OTHERS = [name for name, row in METHODS.items() if not row.plain]


def monai_from(state: dict[str, torch.Tensor], model: MonaiMAE) -> None:
    """Give MONAI's network the weights of one of our methods."""
    names = {
        "encoder.patch_embed.proj.": "patch_embedding.patch_embeddings.",
        "encoder.cls_token": "cls_token",
        "encoder.pos_embed": "patch_embedding.position_embeddings",
        "encoder.blocks.": "blocks.",
        "encoder.norm.": "blocks.2.",
        "heads.pixels.predictor.embed.": "decoder_embed.",
        "heads.pixels.predictor.mask_token": "mask_tokens",
        "heads.pixels.predictor.pos_embed": "decoder_pos_embedding",
        "heads.pixels.predictor.blocks.": "decoder_blocks.",
        "heads.pixels.predictor.norm.": "decoder_blocks.2.",
        "heads.pixels.predictor.head.": "decoder_pred.",
    }
    renamed = {}
    for name, value in state.items():
        prefix = next(p for p in names if name.startswith(p))
        new = names[prefix] + name.removeprefix(prefix)
        for ours, theirs in (("attn.proj", "attn.out_proj"), ("mlp.fc", "mlp.linear")):
            new = new.replace(ours, theirs)
        renamed[new] = value[:, 1:] if name.endswith("pos_embed") else value
    missing, unexpected = model.net.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert all("cross_attn" in name for name in missing), "nothing reads these"
    set_norm_eps(model, 1e-6)


def test_monai_computes_the_same_loss_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    grid = VOLUMES.grid
    ours, theirs = build(CONFIG, grid), MonaiMAE(CONFIG, grid)
    monai_from(ours.state_dict(), theirs)
    order = torch.stack([torch.randperm(27), torch.randperm(27)])
    plan = MaskPlan(order[:, :6], order[:, 6:].sort(dim=1).values)
    mask = torch.ones(2, 27).scatter(1, plan.visible, 0.0)
    rows = torch.arange(2)[:, None]
    monkeypatch.setattr(
        theirs.net, "_masking", lambda x, masking_ratio: (x[rows, plan.visible], plan.visible, mask)
    )
    images = VOLUMES.images()
    loss = ours(Batch(images, None, torch.arange(2)), Progress(0.0, 1), Noise(0), plan).loss
    other = theirs(images)
    torch.testing.assert_close(loss, other, rtol=1e-5, atol=1e-6)
    norms = []
    for model, value in ((ours, loss), (theirs, other)):
        value.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients))
    torch.testing.assert_close(*norms, rtol=1e-4, atol=1e-6)


def test_the_formula_of_monai_equals_the_counter() -> None:
    step = Monai("MONAI", CONFIG).build(replace(VOLUMES, batch_size=8))
    before = {n: p.detach().clone() for n, p in step.model.named_parameters() if p.requires_grad}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step.run()
    assert counter.get_total_flops() / 8 == pytest.approx(step.flops, rel=0.01)
    after = dict(step.model.named_parameters())
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert all("cross_attn" in name for name in same)
    small = Monai("MONAI", CONFIG).small().build(replace(VOLUMES, image_size=16, batch_size=1))
    assert small.run().isfinite()


def test_volumes_beside_monai_are_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compare, "peak_growth", lambda sides, place, work: (3 + place) * 1_000_000)
    monkeypatch.setattr(mae3d, "METHOD", CONFIG)
    monkeypatch.setattr(compare, "VOLUME_SIZE", 24)
    monkeypatch.setattr(compare, "PATCH_SIZE", 8)
    words = ["benchmark", "mae3d", "--seconds", "0.1", "--batch-size", "2"]
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    part = json.loads((tmp_path / "benchmark.json").read_text())["parts"]["mae3d"]
    assert [row["side"] for row in part["rows"]] == ["mimkit", "MONAI"]
    speed, memory = part["goals"]
    assert speed["measured"] == f"{part['rows'][0]['times as fast']:.3f}"
    assert memory["measured"] == "0.75"
    assert memory["met"] is True


def test_methods_beside_mae_are_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compare, "peak_growth", lambda sides, place, work: 5_000_000)
    few = {name: METHODS[name] for name in ("mae", "selectivemae")}
    monkeypatch.setattr(methods, "METHODS", few)
    monkeypatch.setattr(methods, "ENCODER", ENCODER)
    monkeypatch.setattr(methods, "IMAGE_SIZE", 64)
    words = ["benchmark", "methods", "--seconds", "0.1", "--batch-size", "2"]
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    part = json.loads((tmp_path / "benchmark.json").read_text())["parts"]["methods"]
    selective, base = part["rows"]
    assert (selective["method"], base["method"]) == ("selectivemae", "mae")
    assert (selective["encoder"], selective["tokens"]) == ("ViT 24 x 2", "9, 16, 64")
    ratio = selective["GFLOP per image"] / base["GFLOP per image"]
    assert selective["times MAE's GFLOP"] == pytest.approx(ratio)
    assert base["times MAE's time"] is None
    (goal,) = part["goals"]
    assert float(goal["measured"]) == pytest.approx(1 / selective["times MAE's time"], abs=0.01)
    # The published sizes, by formula: 26.9 and 56.5 GFLOP (selectivemae.md, mae.md).
    assert selective["times MAE's GFLOP at ViT-B"] == pytest.approx(0.475, abs=0.01)
    assert any("2.1 times the throughput" in note for note in part["notes"])


def test_images_that_are_mixed_with_each_other_fill_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(methods, "STEP_GFLOP", 1e6)
    sides = [Ours(name, methods.sized(name, ENCODER, IMAGES)) for name in ("mixedae", "mae")]
    assert methods.multiple_of([side.config for side in sides], IMAGES) == 4
    for wanted, fits in [(16, 16), (6, 4), (1, 4)]:
        work = methods.fitted(MAEConfig(encoder=ENCODER), sides, replace(IMAGES, batch_size=wanted))
        assert (work.batch_size, work.multiple) == (fits, 4)


@pytest.mark.parametrize("name", OTHERS)
def test_another_encoder_gets_a_twin_of_equal_cost(name: str) -> None:
    work = Workload(image_size=128)
    config = methods.sized(name, ENCODER, work)
    assert methods.num_parameters(config, work) <= methods.LARGEST
    twin = methods.mae_of(config, work)
    wanted = methods.whole_image_flops(config, work)
    # Widths go in steps of a head, so that narrow twins are the least exact.
    assert methods.whole_image_flops(twin, work) == pytest.approx(wanted, rel=0.5)
    assert tiny(config) == config


@pytest.mark.parametrize("name", [name for name in METHODS if name not in OTHERS])
def test_a_plain_encoder_is_equal_and_has_a_small_form(name: str) -> None:
    config = methods.sized(name, ENCODER, IMAGES)
    twin = methods.mae_of(config, IMAGES)
    assert replace(twin.encoder, class_token=True) == replace(config.encoder, class_token=True)
    small = Ours(name, config).small()
    assert methods.num_parameters(small.config, IMAGES) < 300_000
    assert methods.step_flops(small.config, IMAGES) > 0


def test_a_method_that_cannot_be_measured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: METHODS[name] for name in ("mae", "selectivemae")}
    monkeypatch.setattr(methods, "METHODS", few)
    # Nine tokens of 85 % hidden leave too few to start from.
    with pytest.raises(UserError, match="finds no method to measure"):
        methods.make_trials(replace(IMAGES, image_size=24), ENCODER)
