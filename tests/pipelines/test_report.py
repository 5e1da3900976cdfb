"""Reports of runs: one page that needs nothing else, and says in words what is and what is not."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.image import imread
from tiny_store import curate_tiny, finetune_tiny

from mimkit.core.checkpoints.model_dir import load_model, save_model
from mimkit.pipelines.cli import main
from mimkit.pipelines.features import random_method
from mimkit.pipelines.reporting import chapters
from mimkit.pipelines.reporting.pictures import HIDDEN

PRETRAIN = ["Training", "Reconstructions of held-out images", "Probes"]
PRETRAIN += ["What the encoder tells apart", "Data", "Recipe"]
FINETUNE = ["Training", "Test scores", "Predictions on test images", "Data", "Recipe"]


class Reader(HTMLParser):
    """Collects what a browser would load, the headings and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: set[str] = set()
        self.text: list[str] = []
        self.headings: list[str] = []
        self.style: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.inside = tag
        names = ("src", "href", "srcset", "poster", "data", "action", "background")
        self.loaded += [value or "" for name, value in attrs if name in names]
        self.style += [value or "" for name, value in attrs if name == "style"]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.style.append(data)
        elif data.strip():
            self.text.append(" ".join(data.split()))
        if self.inside == "h3":
            self.headings.append(data)


def report(out: Path, *words: str | Path) -> Reader:
    """Write a report and read it; it must load nothing."""
    assert main(["report", *map(str, words), "--out", str(out)]) == 0
    page = Reader()
    page.feed(out.read_text(encoding="utf-8"))
    assert all(target.startswith(("data:image/", "#")) for target in page.loaded)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"url\(|@import|expression", "".join(page.style))
    return page


