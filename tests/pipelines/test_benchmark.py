"""The benchmark compares like with like: same arithmetic, same losses, memory that is counted."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mimkit.core.batch import Batch, Progress
from mimkit.core.errors import UserError
from mimkit.core.masking.plan import MaskPlan
from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig, SelectiveMAEConfig, build
from mimkit.core.noise import Noise
from mimkit.core.training.flops import training_flops
from mimkit.pipelines import cli
from mimkit.pipelines.benchmarks import compare, encoder_memory, lightly_mae, mae, selective
from mimkit.pipelines.benchmarks.lightly_mae import Lightly, LightlyMAE
from mimkit.pipelines.benchmarks.memory import in_child, peak_resident, saved_bytes
from mimkit.pipelines.benchmarks.predict import run_verb
from mimkit.pipelines.benchmarks.steps import Ours, Workload, peak_growth
from mimkit.pipelines.benchmarks.table import Goal, Table, markdown, shown
from mimkit.pipelines.benchmarks.turns import Times, Turns, take_turns

CONFIG = MAEConfig(
    encoder=EncoderConfig(embed_dim=24, depth=2, num_heads=2, patch_size=8),
    decoder=DecoderConfig(dim=32, depth=2, num_heads=4),
)
TINY = Workload(batch_size=2, image_size=32, patch_size=8)
CPU = torch.device("cpu")


def lightly_from(state: dict[str, torch.Tensor], model: LightlyMAE) -> None:
    """Give lightly's modules the weights of one of our methods."""
    names = {
        "encoder.": "encoder.vit.",
        "heads.pixels.predictor.embed.": "decoder.decoder_embed.",
        "heads.pixels.predictor.blocks.": "decoder.decoder_blocks.",
        "heads.pixels.predictor.norm.": "decoder.decoder_norm.",
        "heads.pixels.predictor.head.": "decoder.decoder_pred.",
        "heads.pixels.predictor.mask_token": "decoder.mask_token",
        "heads.pixels.predictor.pos_embed": "decoder.decoder_pos_embed",
    }
    renamed = {}
    for name, value in state.items():
        prefix = next(p for p in names if name.startswith(p))
        renamed[names[prefix] + name.removeprefix(prefix)] = value
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert (missing, unexpected) == (["encoder.mask_token"], [])


def test_both_sides_compute_the_same_loss_and_gradients() -> None:
    torch.manual_seed(0)
    ours, theirs = build(CONFIG, TINY.grid), LightlyMAE(CONFIG, TINY.grid)
    # The class token has a place in lightly's table; ours has none, so both are zero there.
    lightly_from(ours.state_dict(), theirs)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    plan = MaskPlan(order[:, :4], order[:, 4:].sort(dim=1).values)
    images = TINY.images()
    batch = Batch(images, None, torch.arange(2))
    loss = ours(batch, Progress(0.0, 1), Noise(0), plan).loss
    keep = torch.cat([torch.zeros(2, 1, dtype=torch.int64), plan.visible + 1], dim=1)
    other = theirs(images, (keep, plan.predict + 1))
    torch.testing.assert_close(loss, other, rtol=1e-5, atol=1e-6)
    loss.backward()
    other.backward()
    norms = []
    for model in (ours, theirs):
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients))
    torch.testing.assert_close(*norms, rtol=1e-4, atol=1e-6)


def test_both_sides_hide_the_same_number_of_tokens() -> None:
    config = MAEConfig(encoder=EncoderConfig(embed_dim=24, depth=1, num_heads=2))
    method = build(config, Workload().grid)
    _, utils = lightly_mae.lightly_modules()
    keep, mask = utils.random_token_mask((1, 197), mask_ratio=config.mask_ratio)
    assert keep.shape[1] - 1 == method.mask.num_visible == 49
    assert mask.shape[1] == method.mask.num_predict == 147


@pytest.mark.parametrize("side", [Ours("ours", CONFIG), Lightly("lightly", CONFIG)])
def test_the_formula_of_a_side_equals_the_counter(side: Ours | Lightly) -> None:
    step = side.build(replace(TINY, batch_size=64))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step.run()
    assert counter.get_total_flops() / 64 == pytest.approx(step.flops, rel=0.01)


