"""A fine-tuned network of volumes as TorchScript: it runs where only torch is installed.

Every network of ours can be written so, with its class token, head, taps and the rule that tokens
without data are read by nobody, which no class of MONAI has.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ..batch import Batch
from ..errors import UsageError
from ..files import replacing
from ..heads.task import LoadedTask, TaskModel
from .exporters import difference, probe, require_equal


class MaskedScores(nn.Module):
    """Scores of windows whose second channel says where the body is.

    Outside of the body all scores are zero, so that class 0 wins there, and a window without any
    body changes nobody's winner in a weighted mean over windows: results are those of a walk that
    leaves such windows out.

    Args:
        model: a segmentation model of one channel.
    """

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, windows: Float[Tensor, "b 2 *s"]) -> Float[Tensor, "b k *s"]:
        """Return class scores; channel 0 is normalised, channel 1 is one inside of the body."""
        images, inside = windows[:, :1], windows[:, 1] > 0.5
        scores = self.model(Batch(images, inside, torch.arange(len(windows))))
        return torch.where(inside[:, None], scores, torch.zeros_like(scores))


def export_torchscript(
    task: LoadedTask, path: Path, images: Float[Tensor, "b 1 *s"] | None = None
) -> float:
    """Write the network and compare it, opened again, before it gets its name.

    Args:
        task: a fine-tuned segmentation model of one channel, in evaluation mode.
        path: the file; windows have the size that the model was trained on, their number is free.
        images: normalised windows to compare on, real ones if there are any; noise otherwise.

    Returns:
        The largest difference, as a share of the range of scores.

    Raises:
        UsageError: for a model that gives no class to each voxel, or reads several channels.
        WeightsError: when the file gives other scores.
    """
    grid = task.model.encoder.grid
    if task.config.task != "segment" or grid.channels != 1:
        reason = f"is for {task.config.task} with {grid.channels} channels"
        raise UsageError("model", reason, "give one that gives each voxel of a CT volume a class")
    whole = MaskedScores(task.model).eval()
    given = _with_bodies(probe(grid) if images is None else images)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad(), linear_of_torch():
        # torch says that TorchScript will go, and warns at every check of a shape, all constant.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(whole, given[:2], check_trace=False)
        wanted = whole(given)
        with replacing(path) as temporary:
            torch.jit.save(traced, str(temporary))
            found = torch.jit.load(str(temporary), map_location="cpu")(given)
            require_equal(found, wanted, "TorchScript")
    return difference(found, wanted)


@contextmanager
def linear_of_torch() -> Iterator[None]:
    """Undo for a while what DeepSpeed's stage 3 leaves behind in a process.

    It puts a function of its own, which TorchScript cannot hold, in the place of torch's.
    """
    before = functional.linear
    functional.linear = torch._C._nn.linear  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        functional.linear = before


def _with_bodies(images: Float[Tensor, "b 1 *s"]) -> Float[Tensor, "c 2 *s"]:
    """Return images with bodies that fill them, end in their middle, or are not there."""
    whole = torch.ones_like(images)
    half = whole.clone()
    half[:, :, images.shape[2] // 2 :] = 0.0
    bodies = (whole, half, torch.zeros_like(whole))
    return torch.cat([torch.cat([images, body], dim=1) for body in bodies])
