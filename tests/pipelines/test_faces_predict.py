"""`mimkit predict faces`: every face, picture and file has a line; other crops are refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_faces import draw_face, write_boxes, write_video
from tiny_models import write_model
from tiny_served import CROP, NORMALISER

from mimkit.core.errors import UsageError, WeightsError
from mimkit.datasets.errors import DataError
from mimkit.domains.faces.crop import crop_transform, cut_crop
from mimkit.domains.faces.detections import read_faces
from mimkit.pipelines.cli import main
from mimkit.pipelines.faces.predict import PredictFacesConfig, run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "model"
    return write_model(folder, NORMALISER, task="classify", classes=("fake", "real"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return three photographs, one of them without a listed face."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(draw_face(seed=number)).save(folder / f"{number}.png")
    return folder


def lines(out: Path, name: str = "faces.csv") -> list[dict[str, str]]:
    with (out / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def predict(model: Path, out: Path, *sources: Path, **settings: Any):
    return run(PredictFacesConfig(sources=sources, model=model, out=out, device="cpu", **settings))


def test_photographs_with_boxes_of_another_detector(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    boxes = write_boxes(tmp_path / "boxes.csv", ["0.png", "2.png"])
    out = tmp_path / "out"
    words = ["predict", "faces", str(photos), "--model", str(model), "--out", str(out)]
    assert main([*words, "--detector", str(boxes), "--device", "cpu"]) == 0
    found = lines(out)
    assert [row["status"] for row in found] == ["scored", "no face", "scored"]
    assert lines(out, "videos.csv") == []
    plain = json.loads((out / "predictions.json").read_text())
    assert plain["crop"]["name"] == CROP.name
    scored = plain["faces"][0]
    assert scored["score"] == pytest.approx(scored["probabilities"]["fake"])
    assert sum(scored["probabilities"].values()) == pytest.approx(1)
    assert scored["called"] == ("fake" if scored["score"] >= 0.5 else "genuine")
    assert len(list((out / "annotated").glob("*.jpg"))) == 3
    # Batches change nothing, and another threshold changes the word alone.
    again = predict(
        model,
        tmp_path / "again",
        photos,
        detector=str(boxes),
        batch_size=1,
        threshold=0.0,
        annotated=0,
    )
    assert again[0].score == pytest.approx(scored["score"], abs=1e-5)
    assert again[0].called == "fake"
    assert not (tmp_path / "again" / "annotated").exists()


def test_crops_are_scored_like_the_pictures_they_are_from(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    boxes = write_boxes(tmp_path / "boxes.csv", ["0.png"])
    whole = predict(model, tmp_path / "a", photos / "0.png", detector=str(boxes))
    image = draw_face(seed=0)
    (face,) = read_faces(boxes)(image, "0.png")
    pixels, _ = cut_crop(image, crop_transform(face, CROP, *image.shape[:2]), CROP)
    Image.fromarray(pixels).save(tmp_path / "crop.png")
    cut = predict(
        model, tmp_path / "b", tmp_path / "crop.png", detector="whole", cropped_as=CROP.name
    )
    assert cut[0].score == pytest.approx(whole[0].score, abs=1e-5)


def test_crops_of_another_transform_are_refused(model: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cropped as none-1.5.*the model is for none-1.3-48"):
        predict(model, tmp_path, photos, detector="whole", cropped_as="none-1.5-48-bicubic-v1")
    with pytest.raises(UsageError, match=f"give --cropped-as {CROP.name}"):
        predict(model, tmp_path, photos, detector="whole")
    with pytest.raises(UsageError, match="cropped already"):
        predict(model, tmp_path, photos, detector="mtcnn", cropped_as=CROP.name)
    silent = write_model(tmp_path / "silent", NORMALISER | {"crop": None}, task="classify")
    with pytest.raises(WeightsError, match="does not say how its faces were cropped"):
        predict(silent, tmp_path, photos)
    satellite = write_model(tmp_path / "satellite", task="classify")
    with pytest.raises(UsageError, match="is for satellite images"):
        predict(satellite, tmp_path, photos)


def test_videos_have_one_score_and_broken_files_a_line(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    pytest.importorskip("av")
    frames = [draw_face(seed=n) for n in range(6)]
    video = write_video(tmp_path / "clips" / "v.mp4", frames)
    (tmp_path / "clips" / "empty.mp4").write_bytes(b"")
    (tmp_path / "clips" / "text.mp4").write_text("no video")
    boxes = write_boxes(tmp_path / "boxes.csv", [f"v.mp4#{n}" for n in (0, 2, 5)])
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"2 of 3 files: could not be read .*empty.mp4"):
        predict(model, out, tmp_path / "clips", detector=str(boxes), num_frames=6)
    found = lines(out)
    assert [row["status"] for row in found] == [
        "unreadable",
        "unreadable",
        "scored",
        "no face",
        "scored",
        "no face",
        "no face",
        "scored",
    ]
    by_file = {Path(row["file"]).name: row for row in lines(out, "videos.csv")}
    scores = [float(row["score"]) for row in found if row["score"]]
    assert float(by_file["v.mp4"]["score"]) == pytest.approx(np.mean(scores))
    assert (by_file["v.mp4"]["num_frames"], by_file["v.mp4"]["num_faces"]) == ("6", "3")
    assert by_file["empty.mp4"]["score"] == ""
    # A video that ends in the middle: what was read is scored, and the file is reported.
    broken = tmp_path / "cut" / "v.mp4"
    broken.parent.mkdir()
    broken.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(DataError, match="1 of 1 files"):
        predict(model, tmp_path / "half", broken, detector=str(boxes))
    assert lines(tmp_path / "half")[-1]["status"] == "unreadable"
    # Photographs in a folder as frames of one video, and the median of their scores.
    listed = write_boxes(tmp_path / "all.csv", [f"{n}.png" for n in range(3)])
    rows = predict(
        model,
        tmp_path / "folder",
        photos,
        detector=str(listed),
        frame_folders=True,
        combine="median",
    )
    (one,) = lines(tmp_path / "folder", "videos.csv")
    assert float(one["score"]) == pytest.approx(np.median([row.score or 0.0 for row in rows]))


def test_a_model_of_other_classes_gives_probabilities_alone(photos: Path, tmp_path: Path) -> None:
    people = write_model(tmp_path / "people", NORMALISER, task="classify", classes=("ann", "bob"))
    boxes = write_boxes(tmp_path / "boxes.csv", ["0.png"])
    (row,) = predict(people, tmp_path / "out", photos / "0.png", detector=str(boxes))
    assert row.score is None
    assert row.called in ("ann", "bob")