@pytest.mark.parametrize("side", [Ours("ours", CONFIG), Lightly("lightly", CONFIG)])
def test_a_step_updates_every_weight(side: Ours | Lightly) -> None:
    step = side.build(TINY)
    trained = {n: p for n, p in step.model.named_parameters() if p.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    loss = step.run()
    assert loss.isfinite()
    same = [name for name, value in before.items() if torch.equal(value, trained[name])]
    # lightly's encoder has a mask token of its own, which MAE does not use.
    assert same == (["encoder.mask_token"] if side.name == "lightly" else [])


def test_what_is_kept_for_backward_is_counted_once_and_exactly() -> None:
    weight = torch.randn(8, 4, requires_grad=True)
    x = torch.randn(16, 4)
    hidden = 16 * 8 * 4  # bytes

    def work() -> torch.Tensor:
        y = torch.nn.functional.linear(x, weight)  # keeps x, which is given
        return (y * y).sin()  # keeps y once, although it is read twice, and its square

    assert saved_bytes(work, [weight, x]) == 2 * hidden
    assert saved_bytes(work, [weight]) == 2 * hidden + 16 * 4 * 4


def test_a_child_measures_its_own_memory_only() -> None:
    held = b"x" * 700_000_000  # a parent that is larger than its child
    assert in_child(peak_resident) < len(held) <= peak_resident()


def test_steps_raise_the_peak_of_their_process() -> None:
    side, work = Ours("ours", CONFIG), replace(TINY, batch_size=256, image_size=64)
    kept = side.build(work).kept_bytes()
    assert 5e7 < kept < peak_growth([side], 0, work, 1) < 10 * kept


def test_sides_take_turns_and_ratios_are_paired() -> None:
    calls = []
    sides = {name: (lambda name=name: calls.append(name)) for name in ("a", "b")}
    turns = take_turns(sides, 0.0, CPU, "test")
    assert turns.num_turns == 3
    assert calls == ["a", "b", "a", "b", "b", "a", "a", "b"]  # the first pair is not counted
    assert turns.peak > 0
    times = {"a": Times((1.0, 2.0, 4.0), (1.0,) * 3), "b": Times((3.0, 4.0, 4.0), (2.0,) * 3)}
    fixed = Turns(times, 1.0)
    assert fixed.speedup("a", "b") == 2.0
    assert fixed.speedup("b", "a", cpu=True) == 0.5
    assert fixed.wall("a") == 2.0


def test_a_comparison_has_a_row_per_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "peak_growth", lambda sides, place, work: 5_000_000)
    sides = [Ours("ours", CONFIG), Lightly("lightly", CONFIG)]
    rows, turns = compare.compare(sides, TINY, 0.0, "test")
    assert [row["side"] for row in rows] == ["ours", "lightly"]
    assert rows[0]["times as fast"] == turns.speedup("ours", "lightly")
    assert rows[1]["times as fast"] is None
    kept = [row["kept for backward, MB"] for row in rows]
    assert isinstance(kept[0], float)
    assert isinstance(kept[1], float)
    assert 0 < kept[0] < kept[1]
    assert rows[0]["peak memory, MB"] == 5.0
    assert all(isinstance(row["GFLOP per image"], float) for row in rows)


def test_encoder_memory_is_linear_in_visible_tokens() -> None:
    config = CONFIG.encoder
    work = replace(TINY, image_size=64)
    visible = [64, 48, 16, 5, 1]
    kept = [encoder_memory.encoder_bytes(config, work, num) for num in visible]
    assert encoder_memory.farthest_from_line(visible, kept) == 0
    assert kept == sorted(kept, reverse=True)
    per_token = (kept[0] - kept[1]) // 16
    assert kept[-1] < 3 * per_token, "one visible token and the class token"
    larger = encoder_memory.encoder_bytes(config, replace(work, image_size=128), 16)
    assert larger == kept[2], "what is hidden costs nothing"


def test_farthest_from_line_sees_a_bend() -> None:
    assert encoder_memory.farthest_from_line([0, 1, 2], [0, 10, 20]) == 0
    assert encoder_memory.farthest_from_line([4, 2, 0], [40, 27, 0]) == 7


