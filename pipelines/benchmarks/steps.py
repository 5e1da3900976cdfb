"""Training steps that can be timed: what they compute, on which images, and our own ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ...core.batch import Batch, Progress
from ...core.grid import Grid
from ...core.methods import MethodConfig, build
from ...core.noise import Noise
from ...core.training.engine import PlainEngine
from ...core.training.flops import training_flops
from ...core.training.optim import OptimConfig
from .memory import in_child, peak_resident, resident, saved_bytes

OPTIM = OptimConfig(warmup_epochs=0)
_NUM_EPOCHS = 10


@dataclass(frozen=True)
class Workload:
    """What a step works on: random images, the same for all sides.

    Attributes:
        batch_size: images of a step.
        image_size: pixels per side.
        patch_size: pixels per side of a patch.
        channels: of an image.
        device: where it is done.
        num_threads: CPU threads of torch.
    """

    batch_size: int = 16
    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    device: str = "cpu"
    num_threads: int = 1

    @property
    def grid(self) -> Grid:
        """Geometry of the tokens."""
        return Grid.for_image((self.image_size,) * 2, self.patch_size, self.channels)

    def images(self) -> Tensor:
        """Return the images of a step."""
        random = torch.Generator().manual_seed(0)
        shape = (self.batch_size, self.channels, self.image_size, self.image_size)
        return torch.randn(shape, generator=random).to(self.device)


@dataclass(frozen=True)
class Step:
    """A training step ready to go.

    Attributes:
        model: what is trained.
        images: what it is trained on.
        run: makes forward, backward and update once; returns the loss.
        flops: of one image in a step, by formula.
    """

    model: nn.Module
    images: Tensor
    run: Callable[[], Tensor]
    flops: int

    def kept_bytes(self) -> int:
        """Return what a step keeps for its backward pass, weights and images left out."""
        return saved_bytes(self.run, [*self.model.state_dict().values(), self.images])


@runtime_checkable
class Side(Protocol):
    """One side of a comparison; small enough to be sent to another process."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def check(self) -> None:
        """Import what is needed.

        Raises:
            UsageError: when a package is missing.
        """
        ...

    def build(self, work: Workload) -> Step:
        """Make the model and its optimiser."""
        ...


@dataclass(frozen=True)
class Ours:
    """A step of one of our methods, through the engine that trains it.

    Attributes:
        name: what tables call it.
        config: the method.
    """

    name: str
    config: MethodConfig

    def check(self) -> None:
        """Everything is there: nothing to import."""

    def build(self, work: Workload) -> Step:
        """Make the method and its engine."""
        torch.manual_seed(0)
        method, images = build(self.config, work.grid), work.images()
        engine = PlainEngine(
            method, OPTIM, batch_size=work.batch_size, num_epochs=_NUM_EPOCHS, device=work.device
        )
        batch = Batch(images, None, torch.arange(len(images), device=work.device))
        noise = Noise(0, work.device)

        def run() -> Tensor:
            return engine.step([batch], Progress(1.0, _NUM_EPOCHS), noise).loss

        return Step(method, images, run, training_flops(method).training)


def peak_growth(side: Side, work: Workload, num_steps: int = 2) -> int:
    """Return by how many bytes a model, its optimiser and some steps raise the peak of a process.

    It is measured in a fresh process after its imports, or as allocated on a GPU.
    """
    return in_child(_peak_growth, side, work, num_steps)


def _peak_growth(side: Side, work: Workload, num_steps: int) -> int:
    torch.set_num_threads(work.num_threads)
    side.check()
    before = resident()
    step = side.build(work)
    for _ in range(num_steps):
        step.run()
    if torch.device(work.device).type == "cuda":
        return torch.cuda.max_memory_allocated(work.device)
    return peak_resident() - before