@pytest.fixture(scope="module")
def segmented(
    dense_store: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("report_segmented") / "run"
    return finetune_tiny(pretrained / "model", dense_store, out)


@pytest.fixture(scope="module")
def both(
    dense_store: Path,
    pretrained: Path,
    segmented: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Reader]:
    out = tmp_path_factory.mktemp("report_both") / "report.html"
    return out, report(out, pretrained, segmented, "--data", dense_store, "--samples", "2")


def test_a_page_has_all_parts_and_needs_nothing_else(both: tuple[Path, Reader]) -> None:
    out, page = both
    assert page.headings == [*PRETRAIN, *FINETUNE]
    assert out.stat().st_size < 2_000_000
    # Six curves, twice four reconstructions, two maps, two images and their tokens; then six or
    # seven curves and two images with labels and prediction.
    pictures = [target for target in page.loaded if target.startswith("data:")]
    assert len(pictures) >= 6 + 8 + 2 + 4 + 6 + 6
    text = " ".join(page.text)
    for words in (
        "Finished: 3 epochs, 9 steps",
        "training loss from",
        "held-out loss, always with the same masks",
        "linear probe on frozen features: balanced accuracy",
        "mean and contrast of each hidden patch are taken from the truth",
        "random initialisation",
        "band means",
        "not chosen by how they look",
        "mean IoU",
        "Confusion matrix",
        "started from a pre-trained encoder",
        "embed_dim: 16",
        "6 found, 0 of them broken",
    ):
        assert words in text, words


def test_the_same_inputs_give_the_same_bytes(
    both: tuple[Path, Reader], dense_store: Path, pretrained: Path, segmented: Path, tmp_path: Path
) -> None:
    again, picture = tmp_path / "again.html", tmp_path / "picture.png"
    words = (pretrained, segmented, "--data", dense_store, "--samples", "2")
    report(again, *words, "--picture", picture)
    assert again.read_bytes() == both[0].read_bytes()
    # Two images of 32 pixels: original, what was seen, reconstruction, twice as large.
    page = (imread(picture)[..., :3] * 255).round().astype(int)
    assert page.shape == (2 * 68 - 4, 3 * 68 - 4, 3)
    original, seen, pasted = (page[:64, x : x + 64] for x in (0, 68, 136))
    hidden = (seen == HIDDEN).all(axis=-1)
    assert hidden.mean() == pytest.approx(55 / 64)  # nine of 64 tokens are seen
    assert (original == pasted)[~hidden].all()
    assert (original != pasted)[hidden].any()
    assert (page[64:68] == 255).all()


def test_without_a_store_the_page_says_what_is_missing(pretrained: Path, tmp_path: Path) -> None:
    page = report(tmp_path / "report.html", pretrained)
    assert page.headings == PRETRAIN
    assert page.text.count("Name the store with --data to see this part.") == 4
    assert "not probed" in " ".join(page.text)


def test_a_run_in_progress_is_shown_as_far_as_it_is(
    pretrained: Path, dense_store: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(pretrained, half, ignore=shutil.ignore_patterns("model"))
    lines = (half / "metrics.jsonl").read_text().splitlines(keepends=True)
    (half / "metrics.jsonl").write_text("".join(lines[:7]) + '{"step": 6, "ep')
    page = report(tmp_path / "report.html", half, "--data", dense_store)
    text = " ".join(page.text)
    assert page.headings == PRETRAIN
    assert "Not finished: 1.3 of 3 epochs (44%)" in text
    assert "continues it" in text
    assert text.count("The run has written no model yet") == 3
    (half / "metrics.jsonl").unlink()
    page = report(tmp_path / "report.html", half)
    assert "The log has no lines yet." in page.text


def test_classes_of_samples_are_shown_as_words(
    class_store: Path, pretrained: Path, tmp_path: Path
) -> None:
    run = finetune_tiny(pretrained / "model", class_store, tmp_path / "classes")
    page = report(tmp_path / "report.html", run, "--data", class_store, "--samples", "3")
    assert page.headings == FINETUNE
    text = " ".join(page.text)
    assert "fine-tuning for a class per sample" in text
    assert "only 8 labelled samples were tested" in text
    assert page.text.count("even") + page.text.count("odd") >= 6


@pytest.mark.parametrize("recorded", [True, False])
def test_guesses_of_a_decoder_without_training_are_not_shown(
    recorded: bool, pretrained: Path, dense_store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(pretrained, run)
    loaded = load_model(run / "model")
    if not recorded:  # as a run from scratch leaves it
        fresh = random_method(loaded.config, loaded.method.grid, 0)
        loaded.method.heads.load_state_dict(fresh.heads.state_dict())
    save_model(
        run / "model",
        loaded.method,
        loaded.config,
        normaliser=loaded.normaliser,
        recipe="",
        data=loaded.data,
        extra={"fresh": ["heads.pixels"] if recorded else []},
    )
    page = report(tmp_path / "report.html", run, "--data", dense_store, "--samples", "1")
    assert "The decoder was never trained, so its guesses are not shown." in page.text
    assert any("its reconstructions mean nothing" in text for text in page.text)


def test_names_are_escaped(pretrained: Path, dense_store: Path, tmp_path: Path) -> None:
    run = tmp_path / 'a<b>"&'
    shutil.copytree(pretrained, run)
    page = report(tmp_path / "report.html", run, "--title", "<script>alert(1)</script>")
    assert "script" not in page.tags
    assert 'a<b>"&: pre-training with selectivemae' in page.text
    assert "<script>alert(1)</script>" in page.text


def test_another_store_is_named_as_such(pretrained: Path, tmp_path: Path) -> None:
    other = curate_tiny(tmp_path / "other", masks=True, num_scenes=4)
    page = report(tmp_path / "report.html", pretrained, "--data", other, "--samples", "1")
    assert any("is not the store that the run was trained on" in text for text in page.text)


def test_a_store_without_labels_has_no_probes_but_everything_else(
    pretrained: Path, tmp_path: Path
) -> None:
    plain = curate_tiny(tmp_path / "plain")
    page = report(tmp_path / "report.html", pretrained, "--data", plain, "--samples", "1")
    assert "The store has no labels, so there are no probes." in page.text
    assert "not probed" in " ".join(page.text)
    assert page.headings == PRETRAIN


def test_probes_that_were_measured_before_are_used(
    pretrained: Path, dense_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {"probe": "linear", "labels": None, "accuracy": 0.9, "accuracy_std": 0.0}
    line |= {"balanced_std": 0.001, "num_draws": 3}
    probes = [
        {"features": "model", "balanced": 0.9, **line},
        {"features": "random initialisation", "balanced": 0.7, **line},
        {"features": "band means", "balanced": 0.901, **line},
    ]
    found: dict[str, object] = {"model": str(pretrained / "model"), "data": "store"}
    found |= {"unit": "tile", "classes": ["a", "b"], "num_train": 10, "num_test": 5}
    found |= {"probes": probes, "reconstruction": None}
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(found))
    monkeypatch.setattr(chapters, "measure", lambda *a, **k: pytest.fail("measured again"))
    words = (pretrained, "--data", dense_store, "--evaluation", file, "--samples", "1")
    text = " ".join(report(tmp_path / "report.html", *words).text)
    assert "the encoder is better than one with random weights" in text
    assert "better than random initialisation (0.700, difference +0.200)" in text
    assert "about the same as band means" in text


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str | Path) -> str:
    """Return the one sentence with which a report ends."""
    capsys.readouterr()
    assert main(["report", *map(str, words)]) == code
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    return said[0]


def test_what_is_no_run_is_refused(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "r.html")
    assert "is not the folder of a run" in refused(capsys, 1, tmp_path, *out)
    assert "is not the folder of a run" in refused(capsys, 1, tmp_path / "none", *out)
    assert "is a folder" in refused(capsys, 2, pretrained, "--out", tmp_path)
    assert "below 1" in refused(capsys, 2, pretrained, "--samples", "0", *out)
    picture = ("--picture", tmp_path / "p.png")
    assert "a store (--data)" in refused(capsys, 2, pretrained, *picture, *out)
    assert not (tmp_path / "p.png").exists()
    assert "there is no" in refused(capsys, 1, pretrained, "--data", tmp_path / "none", *out)
    assert not (tmp_path / "r.html").exists()


def test_a_broken_log_is_named(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(pretrained, run)
    (run / "metrics.jsonl").write_text('{"step": 1}\nnot json\n')
    assert "its log cannot be read" in refused(capsys, 1, run, "--out", tmp_path / "r.html")


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_changed_model_is_refused(
    kind: str,
    pretrained: Path,
    segmented: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(pretrained if kind == "pretrain" else segmented, run)
    weights = run / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    said = refused(capsys, 1, run, "--out", tmp_path / "r.html")
    assert "model.safetensors" in said
    assert "is not the file that config.json was written for" in said


def test_an_evaluation_of_something_else_is_refused(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "evaluation.json"
    words = (pretrained, "--evaluation", file, "--out", tmp_path / "r.html")
    assert "is not what `mimkit evaluate` writes" in refused(capsys, 1, *words)
    file.write_text("{}")
    assert "is not what `mimkit evaluate` writes" in refused(capsys, 1, *words)
    plain = {"model": "elsewhere/model", "data": "d", "unit": "tile", "classes": []}
    plain |= {"num_train": 0, "num_test": 0, "probes": [], "reconstruction": None}
    file.write_text(json.dumps(plain))
    assert "the model of none of the runs" in refused(capsys, 2, *words)
