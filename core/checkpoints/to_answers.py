"""A fine-tuned model as one graph: from the numbers of a file to class probabilities."""

from __future__ import annotations

import json
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from ..files import write_text
from ..heads.task import LoadedTask, TaskModel
from .exporters import check_onnx, probe, write_checked
from .model_dir import CONFIG_FILE

GRAPH = "answers.onnx"


class Answers(nn.Module):
    """A task model with what has to be done to pixels before it, and probabilities after it.

    Args:
        model: encoder and head.
        preprocess: from stored numbers to the encoder's input; identity when None.
    """

    def __init__(self, model: TaskModel, preprocess: nn.Module | None = None) -> None:
        super().__init__()
        self.preprocess = preprocess or nn.Identity()
        self.encoder, self.head = model.encoder, model.head
        self.taps = tuple(tap for tap in model.config.taps if tap >= 0)

    def forward(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k *t"]:
        """Return class probabilities: (b, k) for a class per image, (b, k, h, w) per pixel."""
        inputs = self.preprocess(images)
        features = self.encoder.encode(inputs, taps=self.taps)
        return self.head(features, inputs).float().softmax(dim=1)


def export_answers(
    task: LoadedTask,
    out: str | Path,
    preprocess: nn.Module | None = None,
    samples: Float[Tensor, "b c *s"] | None = None,
) -> Path:
    """Write `answers.onnx`, compared with onnxruntime before it gets its name.

    config.json beside it holds the classes, the size of the input and the normaliser, which for
    faces says how they have to be cropped and coded.

    Args:
        task: a fine-tuned model.
        out: folder that is made.
        preprocess: turns stored numbers into the encoder's input; it becomes part of the graph.
        samples: inputs of the graph to compare on, real ones if there are any; noise otherwise.

    Raises:
        UsageError: when onnx or onnxruntime is not installed, or the model does something that the
            graph's version of ONNX cannot.
        WeightsError: when onnxruntime gives other probabilities.
    """
    check_onnx()
    whole = Answers(task.model, preprocess).eval()
    grid = task.model.encoder.grid
    images = probe(grid) if samples is None else samples.float()
    write_checked(whole, images, Path(out) / GRAPH, "probabilities")
    content = {
        "classes": task.config.classes,
        "image_size": list(images.shape[2:]),
        "normaliser_inside": preprocess is not None,
        "normaliser": task.normaliser,
    }
    write_text(Path(out) / CONFIG_FILE, json.dumps(content, indent=1) + "\n")
    return Path(out)