def test_what_the_published_sizes_save_in_arithmetic() -> None:
    grid = Workload().grid
    with torch.device("meta"):
        counts = [
            training_flops(build(config, grid)).training
            for config in (selective.PUBLISHED, selective.WIDE, selective.BASE)
        ]
    assert counts[2] / counts[0] > 5
    assert counts[2] / counts[1] > 2.5
    assert mae.METHOD == selective.BASE
    assert 1 < lightly_mae.lightly_flops(mae.METHOD, grid) / counts[2] < 1.05


def test_parts_are_measured_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "peak_growth", lambda sides, place, work: 5_000_000)
    monkeypatch.setattr(mae, "METHOD", CONFIG)
    monkeypatch.setattr(selective, "BASE", CONFIG)
    small = SelectiveMAEConfig(encoder=CONFIG.encoder, decoder=CONFIG.decoder)
    monkeypatch.setattr(selective, "PUBLISHED", small)
    monkeypatch.setattr(selective, "WIDE", small)
    monkeypatch.setattr(encoder_memory, "SMALL", CONFIG.encoder)
    monkeypatch.setattr(compare, "IMAGE_SIZE", 32)
    monkeypatch.setattr(compare, "PATCH_SIZE", 8)
    parts = ["mae", "selective", "loader", "predict", "encoder-memory"]
    words = ["benchmark", *parts, "--seconds", "0.2", "--batch-size", "2", "--scene-size", "600"]
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    stored = json.loads((tmp_path / "benchmark.json").read_text())
    assert list(stored["parts"]) == parts
    assert (
        stored["command"]
        == f"mimkit benchmark {' '.join(parts)} --seconds 0.2 --batch-size 2 --scene-size 600"
    )
    assert f"torch {torch.__version__.partition('+')[0]}" in stored["machine"]["versions"]
    (scene,) = stored["parts"]["predict"]["rows"]
    assert scene["pixels"] == 360_000
    assert 5e7 < scene["of it before it starts, MB"] * 1e6 < scene["peak memory, MB"] * 1e6 < 4e9
    assert stored["parts"]["predict"]["goals"] == []
    assert "only 600 x 600 pixels" in stored["parts"]["predict"]["title"]
    assert stored["parts"]["encoder-memory"]["goals"][0]["met"] is True
    page = (tmp_path / "benchmark.md").read_text()
    for part in stored["parts"].values():
        assert f"## {part['title']}" in page
        assert f"## {part['title']}" in printed


def test_a_missing_package_stops_its_part_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lightly.models", None)
    monkeypatch.setattr(encoder_memory, "SMALL", CONFIG.encoder)
    assert cli.main(["benchmark", "mae", "encoder-memory", "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "not measured: benchmark mae: compares with lightly" in printed.out
    assert "pip install 'mimkit[bench]'" in printed.err
    assert list(json.loads((tmp_path / "benchmark.json").read_text())["parts"]) == [
        "encoder-memory"
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seconds", "0"], "--seconds 0.0: is out of range; use 1 to 86400."),
        (["--batch-size", "0"], "--batch-size 0: is too small; use 1 or more."),
        (["--scene-size", "9"], "--scene-size 9: is too small; use 512 or more."),
        (["--device", "cuda:77"], "cuda:77"),
    ],
)
def test_wrong_numbers_are_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["benchmark", "loader", *words]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert not printed.out


def test_a_verb_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mimkit predict: ended with exit code"):
        run_verb(["predict", str(tmp_path / "no.tif"), "--model", "x", "--out", "y"])


def test_cells_and_tables_read_well() -> None:
    assert [shown(v) for v in (None, "x", 7, 12345, 0.1234, 1.234, 12.34, 123.4, 12345.6)] == [
        "-", "x", "7", "12,345", "0.123", "1.23", "12.3", "123", "12,346",
    ]  # fmt: skip
    rows = ({"side": "a", "s": 1.0}, {"side": "bcd", "s": 20.5})
    text = markdown(Table("T", rows, (Goal("fast", "2.0", False),), ("note.",)))
    assert text.splitlines() == [
        "## T",
        "",
        "| side |    s |",
        "| ---- | ---: |",
        "| a    | 1.00 |",
        "| bcd  | 20.5 |",
        "",
        "- Goal, fast: 2.0, NOT met.",
        "- note.",
    ]
