"""`mimkit evaluate` on tiny stores: numbers in both files, and a sentence for what cannot work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import normaliser_dict, write_model
from tiny_store import curate_tiny

from mimkit.core.config_tree import from_plain
from mimkit.core.errors import UsageError
from mimkit.core.heads.pool import Pooling
from mimkit.core.heads.probe import fit_probe
from mimkit.pipelines import evaluate as module
from mimkit.pipelines import probing
from mimkit.pipelines.cli import main
from mimkit.pipelines.evaluate import RANDOM, EvaluateConfig, Evaluation, evaluate
from mimkit.pipelines.stores import open_group


@pytest.fixture(scope="session")
def model(class_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose normaliser is that of the tiny stores' pixels."""
    folder = tmp_path_factory.mktemp("model") / "model"
    return write_model(folder, open_group(class_store).normaliser_dict, task=None)


def config(model: Path, data: Path, out: Path, **changes: Any) -> EvaluateConfig:
    settings: dict[str, Any] = {"few": (2,), "draws": 2, "random_seeds": 2, "reconstruct": 4}
    return EvaluateConfig(model=model, data=data, out=out, **settings | changes)


def words(model: Path, data: Path, out: Path) -> list[str]:
    return ["evaluate", "--model", str(model), "--data", str(data), "--out", str(out)]


