"""Embeddings: what is written is what the encoder gives, for the right sample or place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from maps import check_cloud_optimised
from tiny_models import normaliser_dict, write_model
from tiny_scenes import scene_pixels, write_scene

from mimkit.core.batch import Batch
from mimkit.core.checkpoints.model_dir import load_model
from mimkit.core.errors import UsageError
from mimkit.core.heads.pool import Pooling, image_features, token_features
from mimkit.domains.domain import get_domain
from mimkit.pipelines.cli import main
from mimkit.pipelines.stores import open_group
from mimkit.pipelines.token_maps import fit_projection

CROP = "satellite/landsat8_oli_crop/LC08_L1TP_224078_20200518_crop1536.tif"
DIM = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "pretrained", task=None)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    pixels = scene_pixels(0, size=(76, 92))  # neither is a multiple of the patch
    pixels[:, :20, :30] = 0
    return write_scene(tmp_path / "scene.tif", pixels)


def embed(model: Path, *words: object) -> int:
    return main(["embed", "--model", str(model), "--num-threads", "1", *map(str, words)])


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def batch_of(model: Path, pixels: np.ndarray, valid: np.ndarray | None = None) -> Batch:
    normaliser = get_domain("satellite").normaliser(load_model(model).normaliser)
    mask = normaliser.find_data(pixels, valid)
    return Batch(normaliser(pixels, mask), mask, torch.arange(len(pixels)))


# Tables of stores.


def test_a_table_holds_the_vector_of_every_sample(
    class_store: Path, pretrained: Path, tmp_path: Path
) -> None:
    model, out = pretrained / "model", tmp_path / "deep" / "all.parquet"
    words = ["--data", class_store, "--out", out, "--batch-size", 5]
    assert embed(model, *words, "--pooling.class-token") == 0
    table, group = pq.read_table(out), open_group(class_store)
    assert table.num_rows == len(group.store)
    for name in ("id", "row", "label", "split", "lon", "lat"):
        assert table[name].to_pylist() == group.column(name)
    assert set(table["label"].to_pylist()) == {"even", "odd"}
    encoder = load_model(model).method.encoder.eval()
    assert table.schema.field("embedding").type.list_size == 3 * encoder.embed_dim
    samples = group.store.read(np.arange(len(group.store)))
    batch = batch_of(model, samples.pixels, samples.valid)
    wanted = image_features(encoder, batch, Pooling(class_token=True))
    got = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-4, atol=1e-5)
    assert got.std(axis=0).max() > 0.01, "samples differ"
    about = json.loads(table.schema.metadata[b"mimkit"])
    assert about["pooling"]["class_token"] is True
    assert len(about["weights"]) == 64


def test_a_split_and_parts_of_the_table(
    class_store: Path, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pretrained / "model"
    assert embed(model, "--data", class_store, "--out", tmp_path / "all.parquet") == 0
    monkeypatch.setattr("mimkit.pipelines.embed._TABLE_ROWS", 3)
    words = ["--data", class_store, "--out", tmp_path / "test.parquet", "--split", "test"]
    assert embed(model, *words, "--batch-size", 2) == 0
    table = pq.read_table(tmp_path / "test.parquet")
    whole = pq.read_table(tmp_path / "all.parquet")
    rows = open_group(class_store).rows("test")
    assert table["row"].to_pylist() == rows.tolist()
    got = np.array(table["embedding"].to_pylist())
    wanted = np.array(whole["embedding"].to_pylist())[rows]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


# Maps of scenes.


def test_a_map_of_one_window_holds_the_tokens(model: Path, tmp_path: Path) -> None:
    pixels = scene_pixels(2, size=(32, 32))
    pixels[:, :8, 8:16] = 0  # one token without data
    pixels[:, 8:11, 8:16] = 0  # and one with some
    write_scene(tmp_path / "a.tif", pixels)
    out = tmp_path / "map.tif"
    assert embed(model, tmp_path / "a.tif", "--out", out, "--pooling.taps", "0", "-1") == 0
    check_cloud_optimised(out)
    encoder = load_model(model).method.encoder.eval()
    tokens = token_features(encoder, batch_of(model, pixels[None]), Pooling(taps=(0, -1)))
    wanted = tokens[0].T.reshape(2 * DIM, 4, 4).numpy()
    got = read(out)
    assert np.isnan(got[:, 0, 1]).all()
    known = np.ones((4, 4), bool)
    known[0, 1] = False
    np.testing.assert_allclose(got[:, known], wanted[:, known], rtol=1e-4, atol=1e-5)
    with rasterio.open(out) as dataset:
        assert np.isnan(dataset.nodata)
        assert dataset.descriptions[0] == "block 0 dim 0"
        assert dataset.descriptions[-1] == f"dim {DIM - 1}"
        assert tuple(dataset.transform)[:6] == (240.0, 0.0, 7e5, 0.0, -240.0, 7.2e6)
        assert dataset.tags()["POOLING"]


def test_tokens_lie_on_the_scene_and_absent_ones_are_nodata(model: Path, scene: Path) -> None:
    out = scene.parent / "map.tif"
    assert embed(model, scene, "--out", out) == 0
    got = read(out)
    assert got.shape == (DIM, 10, 12)
    with rasterio.open(out) as dataset, rasterio.open(scene) as source:
        assert dataset.crs == source.crs
        assert dataset.transform.c == source.transform.c
        assert dataset.transform.f == source.transform.f
        assert dataset.transform.a == 8 * source.transform.a
    valid = np.zeros((80, 96))
    valid[:76, :92] = (read(scene) != 0).any(axis=0)
    share = valid.reshape(10, 8, 12, 8).mean(axis=(1, 3))
    np.testing.assert_array_equal(np.isnan(got).all(axis=0), share < 0.5)
    np.testing.assert_array_equal(np.isnan(got).any(axis=0), share < 0.5)


def test_components_are_a_projection_of_the_tokens(model: Path, scene: Path) -> None:
    folder = scene.parent
    assert embed(model, scene, "--out", folder / "full.tif") == 0
    assert embed(model, scene, "--out", folder / "pca.tif", "--components", 3) == 0
    full, few = read(folder / "full.tif"), read(folder / "pca.tif")
    assert few.shape[0] == 3
    known = np.isfinite(full[0])
    np.testing.assert_array_equal(known, np.isfinite(few[0]))
    a, b = full[:, known].T, few[:, known].T
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    weights, *_ = np.linalg.lstsq(a, b, rcond=None)
    np.testing.assert_allclose(a @ weights, b, atol=1e-3 * np.abs(b).max())
    spread = b.std(axis=0)
    assert spread[0] > spread[1] > spread[2] > 0
    assert spread[0] ** 2 <= np.linalg.eigvalsh(np.cov(a.T, bias=True))[-1] * 1.01
    with rasterio.open(folder / "pca.tif") as dataset:
        assert 0.3 < float(dataset.tags()["EXPLAINED_VARIANCE"]) <= 1
        assert dataset.descriptions == ("component 1", "component 2", "component 3")


def test_eight_bits_come_back_by_scale_and_offset(model: Path, scene: Path) -> None:
    folder = scene.parent
    assert embed(model, scene, "--out", folder / "float.tif", "--components", 3) == 0
    words = ["--components", 3, "--dtype", "uint8"]
    assert embed(model, scene, "--out", folder / "byte.tif", *words) == 0
    wanted, stored = read(folder / "float.tif"), read(folder / "byte.tif")
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored == 255, np.isnan(wanted))
    with rasterio.open(folder / "byte.tif") as dataset:
        assert dataset.nodata == 255
        scale, offset = (np.array(n)[:, None, None] for n in (dataset.scales, dataset.offsets))
    inside = (stored > 0) & (stored < 254)
    assert inside.mean() > 0.5
    error = np.abs(stored * scale + offset - wanted)
    assert (error <= 0.51 * scale)[inside].all()


def test_grouping_changes_rounding_only(model: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif", scene_pixels(1, size=(64, 3000)))
    for name, words in (("a", []), ("b", ["--batch-size", 1]), ("c", ["--memory-mb", 1])):
        assert embed(model, tmp_path / "a.tif", "--out", tmp_path / f"out_{name}.tif", *words) == 0
    first = read(tmp_path / "out_a.tif")
    for name in ("b", "c"):
        other = read(tmp_path / f"out_{name}.tif")
        np.testing.assert_allclose(other, first, rtol=1e-3, atol=1e-4)


def test_scenes_share_their_components(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = tmp_path / "scenes"
    write_scene(scenes / "a.tif", scene_pixels(0))
    write_scene(scenes / "b.tif", scene_pixels(0), origin=(800_000.0, 7e6))
    write_scene(scenes / "c.tif", scene_pixels(1))
    (scenes / "d.tif").write_text("no image")
    assert embed(model, scenes, "--out", tmp_path / "maps", "--components", 2) == 1
    assert "1 of 4 scenes: could not be done" in capsys.readouterr().err
    a, b, c = (read(tmp_path / "maps" / f"{name}.tif") for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c)
    assert not (tmp_path / "maps" / "d.tif").exists()


def test_a_fine_tuned_model_on_a_real_scene(samples: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", size=64, patch=16)
    words = ["--components", 3, "--window", 256, "--overlap", 0.125, "--dtype", "uint8"]
    assert embed(folder, samples / CROP, "--out", tmp_path / "map.tif", *words) == 0
    check_cloud_optimised(tmp_path / "map.tif")
    got = read(tmp_path / "map.tif")
    assert got.shape == (3, 96, 96)
    with rasterio.open(samples / CROP) as dataset:
        share = (dataset.read() != 0).any(axis=0).reshape(96, 16, 96, 16).mean(axis=(1, 3))
    np.testing.assert_array_equal((got == 255).all(axis=0), share < 0.5)
    assert 0.9 < (got != 255).mean() < 1


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["{scene}", "--data", "{store}", "--out", "x.tif"], 2, "are both given"),
        (["--out", "x.tif"], 2, "are both missing"),
        (["--data", "{store}", "--out", "{folder}/x.tif"], 2, "give NAME.parquet"),
        (["--data", "{store}", "--out", "{folder}/x.parquet", "--components", "3"], 2, "of scenes"),
        (["--data", "{store}", "--out", "{folder}/x.parquet", "--split", "no"], 2, "is not known"),
        (["--data", "{folder}", "--out", "{folder}/x.parquet"], 1, "there is no store"),
        (["{scene}", "--out", "{folder}/x.tif", "--components", "25"], 2, "use 1 to 24"),
        (["{scene}", "--out", "{folder}/x.tif", "--pooling.taps", "2"], 2, "is not a block"),
        (["{scene}", "--out", "{folder}/x.tif", "--window", "30"], 2, "use 32"),
        (["{scene}", "--out", "{scene}"], 2, "would replace a scene"),
        (["{folder}/text.tif", "--out", "{folder}/x.tif"], 1, "cannot be opened as an image"),
        (["{folder}/empty.tif", "--out", "{folder}/x.tif"], 1, "holds no token with data"),
        (
            ["{folder}/empty.tif", "--out", "{folder}/x.tif", "--components", "2"],
            1,
            "gave no token with data",
        ),
    ],
)
def test_what_cannot_be_embedded_gets_one_sentence(
    class_store: Path,
    model: Path,
    scene: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    reason: str,
) -> None:
    folder = scene.parent
    (folder / "text.tif").write_text("no image")
    write_scene(folder / "empty.tif", np.zeros((3, 40, 40), np.uint16))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert (
        embed(model, *(w.format(scene=scene, store=class_store, folder=folder) for w in words))
        == code
    )
    said = capsys.readouterr().err.strip()
    assert reason in said
    assert said.count("\n") == 0
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_store_of_other_bands_is_refused(
    class_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model", normaliser_dict(("B4", "B3", "B2")), task=None)
    assert embed(folder, "--data", class_store, "--out", tmp_path / "x.parquet") == 2
    assert "has its bands in another order" in capsys.readouterr().err


def test_components_find_the_directions_of_most_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    tokens = (
        torch.randn(500, 6, generator=generator) * torch.tensor([9, 4, 1, 0.1, 0.1, 0.1]) @ axes.T
    )
    found = fit_projection(tokens, 2)
    assert found.basis is not None
    cosine = (found.basis * axes[:, :2]).sum(dim=0).abs()
    assert bool((cosine > 0.99).all())
    assert 0.97 < found.explained < 1
    again = fit_projection(tokens.flip(0), 2)
    assert again.basis is not None
    torch.testing.assert_close(found.basis, again.basis, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="components 7: cannot be made of 500 tokens with 6"):
        fit_projection(tokens, 7)
    with pytest.raises(UsageError, match="use 1 to 2"):
        fit_projection(tokens[:3], 3)
