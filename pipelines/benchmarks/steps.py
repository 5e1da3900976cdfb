"""Training steps that can be timed: what they compute, on which images, and our own ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from ...core.batch import Batch, Progress
from ...core.grid import Grid
from ...core.methods import DecoderConfig, EncoderConfig, MethodConfig, build
from ...core.noise import Noise
from ...core.training.deepspeed_config import Sharding, Stage
from ...core.training.engine import Engine, PlainEngine
from ...core.training.flops import training_flops
from ...core.training.optim import OptimConfig, resolved_lr
from .memory import in_child, peak_resident, resident, saved_bytes

C = TypeVar("C", bound=MethodConfig)
OPTIM = OptimConfig(warmup_epochs=0)
_NUM_EPOCHS = 10
# As deep as published ones, for methods that read certain blocks.
_ENCODER = EncoderConfig(embed_dim=32, depth=12, num_heads=1)
_DECODER = DecoderConfig(dim=32, depth=2, num_heads=1)


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
        rank: axes of an image, all of one length.
        multiple: images that a batch has to be a multiple of.
    """

    batch_size: int = 16
    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    device: str = "cpu"
    num_threads: int = 1
    rank: int = 2
    multiple: int = 1

    @property
    def grid(self) -> Grid:
        """Geometry of the tokens."""
        return self.grid_of(self.patch_size)

    def grid_of(self, patch_size: int | Sequence[int]) -> Grid:
        """Return the geometry of tokens of another size."""
        return Grid.for_image((self.image_size,) * self.rank, patch_size, self.channels)

    def images(self) -> Tensor:
        """Return the images of a step."""
        random = torch.Generator().manual_seed(0)
        shape = (self.batch_size, self.channels, *(self.image_size,) * self.rank)
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


def plain_step(model: nn.Module, work: Workload, flops: int) -> Step:
    """Return a step of a model that gives its loss for images, with torch's fused AdamW."""
    images = work.images()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=resolved_lr(OPTIM, work.batch_size),
        betas=OPTIM.betas,
        weight_decay=OPTIM.weight_decay,
        fused=True,
    )

    def run() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = model(images)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Step(model, images, run, flops)


def tiny(config: C) -> C:
    """Return a method's configuration with a network that takes no time.

    Encoders that are no plain ViT, whose smallest sizes differ, stay as they are.
    """
    if not isinstance(config.encoder, EncoderConfig):
        return config
    parts: dict[str, object] = {"encoder": replace(_ENCODER, patch_size=config.encoder.patch_size)}
    if isinstance(getattr(config, "decoder", None), DecoderConfig):
        parts["decoder"] = _DECODER
    return replace(config, **parts)


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

    def small(self) -> Side:
        """Return the same with a network that takes no time."""
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
        compile: compile its blocks.
        stage: of DeepSpeed's ZeRO; None trains with the plain engine.
    """

    name: str
    config: MethodConfig
    compile: bool = False
    stage: Stage | None = None

    def check(self) -> None:
        """Everything is there: nothing to import."""

    def small(self) -> Ours:
        """Return a step of the same method with a tiny network."""
        return replace(self, config=tiny(self.config))

    def build(self, work: Workload) -> Step:
        """Make the method and its engine."""
        torch.manual_seed(0)
        grid = work.grid_of(self.config.encoder.patch_size)
        method, images = build(self.config, grid), work.images()
        batch = Batch(images, None, torch.arange(len(images), device=work.device))
        flops = training_flops(method).training
        return engine_step(method, batch, work, flops, compile=self.compile, stage=self.stage)


def engine_step(
    model: nn.Module,
    batch: Batch,
    work: Workload,
    flops: int,
    *,
    compile: bool = False,
    stage: Stage | None = None,
) -> Step:
    """Return a step of a pre-training method, or of what computes its losses, on one batch.

    Args:
        model: a `Trainable`.
        batch: on the device of `work`.
        work: tells the device.
        flops: of one image in a step, by formula.
        compile: compile its blocks.
        stage: of DeepSpeed's ZeRO, in this one process; None trains with the plain engine.
    """
    options: dict[str, Any] = {"batch_size": work.batch_size, "num_epochs": _NUM_EPOCHS}
    options |= {"device": work.device, "compile": compile}
    if stage is None:
        engine: Engine = PlainEngine(model, OPTIM, **options)
    else:
        from ...core.training.engine_deepspeed import DeepSpeedEngine

        engine = DeepSpeedEngine(model, OPTIM, sharding=Sharding(stage=stage), **options)
    noise = Noise(0, work.device)

    def run() -> Tensor:
        return engine.step([batch], Progress(1.0, _NUM_EPOCHS), noise).loss

    return Step(model, batch.images, run, flops)


def peak_growth(sides: Sequence[Side], place: int, work: Workload, num_steps: int = 3) -> int:
    """Return by how many bytes a model, its optimiser and some steps raise the peak of a process.

    It is measured in a fresh process that has taken a tiny step of every side before, so that what
    is imported, on the way too, is the same for all of them. On a GPU, allocated memory counts.

    Args:
        sides: what is compared.
        place: which of them is measured.
        work: what a step works on.
        num_steps: steps that are made.
    """
    return in_child(_peak_growth, tuple(sides), place, work, num_steps)


def _peak_growth(sides: Sequence[Side], place: int, work: Workload, num_steps: int) -> int:
    torch.set_num_threads(work.num_threads)
    for side in sides:
        side.check()
        side.small().build(replace(work, batch_size=work.multiple)).run()
    before = resident()
    if torch.device(work.device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(work.device)
    step = sides[place].build(work)
    for _ in range(num_steps):
        step.run()
    if torch.device(work.device).type == "cuda":
        return torch.cuda.max_memory_allocated(work.device)
    return peak_resident() - before