def test_a_class_per_sample(model: Path, class_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--few", "2", "--draws", "2", "--random-seeds", "2", "--reconstruct", "3"]
    assert main([*words(model, class_store, out), *options, "--taps", "0", "-1"]) == 0
    plain = json.loads((out / "evaluation.json").read_text())
    found: Evaluation = from_plain(Evaluation, plain, "evaluation.json")
    assert (found.unit, found.classes) == ("tile", ("even", "odd"))
    assert (found.num_train, found.num_test) == (8, 8)
    lines = {(line.features, line.probe, line.labels): line for line in found.probes}
    kinds = ("model", RANDOM, "band means", "colour histogram", "16x16 pixels")
    assert list(lines) == [(k, p, n) for k in kinds for p in ("linear", "kNN") for n in (None, 2)]
    assert lines["model", "linear", None].num_draws == 1
    assert lines[RANDOM, "linear", None].num_draws == 2
    assert lines[RANDOM, "linear", 2].num_draws == 4
    # The two classes differ in brightness, which band means show.
    assert lines["band means", "linear", None].accuracy == 1.0
    assert found.reconstruction is not None
    assert found.reconstruction.num_images == 3
    text = (out / "evaluation.md").read_text()
    assert "8 labelled tiles for training, 8 for the test; classes even, odd" in text
    assert text.count("\n| ") == 1 + len(found.probes)
    assert "no fair comparison" in text  # the tiny model's targets are standardised


def test_a_class_per_pixel(model: Path, dense_store: Path, tmp_path: Path) -> None:
    found = evaluate(config(model, dense_store, tmp_path, reconstruct=0))
    assert (found.unit, found.classes, found.reconstruction) == ("token", ("dark", "bright"), None)
    assert {line.features for line in found.probes} == {"model", RANDOM, "band means"}
    assert 0 < found.num_train < 16 * 12
    few = evaluate(config(model, dense_store, tmp_path, reconstruct=0, max_tokens=20))
    assert (few.num_train, few.num_test) == (20, 20)


@pytest.mark.parametrize("name", ["class_store", "dense_store"])
def test_batch_size_changes_no_result(
    model: Path, tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    data = request.getfixturevalue(name)
    one, other = (evaluate(config(model, data, tmp_path, batch_size=n)) for n in (3, 64))
    for first, second in zip(one.probes, other.probes, strict=True):
        assert first.accuracy == pytest.approx(second.accuracy, abs=1e-9)
        assert first.balanced == pytest.approx(second.balanced, abs=1e-9)
    assert one.reconstruction == other.reconstruction


def test_random_initialisations_differ_from_the_model_and_from_each_other(
    model: Path, class_store: Path, tmp_path: Path
) -> None:
    settings = config(model, class_store, tmp_path)
    loaded = module.load_model(model)
    kinds = module.probed_sources(settings, loaded, dense=False)[:3]
    assert [(kind.name, kind.seed) for kind in kinds] == [("model", None), (RANDOM, 0), (RANDOM, 1)]
    group = open_group(class_store)
    normaliser = module.model_normaliser(loaded, group, model)
    (batch,) = module.stored_batches(group, group.rows("test"), normaliser, size=(32, 32))
    features = [kind.extract(batch) for kind in kinds]
    assert not any(torch.allclose(features[i], features[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    again = module.probed_sources(settings, loaded, dense=False)[1].extract(batch)
    assert torch.equal(features[1], again)


def test_a_store_without_labels_still_shows_reconstruction(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = curate_tiny(tmp_path / "data", num_scenes=4)
    found = evaluate(config(model, store, tmp_path, reconstruct=2))
    assert (found.unit, found.probes, found.classes) == (None, (), ())
    assert found.reconstruction is not None
    assert "no labels" in capsys.readouterr().out
    assert "inpainting" in module.markdown(found)
    nothing = [*words(model, store, tmp_path / "out"), "--reconstruct", "0"]
    assert main(nothing) == 2
    assert "has no labels for probes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def other_bands(stored: dict[str, Any]) -> dict[str, Any]:
    return stored | {"bands": ["B2", "B3", "B5"]}


def other_order(stored: dict[str, Any]) -> dict[str, Any]:
    return stored | {"bands": ["B4", "B3", "B2"]}


def other_domain(stored: dict[str, Any]) -> dict[str, Any]:
    return stored | {"domain": "ct"}


def no_normaliser(stored: dict[str, Any]) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (other_bands, 2, "lacks B5 and has B4 besides"),
        (other_order, 2, "bands in another order"),
        (other_domain, 2, "holds satellite images and the model is for domain 'ct'"),
        (no_normaliser, 1, "does not say which bands it wants"),
    ],
)
def test_a_model_for_other_images_is_refused(
    class_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Any,
    code: int,
    message: str,
) -> None:
    wrong = write_model(tmp_path / "model", spoil(normaliser_dict()), task=None)
    assert main(words(wrong, class_store, tmp_path / "out")) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train", "nonsense"], "split 'nonsense': is not known"),
        (["--train", "all"], "share samples"),
        (["--taps", "5"], "pooling tap 5"),
        (["--few", "0"], "few (0,): holds a number below 1"),
        (["--batch-size", "0"], "batch_size 0: is too small"),
        (["--mask-ratio", "1.5"], "mask_ratio 1.5: is no share"),
        (["--group", "other"], "group 'other'"),
        (["--study", "satellite"], "--samples: is not given"),
    ],
)
def test_settings_that_cannot_work_are_named(
    model: Path,
    class_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert main([*words(model, class_store, tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err


def test_model_and_data_must_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--out", str(tmp_path)]) == 2
    assert "--model: is not given" in capsys.readouterr().err


def test_one_class_cannot_be_probed(model: Path, class_store: Path, tmp_path: Path) -> None:
    group = open_group(class_store)
    even = [row if row == "even" else None for row in group.column("label")]
    column = group.table.schema.get_field_index("label")
    table = group.table.set_column(column, "label", [even])
    settings = config(model, class_store, tmp_path)
    loaded = module.load_model(model)
    one = replace(group, table=table)
    normaliser = module.model_normaliser(loaded, one, model)
    data = module.probe_data(settings, loaded, one, normaliser)
    assert data is not None
    with pytest.raises(UsageError, match="class 'even'"):
        data.truth.check()


def test_a_split_without_labels_is_named(model: Path, class_store: Path, tmp_path: Path) -> None:
    group = open_group(class_store)
    parts = ["train" if part == "test" else part for part in group.column("split")]
    table = group.table.set_column(group.table.schema.get_field_index("split"), "split", [parts])
    loaded = module.load_model(model)
    without = replace(group, table=table)
    normaliser = module.model_normaliser(loaded, without, model)
    with pytest.raises(UsageError, match=r"split 'test' .* has no labelled samples"):
        module.probe_data(config(model, class_store, tmp_path), loaded, without, normaliser)


def test_probes_never_look_at_test_rows(
    model: Path, class_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features of the test rows are replaced by noise; what was fitted stays the same."""
    fitted: list[list[float]] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        fit = fit_probe(*args, **kwargs)
        fitted[-1].append(float(fit.weight.sum()) + fit.strength)
        return fit

    monkeypatch.setattr(probing, "fit_probe", spy)
    settings = config(model, class_store, tmp_path)
    loaded, group = module.load_model(model), open_group(class_store)
    normaliser = module.model_normaliser(loaded, group, model)
    data = module.probe_data(settings, loaded, group, normaliser)
    assert data is not None
    noisy = replace(
        data,
        features=tuple(replace(f, test=torch.randn_like(f.test)) for f in data.features),
        truth=replace(data.truth, test=data.truth.test.flip(0)),
    )
    for probed in (data, noisy):
        fitted.append([])
        module._table(settings, probed)
    assert fitted[0] == fitted[1]
    assert len(fitted[0]) == 6 * (1 + 2)  # kinds with their seeds, all labels and two draws


def test_pooling_options_reach_the_features(model: Path, class_store: Path, tmp_path: Path) -> None:
    plain = evaluate(config(model, class_store, tmp_path, reconstruct=0, pooling=Pooling()))
    flat = evaluate(config(model, class_store, tmp_path, reconstruct=0, pooling=Pooling(std=False)))
    pairs = zip(plain.probes, flat.probes, strict=True)
    changed = {one.features for one, other in pairs if one != other}
    assert changed <= {"model", RANDOM}
