"""Published weights become a model directory, or one sentence says why not."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import write
from published import DECODER, ENCODER, PLAIN, encoder_only, published_state
from rasterio.transform import from_origin
from safetensors.torch import save_file

from mimkit.core.checkpoints.model_dir import load_model
from mimkit.core.methods import METHODS
from mimkit.domains.domain import get_domain
from mimkit.pipelines.cli import main
from mimkit.pipelines.recipe import Recipe, recipe_yaml


def run_import(file: Path, out: Path, *words: object, source: str = "mae") -> int:
    return main(["import", str(file), "--from", source, "--out", str(out), *map(str, words)])


@pytest.fixture
def full(tmp_path: Path) -> Path:
    torch.save({"model": published_state(), "epoch": 799}, tmp_path / "full.pth")
    return tmp_path / "full.pth"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.save({"model": encoder_only(published_state())}, tmp_path / "encoder.pth")
    return tmp_path / "encoder.pth"


def test_every_method_is_offered(
    full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "--help"]) == 0
    help_text = " ".join(capsys.readouterr().out.split())
    assert all(name in help_text for name in METHODS)
    assert run_import(full, tmp_path / "model", source="mea") == 2
    said = capsys.readouterr().err
    assert "method 'mea': is not known; use one of " in said
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", PLAIN)
def test_a_released_file_becomes_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    state = published_state(name)
    save_file(state, tmp_path / "weights.safetensors")
    out = tmp_path / "deep" / "model"
    assert run_import(tmp_path / "weights.safetensors", out, source=name) == 0
    said = capsys.readouterr().out
    assert f"{out}: {len(state)} loaded, 0 resized, 0 ignored, 0 fresh" in said
    assert "encoder.blocks.*.attn.qkv.weight" in said
    loaded = load_model(out)
    assert loaded.config.name == name
    ours = loaded.method.encoder.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in ours.items())
    assert loaded.extra["fresh"] == []
    assert loaded.data["imported_from"] == "weights.safetensors"
    assert len(loaded.data["sha256"]) == 64
    assert METHODS[name].source in loaded.data["published"]


def test_rgb_weights_get_the_normaliser_of_imagenet(full: Path, tmp_path: Path) -> None:
    assert run_import(full, tmp_path / "model") == 0
    made = get_domain("satellite").normaliser(load_model(tmp_path / "model").normaliser)
    assert made.bands == ("red", "green", "blue")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = (pixels / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(made(pixels).numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert run_import(full, tmp_path / "bgr", "--bands", "blue", "green", "red") == 0
    turned = get_domain("satellite").normaliser(load_model(tmp_path / "bgr").normaliser)
    torch.testing.assert_close(turned(pixels[:, ::-1].copy()), made(pixels).flip(1))


def test_weights_of_faces_get_the_normaliser_of_faces(
    full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = ["--mean", "0.5", "0.4", "0.3", "--std", "0.2", "0.25", "0.125"]
    assert run_import(full, tmp_path / "model", "--sensor", "face", *numbers) == 0
    stored = load_model(tmp_path / "model").normaliser
    assert stored["domain"] == "faces"
    made = get_domain("faces").normaliser(stored)
    pixels = np.full((1, 3, 2, 2), 51, np.uint8)  # a fifth of white
    wanted = torch.tensor([-1.5, -0.8, -0.8]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2)
    torch.testing.assert_close(made(pixels), wanted)
    for words, said in (
        (numbers[:4], "--std: is not given, and --mean is"),
        (["--bands", "blue", "green", "red"], "are not the channels of faces"),
        ([*numbers[:3], *numbers[4:]], "--mean: has 2 numbers for 3 bands"),
    ):
        assert run_import(full, tmp_path / "refused", "--sensor", "face", *words) == 2
        assert said in capsys.readouterr().err


def test_a_fresh_decoder_is_recorded_and_the_same_each_time(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        assert run_import(encoder, tmp_path / name, "--allow-partial", "--image-size", "64") == 0
    said = capsys.readouterr().out
    assert "resized" in said
    assert "fresh" in said
    one, two = load_model(tmp_path / "one"), load_model(tmp_path / "two")
    assert one.extra["fresh"] == ["heads.pixels"]
    assert one.data["not_trained"] == "heads.pixels"
    assert one.method.grid.image_size == (64, 64)
    state = two.method.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.method.state_dict().items())


def test_a_recipe_says_what_shapes_do_not_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = published_state()
    table = state.pop("pos_embed")  # then nothing tells the size of the images
    torch.save(state, tmp_path / "weights.pth")
    method = METHODS["mae"].config(encoder=ENCODER, decoder=DECODER)
    recipe = Recipe(method=method, image_size=(32, 48))
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(recipe))
    words = ["--recipe", tmp_path / "recipe.yaml"]
    assert run_import(tmp_path / "weights.pth", tmp_path / "model", *words) == 0
    loaded = load_model(tmp_path / "model")
    assert loaded.config == method
    assert loaded.method.grid.image_size == (32, 48)
    assert (
        run_import(tmp_path / "weights.pth", tmp_path / "large", *words, "--image-size", "64") == 0
    )
    assert load_model(tmp_path / "large").method.grid.image_size == (64, 64)
    capsys.readouterr()
    torch.save(state | {"pos_embed": table[:, :, :5]}, tmp_path / "other.pth")
    for file, source, more, reason in (
        ("other.pth", "mae", [], "does not fit"),
        ("weights.pth", "selectivemae", [], "is one of mae, and the weights are to be of"),
        ("weights.pth", "mae", ["--num-heads", "3"], "leave --num-heads and --decoder-heads out"),
        ("weights.pth", "mae", ["--image-size", "30"], "is not a multiple of the patch"),
    ):
        out = tmp_path / "refused"
        assert run_import(tmp_path / file, out, *words, *more, source=source) in (1, 2)
        said = capsys.readouterr().err
        assert reason in said
        assert said.count("\n") == 1
        assert not out.exists()


def test_other_pixels_are_described_by_words_or_by_a_store(
    class_store: Path, tmp_path: Path
) -> None:
    torch.save(published_state(channels=4), tmp_path / "four.pth")
    bands = ("B2", "B3", "B4", "B5")
    numbers = ["--mean", *["0.1"] * 4, "--std", "0.02", "0.03", "0.04", "0.05"]
    words = ["--sensor", "landsat8-oli", "--bands", *bands, *numbers]
    assert run_import(tmp_path / "four.pth", tmp_path / "model", *words) == 0
    made = get_domain("satellite").normaliser(load_model(tmp_path / "model").normaliser)
    assert made.bands == bands
    stored = np.full((1, 4, 2, 2), 11_000, np.uint16)  # 0.12 reflectance
    np.testing.assert_allclose(
        made(stored)[0, :, 0, 0], 0.02 / np.array([0.02, 0.03, 0.04, 0.05]), rtol=1e-3
    )
    torch.save(published_state(), tmp_path / "three.pth")
    path = next(class_store.glob("*/normaliser.json"))
    assert run_import(tmp_path / "three.pth", tmp_path / "own", "--normaliser", path) == 0
    assert load_model(tmp_path / "own").normaliser == json.loads(path.read_text())


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def bad_file(kind: str, folder: Path) -> Path:
    """Write a file that cannot be imported as MAE."""
    path, state = folder / f"{kind}.pth", published_state()
    contents: dict[str, object] = {
        "code": {"model": state, "x": Attack(folder / "ran")},
        "other": published_state("selectivemae"),
        "classifier": state | {"head.weight": torch.zeros(10, 192)},
        "no_decoder": encoder_only(state),
        "half_encoder": {k: v for k, v in state.items() if "blocks.1.norm" not in k},
        "patch": state | {"decoder_pred.weight": torch.zeros(75, 256)},
        "no_vit": {"layer1.weight": torch.zeros(3, 3)},
        "nothing": {"epoch": 3},
        "four": published_state(channels=4),
    }
    if kind == "text":
        path.write_text("no weights")
    elif kind in contents:
        torch.save(contents[kind], path)
    return path


@pytest.mark.parametrize(
    ("kind", "words", "code", "reason"),
    [
        ("missing", [], 1, "is not a file"),
        ("text", [], 1, "code from a file is never run|cannot be read as weights"),
        ("code", [], 1, "code from a file is never run"),
        ("other", [], 1, "is a file of this method"),
        ("classifier", [], 1, r"'head.weight' \(10, 192\): has no place in mae; check --from"),
        ("no_decoder", [], 1, "allow a fresh decoder with --allow-partial"),
        ("half_encoder", ["--allow-partial"], 1, "check depth and width of the encoder"),
        ("patch", [], 1, r"\(75, 256\): does not fit \(192, 256\); check patch size"),
        ("no_vit", [], 1, "has no place in mae"),
        ("nothing", [], 1, "holds no named tensors"),
        ("full", ["--image-size", "30"], 2, "is not a multiple of the patch"),
        ("full", ["--num-heads", "7"], 2, "is not a multiple of num_heads 7"),
        ("four", [], 2, "reads 4 channels, and rgb was taken with 3 bands"),
        ("full", ["--sensor", "landsat8-oli"], 2, "--mean: is not known for landsat8-oli"),
        ("full", ["--sensor", "landsat99"], 2, "sensor 'landsat99': is not known"),
        ("full", ["--mean", "0.5", "--std", "0.2"], 2, "--mean: has 1 numbers for 3 bands"),
        ("full", ["--std", "0.2", "0.2", "0.2"], 2, "--mean: is not known for rgb"),
        ("full", ["--bands", "red", "green", "infrared"], 2, "has no band 'infrared'"),
        ("full", ["--normaliser", "{file}"], 2, "is no normaliser"),
        ("full", ["--normaliser", "x.json", "--bands", "red"], 2, "leave --bands"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    full: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    words: list[str],
    code: int,
    reason: str,
) -> None:
    file = full if kind == "full" else bad_file(kind, tmp_path)
    before = set(tmp_path.iterdir())
    filled = [word.format(file=file) for word in words]
    assert run_import(file, tmp_path / "model", *filled) == code
    said = capsys.readouterr()
    assert re.search(reason, said.err), said.err
    assert said.err.count("\n") == 1
    assert not said.out
    assert set(tmp_path.iterdir()) == before


def test_a_model_is_never_overwritten(
    full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_import(full, tmp_path / "model") == 0
    config = (tmp_path / "model" / "config.json").read_bytes()
    assert run_import(full, tmp_path / "model", "--image-size", "64") == 2
    assert "holds a model already; give another folder" in capsys.readouterr().err
    assert (tmp_path / "model" / "config.json").read_bytes() == config
    assert run_import(full, full) == 2
    assert "is a file" in capsys.readouterr().err


def test_imported_weights_can_be_fine_tuned_and_predict(encoder: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(12):
        kind = ("dark", "bright")[number % 2]
        pixels = random.integers(0, 90, (3, 32, 32)) + 120 * (number % 2)
        path, names = tmp_path / "images" / kind / f"{number}.tif", ("red", "green", "blue")
        place = from_origin(5e5 + 1000 * number, 6e6, 10, 10)
        write(path, pixels.astype(np.uint8), bands=names, transform=place)
    store, model, seg = (str(tmp_path / name) for name in ("store", "model", "run"))
    images = str(tmp_path / "images")
    words = ["--size", "32", "--sensor", "rgb", "--labels", "folders", "--split", "scene"]
    fractions = ["--fractions", "0.6", "0.2", "0.2", "--workers", "0"]
    assert main(["curate", images, "--out", store, *words, *fractions]) == 0
    assert run_import(encoder, tmp_path / "model", "--allow-partial") == 0
    judge = ["evaluate", "--model", model, "--data", store, "--out", str(tmp_path / "judged")]
    few = ["--few", "1", "--draws", "1", "--random-seeds", "1", "--test", "train"]
    assert main([*judge, *few, "--train", "val"]) == 0
    judged = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    assert judged["probes"]
    assert judged["reconstruction"] is None, "its decoder was never trained"
    tune = ["finetune", "--model", model, "--data", store, "--out", seg, "--epochs", "1"]
    assert main([*tune, "--optim.warmup-epochs", "0"]) == 0
    assert (
        main(["predict", "--model", f"{seg}/model", images, "--out", str(tmp_path / "maps")]) == 0
    )
    assert len(list((tmp_path / "maps").rglob("*.tif"))) == 12
