"""Benchmarks of CT run on small volumes, and both sides give crops of the same volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bodies import write_patient

from mimkit.core.methods import DecoderConfig, EncoderConfig, HiEndMAEConfig, MAEConfig, build
from mimkit.domains.ct.normalise import Normaliser
from mimkit.pipelines import cli
from mimkit.pipelines.benchmarks import compare, ct_files, ct_loader, curate_ct, mae3d
from mimkit.pipelines.benchmarks.ct_loader import OURS, monai_crops, our_crops
from mimkit.pipelines.curate.ct import run as curate
from mimkit.pipelines.stores import open_group

CROP = (12, 16, 16)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ct_files, "CROP", CROP)
    monkeypatch.setattr(ct_files, "SHAPE", (40, 36, 20))
    monkeypatch.setattr(ct_files, "SPACING", (8.0, 8.0, 8.0))
    monkeypatch.setattr(ct_loader, "CROP", CROP)
    monkeypatch.setattr(ct_loader, "BATCH", 2)
    monkeypatch.setattr(ct_loader, "NUM_CROPS", 6)
    monkeypatch.setattr(ct_loader, "PER_VOLUME", 3)


def measured(folder: Path, *words: str) -> dict[str, Any]:
    """Run parts of the benchmark for a moment and return their tables."""
    given = ["benchmark", *words, "--seconds", "0.1", "--num-threads", "1", "--batch-size", "2"]
    assert cli.main([*given, "--out", str(folder)]) == 0
    return json.loads((folder / "benchmark.json").read_text())["parts"]


def test_synthetic_volumes_are_read_and_curated(tmp_path: Path) -> None:
    parts = measured(tmp_path, "ct-loader", "curate-ct")
    sides = {row["reader"]: row for row in parts["ct-loader"]["rows"]}
    assert next(iter(sides)) == OURS
    assert len(sides) == 3
    assert all(row["crops/s"] > 0 and row["on disk, MB"] > 0 for row in sides.values())
    goal = parts["ct-loader"]["goals"][0]
    assert goal["text"] == "at least 5 times as many crops as MONAI in the same processor time"
    ratio = sides["MONAI, a crop per volume"]["in CPU time"]
    assert goal["met"] == (ratio >= 5)
    seconds = [row["CPU s per volume"] for row in parts["curate-ct"]["rows"]]
    assert sorted(seconds) == seconds
    whole = parts["curate-ct"]["rows"][-1]
    assert whole["work"] == curate_ct.WHOLE
    assert whole["volumes per minute and core"] == pytest.approx(60 / seconds[-1])
    assert "3 synthetic bodies of 40 x 36 x 20 voxels" in parts["curate-ct"]["notes"][0]


def test_own_volumes_are_taken_without_their_labels(tmp_path: Path) -> None:
    for seed in range(2):
        write_patient(tmp_path / "in" / f"person{seed}", seed)
    parts = measured(tmp_path, "curate-ct", "--volumes", str(tmp_path / "in"))
    assert parts["curate-ct"]["notes"][0].startswith("2 NIfTI volumes of ")


def test_a_folder_without_nifti_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["benchmark", "curate-ct", "--volumes", str(tmp_path)]) == 2
    assert "no volume was found" in capsys.readouterr().err


def test_both_sides_give_normalised_crops_of_one_size(tmp_path: Path) -> None:
    files = [write_patient(tmp_path / str(n), n) / "CT_image.nii.gz" for n in range(2)]
    curate(ct_files.curation(files, tmp_path / "store"))
    group = open_group(tmp_path / "store", None)
    normaliser = Normaliser.from_dict(group.normaliser_dict)
    ours = our_crops(group, normaliser, 1)()
    theirs = [
        monai_crops(list(map(str, files)), tmp_path / "cache", normaliser, n)() for n in (1, 3)
    ]
    for batches in (ours, *theirs):
        assert [tuple(batch.shape) for batch in batches] == [(2, 1, *CROP)] * 3
        values = torch.cat(batches)
        assert values.dtype == torch.float32
        assert 0 == values.min() < values.max() <= 1
    # Tissue of 40 HU is in both: the window and the scale are the same.
    tissue = (40 + 175) / 425
    for batches in (ours, theirs[0]):
        values = torch.cat(batches)
        inside = values[(values > tissue - 0.1) & (values < tissue + 0.1)]
        assert float(inside.median()) == pytest.approx(tissue, abs=0.02)


def test_hi_end_mae_is_timed_beside_mae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = EncoderConfig(embed_dim=24, depth=4, num_heads=2, patch_size=8)
    base = MAEConfig(encoder=encoder, decoder=DecoderConfig(dim=24, depth=1, num_heads=2))
    monkeypatch.setattr(mae3d, "METHOD", base)
    monkeypatch.setattr(compare, "VOLUME_SIZE", 16)
    monkeypatch.setattr(compare, "peak_growth", lambda sides, place, work: 5_000_000)
    table = measured(tmp_path, "hi-end-mae")["hi-end-mae"]
    new, old = table["rows"]
    assert (new["side"], old["side"]) == ("Hi-End-MAE", "MAE")
    expected = new["GFLOP per image"] / old["GFLOP per image"]
    assert new["times the GFLOP"] == pytest.approx(expected)
    longer = 1 / new["times as fast, CPU time"]
    said = f"{longer:.2f} times the processor time of MAE's and has {expected:.2f} times its"
    assert said in table["notes"][0]


def test_the_decoders_of_the_comparison_are_equally_wide() -> None:
    from mimkit.pipelines.benchmarks.hi_end_mae import DECODER

    assert DECODER.dim == mae3d.METHOD.decoder.dim
    method = HiEndMAEConfig(encoder=mae3d.METHOD.encoder, decoder=DECODER)
    assert method.reads == (9, 6, 3)
    with torch.device("meta"):
        build(method, compare.Workload(rank=3, channels=1, image_size=96).grid)
