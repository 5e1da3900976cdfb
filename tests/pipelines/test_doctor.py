"""What doctor says about machines of any kind, and that its forecasts follow from its numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mimkit.core.batch import Batch, Progress
from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig, SelectiveMAEConfig, build
from mimkit.core.methods.config import HUGE
from mimkit.core.noise import Noise
from mimkit.core.training import meters
from mimkit.core.training.engine import Precision
from mimkit.core.training.flops import FlopCount, training_flops
from mimkit.datasets.manifest import ManifestRow, write_manifest
from mimkit.datasets.samples import Sample
from mimkit.datasets.store import StoreMeta, StoreWriter
from mimkit.pipelines import doctor
from mimkit.pipelines.cli import main
from mimkit.pipelines.machine import disk, forecast, hardware, software
from mimkit.pipelines.machine.finding import Finding
from mimkit.pipelines.recipe import Recipe, recipe_grid, recipe_yaml

CPU = torch.device("cpu")
ENCODER = EncoderConfig(embed_dim=32, depth=2, num_heads=2, patch_size=8)
DECODER = DecoderConfig(dim=16, depth=1, num_heads=2)
TINY = Recipe(
    method=MAEConfig(encoder=ENCODER, decoder=DECODER),
    image_size=(32, 32),
    batch_size=8,
    epochs=50,
)
PREDICTED = forecast.Forecast(
    flops=FlopCount(encoder=6, decoder=3, selection=1, training=30),
    num_parameters=10,
    images_per_s=100.0,
    fixed_bytes=1e9,
    image_bytes=1e8,
    batch_size=64,
)


def test_a_python_that_is_not_tested_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert software.python().state == "ok"
    monkeypatch.setattr(software.sys, "version_info", (3, 13, 0))
    assert software.python().fatal
    assert "3.11 or 3.12" in software.python().remedy


def test_the_installed_packages_are_as_needed() -> None:
    assert len(software.requirements()) > 20
    assert "lightly" not in " ".join(software.requirements())  # an extra
    assert [finding.state for finding in software.packages()] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("needed", "problem"),
    [
        ("no-such-package>=2", "no-such-package is not installed"),
        ("numpy>=1000", f"numpy is {np.__version__}, not >=1000"),
    ],
)
def test_a_missing_package_ends_the_examination(
    needed: str,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(software, "requirements", lambda: ["torch", needed])
    assert main(["doctor", "--json"]) == 1
    findings = {f["topic"]: f for f in json.loads(capsys.readouterr().out)}
    assert findings["packages"]["found"] == problem
    assert findings["packages"]["state"] == "missing"
    assert "make install" in findings["packages"]["remedy"]
    assert "processor" not in findings


def test_formats_are_tried_and_a_failure_is_reported() -> None:
    assert [finding.state for finding in software.formats()[:2]] == ["ok", "ok"]

    def fails() -> None:
        raise OSError("no codec\nof this name")

    finding = software.tried("stores", "fine", fails)
    assert finding.fatal
    assert finding.found == "no codec of this name"


def test_limits_of_a_container_are_read(tmp_path: Path) -> None:
    assert hardware.cpu_quota(tmp_path) is None
    assert hardware.memory_limit(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("2000000000\n")
    assert hardware.cpu_quota(tmp_path) == 1.5
    assert hardware.memory_limit(tmp_path) == 2_000_000_000
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.cpu_quota(tmp_path) is None
    assert hardware.memory_limit(tmp_path) is None


@pytest.mark.parametrize(
    ("usable", "threads", "state", "says"),
    [
        (4, 4, "ok", ""),
        (4, 8, "slow", "OMP_NUM_THREADS=4"),
        (1, 1, "slow", "second core"),
        (4, 1, "slow", "OMP_NUM_THREADS=4"),
    ],
)
def test_threads_are_compared_with_cores(
    usable: int, threads: int, state: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = hardware.Processor("a processor", 8, usable)
    monkeypatch.setattr(hardware, "usable_processor", lambda: cpu)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    finding = hardware.processor()
    assert finding.state == state
    assert says in finding.remedy


def test_little_memory_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "free_memory", lambda: 10**9)
    assert hardware.memory().state == "slow"
    monkeypatch.setattr(hardware, "free_memory", lambda: 10**10)
    assert hardware.memory().state == "ok"
    assert hardware.memory().found.startswith("10.0 GB free of")


def test_without_a_gpu_everything_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    (finding,) = hardware.gpus()
    assert finding.state == "missing"
    assert not finding.fatal
    monkeypatch.setattr(hardware.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "driver" in hardware.gpus()[0].remedy


@pytest.mark.parametrize(
    ("capability", "speed", "free", "state", "says"),
    [
        ((9, 0), 7e14, 8e10, "ok", ""),
        ((9, 0), 1e14, 8e10, "slow", "data sheet"),
        ((9, 0), 7e14, 1e9, "slow", "fills its memory"),
        ((7, 0), 1e13, 8e10, "slow", "--precision fp32"),
    ],
)
def test_a_gpu_is_compared_with_its_data_sheet(
    capability: tuple[int, int],
    speed: float,
    free: float,
    state: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {
        "is_available": True,
        "device_count": 1,
        "get_device_properties": SimpleNamespace(name="NVIDIA H100 80GB HBM3"),
        "get_device_name": "NVIDIA H100 80GB HBM3",
        "mem_get_info": (free, 8.5e10),
        "get_device_capability": capability,
    }
    for name, value in given.items():
        monkeypatch.setattr(torch.cuda, name, lambda *device, value=value: value)
    monkeypatch.setattr(meters, "measured_flops", lambda *device: speed)
    (finding,) = hardware.gpus()
    assert finding.topic == "GPU 0"
    assert finding.found.startswith("NVIDIA H100 80GB HBM3, ")
    assert finding.state == state
    assert says in finding.remedy


@pytest.mark.gpu
def test_a_real_gpu_is_measured() -> None:
    findings = hardware.gpus()
    assert len(findings) == torch.cuda.device_count()
    assert all("TFLOP/s" in finding.found for finding in findings)
    recipe = replace(TINY, precision="bf16")
    found = forecast.forecast(recipe, 3, torch.device("cuda"), seconds=0.1)
    assert found.images_per_s > 0
    assert found.memory() > 0


def test_a_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    speed = disk.disk_speed(tmp_path, 1, max_pieces=5)
    assert speed.stream > 0
    assert speed.pieces > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stream", "pieces", "state"), [(1e9, 5000, "ok"), (5e7, 5000, "slow"), (1e9, 90, "slow")]
)
def test_a_slow_disk_is_said(
    stream: float, pieces: float, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = disk.DiskSpeed(stream, pieces)
    monkeypatch.setattr(disk, "disk_speed", lambda folder, num_bytes: speed)
    monkeypatch.setattr(disk, "LITTLE_ROOM", 1)
    room, reading = disk.disk(tmp_path, 1000)
    assert room.state == "ok"
    assert reading.state == state
    assert bool(reading.remedy) == (state != "ok")


def test_a_folder_without_room_or_right_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [finding.state for finding in disk.disk(tmp_path, 10**18)] == ["slow"]

    def refuse(folder: Path, num_bytes: int) -> None:
        raise PermissionError("not allowed")

    monkeypatch.setattr(disk, "disk_speed", refuse)
    assert disk.disk(tmp_path, 1)[1].state == "missing"


def test_what_a_layer_keeps_is_counted_once() -> None:
    layer = nn.Linear(8, 4)
    x = torch.randn(3, 8, requires_grad=True)
    with forecast.counting_kept(layer) as kept:
        (layer(x) + layer(x)).sum()
    assert kept == [3 * 8 * 4]  # the input, kept twice in one place; weights are no activations


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", [MAEConfig, SelectiveMAEConfig])
def test_a_forecast_follows_from_the_method(
    kind: type[MAEConfig] | type[SelectiveMAEConfig], precision: Precision
) -> None:
    encoder = replace(ENCODER, embed_dim=96, depth=6)
    method = kind(encoder=encoder, decoder=replace(DECODER, dim=64, depth=2))
    recipe = replace(TINY, method=method, precision=precision)
    found = forecast.forecast(recipe, 1, CPU, seconds=0.01)
    real = build(method, recipe_grid(recipe, 1))
    assert found.flops == training_flops(real)
    assert found.num_parameters == sum(p.numel() for p in real.parameters())
    assert found.images_per_s > 0
    kept = [kept_by(real, num, precision) for num in (2, 10)]
    # The formula stands for whole methods, so it is near and not exact.
    assert 0.8 < found.image_bytes / ((kept[1] - kept[0]) / 8) < 1.5


def kept_by(method: nn.Module, num: int, precision: Precision) -> int:
    """Return what a forward pass of so many images keeps."""
    batch = Batch(torch.randn(num, 1, 32, 32), None, torch.arange(num))
    arithmetic = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with forecast.counting_kept(method) as kept, arithmetic:
        method(batch, Progress(0.0, 1), Noise())
    return kept[0]


def test_a_large_recipe_costs_no_memory_to_look_at() -> None:
    recipe = replace(TINY, method=MAEConfig(encoder=HUGE), image_size=(224, 224))
    with torch.device("meta"):
        method = build(recipe.method, recipe_grid(recipe, 3))
    assert {p.device.type for p in method.parameters()} == {"meta"}
    assert forecast.token_widths(method) == 32 * (64 + 1) * 1280 + 8 * 256 * 512


def test_the_largest_micro_batch_fits_and_the_next_does_not() -> None:
    free = 3.05e9
    fits = PREDICTED.largest_micro_batch(free)
    assert PREDICTED.memory(fits) <= free < PREDICTED.memory(fits + 1)
    assert PREDICTED.largest_micro_batch(1e12) == PREDICTED.batch_size
    assert PREDICTED.largest_micro_batch(1e6) == 0


@pytest.mark.parametrize(
    ("free", "state", "says"),
    [(1e12, "ok", ""), (4e9, "slow", "--efficiency.micro-batch 26"), (1e8, "missing", "smaller")],
)
def test_memory_is_compared_with_what_is_free(free: float, state: str, says: str) -> None:
    finding = doctor.memory_finding(PREDICTED, free)
    assert finding.state == state
    assert says in finding.remedy
    assert not finding.fatal


def test_time_is_said_in_units_of_people() -> None:
    assert doctor.time_finding(TINY, PREDICTED, None).found == (
        "about 100 images/s: 50 epochs of 1000 take 8.3 min"
    )
    assert doctor.time_finding(TINY, PREDICTED, 3000).found == (
        "about 100 images/s: an epoch of 3000 takes 30.0 s, all 50 epochs 25.0 min"
    )
    slow = doctor.time_finding(TINY, replace(PREDICTED, images_per_s=0.1234), 3000)
    assert slow.state == "slow"
    assert slow.found.startswith("about 0.12 images/s: an epoch of 3000 takes 6.8 h")
    assert slow.found.endswith("14.1 days")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    meta = StoreMeta(
        domain="satellite",
        sensor="toy",
        bands=("red", "nir"),
        size=(16, 16),
        dtype="uint8",
        scale=(1.0, 1.0),
        offset=(0.0, 0.0),
        num_samples=4,
        shard=4,
    )
    writer = StoreWriter(tmp_path / "data" / "a", meta)
    writer.write_shard(0, [Sample(np.full((2, 16, 16), i, np.uint8)) for i in range(4)])
    writer.finalise()
    (tmp_path / "data" / "a" / "normaliser.json").write_text("{}")
    rows = [
        ManifestRow(id=f"{i}", uri="a", status="kept", split="train", store_group="a", row=i)
        for i in range(4)
    ]
    write_manifest(tmp_path / "data" / "manifest.parquet", rows)
    return tmp_path / "data"


def test_one_page_about_everything(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(recipe_yaml(TINY))
    words = ["doctor", "--folder", str(tmp_path), "--disk-mb", "1", "--seconds", "0.05"]
    words += ["--talk-seconds", "0"]
    words += ["--data", str(store), "--recipe", str(recipe), "--device", "cpu"]
    assert main(words) == 0
    page = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    findings = [Finding(**plain) for plain in json.loads(capsys.readouterr().out)]
    topics = [finding.topic for finding in findings]
    assert topics[:3] == ["Python", "versions", "packages"]
    assert {"processor", "memory", "matrix product", "disk", "reading files"} <= set(topics)
    assert topics[-4:] == ["store", "recipe", "recipe: time", "recipe: memory"]
    assert "an epoch of 4 takes" in findings[-2].found
    assert all(finding.remedy for finding in findings if finding.state != "ok")
    assert not any(finding.remedy for finding in findings if finding.state == "ok")
    flat = " ".join(page.split())
    assert "mimkit doctor" in flat
    assert all(topic in flat for topic in topics)
    assert "Everything needed is here" in flat


def test_the_verdict_names_what_is_wrong() -> None:
    fine, slow = Finding("a", "1"), Finding("b", "2", "slow", "Repair b.")
    fatal = Finding("c", "3", "missing", "Repair c.", essential=True)
    assert doctor.verdict([fine]).endswith("nothing holds work up.")
    assert "holds work up: b." in doctor.verdict([fine, slow])
    assert doctor.verdict([slow, fatal]) == "Nothing works before this is repaired: c."


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--folder", "/no/such/folder"], 2, "folder /no/such/folder: does not exist"),
        (["--seconds", "0"], 2, "seconds 0.0: is out of range"),
        (["--samples", "0"], 2, "samples 0: is too small; use 1 or more"),
        (["--recipe", "satellite/mae-tny"], 2, "did you mean 'satellite/mae-tiny'?"),
        (["--data", "/no/such/store"], 1, "/no/such/store: there is no such folder"),
    ],
)
def test_wrong_words_are_one_sentence(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--disk-mb", "0", *words]) == code
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out
