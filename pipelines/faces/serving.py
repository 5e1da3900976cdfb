"""A fine-tuned model with everything between a picture and a score: detector, crop, coding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ...core.errors import UsageError, WeightsError
from ...core.heads.task import LoadedTask, load_task
from ...datasets.errors import DataError
from ...datasets.samples import Samples
from ...datasets.store import StoreMeta
from ...domains.domain import get_domain
from ...domains.faces.crop import CropConfig, crop_transform
from ...domains.faces.detect import Detector, Face
from ...domains.faces.detections import make_detector
from ...domains.faces.normalise import FaceNormaliser
from ...domains.faces.prepare import Preparation, prepare_face
from ..efficiency import resolve_device
from ..scenes import model_normaliser
from .scoring import answer_classes

MIN_FACE, MAX_SIDE = 20, 1024  # pixels; what `mimkit curate faces` uses when not told otherwise


@dataclass(frozen=True)
class Server:
    """A model with everything between a picture and a score.

    Args:
        task: the fine-tuned model.
        normaliser: says how faces were cropped and coded.
        crop: the transform.
        positive: classes that are fakes or attacks; None when the model tells others apart.
    """

    task: LoadedTask
    normaliser: FaceNormaliser
    crop: CropConfig
    positive: list[int] | None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.task.config.classes

    def prepare(
        self, image: UInt8[np.ndarray, "h w 3"], face: Face
    ) -> tuple[UInt8[np.ndarray, "3 s s"], Bool[np.ndarray, "s s"]]:
        """Return a face cropped and coded as the training data were, and where it has pixels."""
        transform = crop_transform(face, self.crop, *image.shape[:2])
        how = Preparation(
            crop=self.crop, colour=self.normaliser.colour, equalise=self.normaliser.equalised
        )
        return prepare_face(image, transform, how)

    def score(
        self,
        crops: Sequence[UInt8[np.ndarray, "3 s s"]],
        valid: Sequence[Bool[np.ndarray, "s s"]],
    ) -> Float[np.ndarray, "n k"]:
        """Return class probabilities of crops, by the same way that training took."""
        meta = StoreMeta(
            domain=self.normaliser.domain,
            sensor=self.normaliser.sensor,
            bands=self.normaliser.bands,
            size=(self.crop.size, self.crop.size),
            dtype="uint8",
            scale=self.normaliser.scale,
            offset=self.normaliser.offset,
            num_samples=len(crops),
            shard=len(crops),
            facts={"crop": self.crop.to_dict()},
        )
        batch = get_domain(self.normaliser.domain).to_batch(
            Samples(np.stack(crops), np.stack(valid), np.arange(len(crops))),
            meta,
            self.normaliser,
            size=self.task.config.image_size,
            device=next(self.task.model.parameters()).device,
        )
        return self.task.model.probabilities(batch).cpu().numpy()


def open_server(model: Path, device: str) -> Server:
    """Open a fine-tuned model of faces.

    Raises:
        UsageError: when it is of another domain or task.
        WeightsError: when it does not say how faces were cropped.
    """
    task = load_task(model, device=resolve_device(device))
    _, normaliser = model_normaliser(model, task.normaliser)
    if not isinstance(normaliser, FaceNormaliser):
        reason = f"is for {normaliser.domain} images"
        raise UsageError(model, reason, "give a model that was fine-tuned on a store of faces")
    if task.config.task != "classify":
        raise UsageError(model, "gives a class per pixel", "give a model that classifies faces")
    if normaliser.crop is None:
        raise WeightsError(
            model,
            "does not say how its faces were cropped, and another crop gives other scores",
            "curate with `mimkit curate faces` and train on that",
        )
    try:
        positive = answer_classes(task.config.classes, model)
    except UsageError:
        positive = None  # attributes or identities: probabilities of each class, no score
    return Server(task, normaliser, normaliser.crop, positive)


def open_detector(spec: str, cropped_as: str | None, crop: CropConfig) -> Detector:
    """Return what finds faces.

    Args:
        spec: "mtcnn", a file of boxes that another detector found, or "whole" for pictures that
            were cropped before.
        cropped_as: name of the crop that such pictures have.
        crop: of the model.

    Raises:
        UsageError: for pictures that were cropped before without saying how, an unknown detector,
            or one that is not installed.
        DataError: for pictures that were cropped by another transform than the model's.
    """
    if spec != "whole":
        if cropped_as is not None:
            remedy = "use --detector whole for pictures that are crops"
            raise UsageError("--cropped-as", "says that faces are cropped already", remedy)
        return make_detector(spec, MIN_FACE, MAX_SIDE, crop.margin)
    if cropped_as is None:
        raise UsageError(
            "--detector whole",
            "takes pictures as crops, and they do not say how they were made",
            f"give --cropped-as {crop.name} if they were cropped so, or use --detector mtcnn",
        )
    if cropped_as != crop.name:
        raise DataError(
            "sources",
            f"are cropped as {cropped_as}, and the model is for {crop.name}",
            "give the uncropped pictures with --detector mtcnn, or take another model",
        )
    return make_detector(spec, MIN_FACE, MAX_SIDE, crop.margin)
