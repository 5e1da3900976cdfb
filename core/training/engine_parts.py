"""What engines share: the shape of a step, its randomness, its micro-batches, its errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..batch import Batch, Progress
from ..errors import UserError
from ..noise import Noise
from ..recompute import checkpointed

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def arithmetic(device: torch.device, precision: Precision) -> AbstractContextManager:
    """Return the context in which a model with float32 weights computes in a precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


class NonFiniteLossError(UserError):
    """A loss or gradient that is infinite or no number; the weights are those before the step.

    Args:
        ids: (b,) samples of the step that this process computed.
        terms: loss of each head at that step.
        late: the next step was under way when it was found.
    """

    def __init__(self, ids: Tensor, terms: Mapping[str, float], late: bool = False) -> None:
        values = ", ".join(f"{name} {value}" for name, value in terms.items())
        super().__init__(
            f"loss ({values})",
            "or its gradient is not finite",
            "look at the samples of this step, or start a new run with a lower --optim.base-lr",
        )
        self.ids, self.terms, self.late = ids, dict(terms), late


@runtime_checkable
class Losses(Protocol):
    """What a model returns in training: a pre-training method's `Output`, or the like."""

    @property
    def per_sample(self) -> Float[Tensor, " b"]:
        """Loss of every sample; their mean is minimised."""
        ...

    @property
    def terms(self) -> dict[str, Float[Tensor, ""]]:
        """Mean of each part of the loss, unweighted."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """A module that computes losses from a batch; all its randomness comes from `noise`."""

    def __call__(self, batch: Batch, progress: Progress, noise: Noise) -> Losses:
        """Run forward."""
        ...


@runtime_checkable
class Following(Protocol):
    """A module that has to know when its weights were updated, such as one with a teacher."""

    def after_step(self, progress: Progress) -> None:
        """React to an update; `progress` is where the run stood before it."""
        ...


@dataclass(frozen=True)
class StepResult:
    """What came out of one update; tensors stay on the device so that nothing waits for it.

    Args:
        loss: what was minimised, float32, over all processes.
        terms: loss of each head, unweighted, over all processes.
        lr: peak-scaled learning rate of the step.
        grad_norm: norm of the whole gradient before clipping.
        per_sample: unweighted loss of each sample of this process, in the order of the
            micro-batches.
    """

    loss: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    lr: float
    grad_norm: Float[Tensor, ""]
    per_sample: Float[Tensor, " b"]


class SharedNoise(Noise):
    """The rows of a step's draws that belong to one micro-batch of one process.

    Draws are made once for the whole batch, so that cutting it into micro-batches and dealing it
    out to processes changes nothing. Draws of one axis are shared by all samples; others have one
    row per sample.

    Args:
        whole: source of the step's draws.
        total: samples of the whole batch.
    """

    def __init__(self, whole: Noise, total: int) -> None:
        self.generator, self.whole, self.total = whole.generator, whole, total
        self.draws: dict[tuple[str, int], Tensor] = {}
        self.start, self.seen = 0, Counter[str]()

    def at(self, start: int) -> SharedNoise:
        """Go to the micro-batch whose first sample is number `start`."""
        self.start, self.seen = start, Counter()
        return self

    def uniform(self, name: str, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
        """Return this micro-batch's part of a draw."""
        self.seen[name] += 1
        key, rows = (name, self.seen[name]), len(shape) > 1
        if key not in self.draws:
            self.draws[key] = self.whole.uniform(name, (self.total, *shape[1:]) if rows else shape)
        draw = self.draws[key]
        return draw[self.start : self.start + shape[0]] if rows else draw


class LossScale:
    """The factor that keeps float16 gradients from vanishing, on the device.

    Halved by a gradient that is not finite, whose step is skipped, and doubled after a long row of
    finite ones (Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.2).

    Args:
        device: where the numbers are.
        start: first factor.
        patience: finite steps in a row before the factor grows.
    """

    LEAST = 1.0

    def __init__(
        self, device: torch.device, start: float = 2.0**16, patience: float = 2000.0
    ) -> None:
        self.scale = torch.tensor(start, device=device)
        self.row = torch.zeros((), device=device)
        self.skipped = torch.zeros((), device=device)
        self.patience = patience

    def update(self, bad: Tensor) -> None:
        """React to a step; `bad` is whether its gradient was not finite."""
        row = torch.where(bad, 0.0, self.row + 1)
        grown = torch.where(row >= self.patience, self.scale * 2, self.scale)
        self.scale = torch.where(bad, (self.scale / 2).clamp_min(self.LEAST), grown)
        self.row = torch.where(row >= self.patience, 0.0, row)
        self.skipped = self.skipped + bad.float()

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs."""
        return {f"fp16/{name}": getattr(self, name) for name in ("scale", "row", "skipped")}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        for name in ("scale", "row", "skipped"):
            if f"fp16/{name}" in tensors:
                setattr(self, name, tensors[f"fp16/{name}"].to(self.scale.device, copy=True))


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """Return the seed of a step's randomness, so that a resumed run needs no random state.

    Args:
        seed: seed of the run.
        step: number of the step.
        stream: which of several independent sources.
    """
    mixed = seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB
    mixed &= 2**64 - 1
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    return (mixed ^ (mixed >> 27)) % (2**63)


def split(batch: Batch, num_parts: int) -> list[Batch]:
    """Cut a batch into micro-batches of (almost) equal size, in order."""
    given = {f.name: v for f in fields(batch) if (v := getattr(batch, f.name)) is not None}
    parts = {name: value.tensor_split(num_parts) for name, value in given.items()}
    return [replace(batch, **{k: v[i] for k, v in parts.items()}) for i in range(num_parts)]


def block_lists(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every transformer block with its path: what compiling, sharding and so on work on."""
    for name, child in module.named_modules():
        if isinstance(child, nn.ModuleList) and name.rsplit(".", 1)[-1] == "blocks":
            yield from ((f"{name}.{place}", block) for place, block in enumerate(child))


def compile_blocks(module: nn.Module) -> None:
    """Compile every transformer block in place; equal blocks share one compilation.

    What surrounds them (masks, draws from generators) stays as it is, and so do all names.
    """
    for _, block in block_lists(module):
        block.compile(dynamic=False)


def recompute_blocks(module: nn.Module) -> None:
    """Let every transformer block in place forget what it computed until backward needs it.

    See `checkpointed`.
    """
    for _, block in block_lists(module):
        block.forward = partial(_recomputed, block.forward, block)


def _recomputed(forward, block: nn.Module, *args, **kwargs):
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return checkpointed(forward, *args, **kwargs)
