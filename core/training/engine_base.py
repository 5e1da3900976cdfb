"""The interface of engines, and the step that all of them make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..batch import Batch, Progress
from ..checkpoints.model_dir import check_fit
from ..errors import WeightsError
from ..noise import Noise
from .distributed import ALONE, Ranks
from .engine_parts import (
    Following,
    Losses,
    LossScale,
    NonFiniteLossError,
    Precision,
    SharedNoise,
    StepResult,
    Trainable,
    arithmetic,
    compile_blocks,
    recompute_blocks,
)
from .optim import OptimConfig, adamw, lr_at, resolved_lr

MOMENTS = ("exp_avg", "exp_avg_sq")


class Engine(ABC):
    """Trains a model: float32 weights, optional half-precision arithmetic, float32 losses.

    Args:
        model: what is trained, a `Trainable` such as a pre-training method; moved to the device.
        optim: optimiser and schedule.
        batch_size: samples per update, all micro-batches and processes together.
        num_epochs: length of the run, for the schedule.
        lr_factor: the model's factor in the learning-rate rule.
        device: where to train.
        precision: arithmetic of the forward pass.
        compile: compile the transformer blocks.
        recompute: forget activations of transformer blocks until backward needs them.
        ranks: the processes that share every batch.
    """

    def __init__(
        self,
        model: nn.Module,
        optim: OptimConfig,
        *,
        batch_size: int,
        num_epochs: int,
        lr_factor: float = 1.0,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        compile: bool = False,
        recompute: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.device, self.ranks = torch.device(device), ranks
        self.model = model.to(self.device).train()
        self.optim, self.num_epochs = optim, num_epochs
        self.precision: Precision = precision
        self.batch_size = batch_size
        self.peak_lr = resolved_lr(optim, batch_size, lr_factor)
        self.optimizer = adamw(self.model, optim)
        groups = self.optimizer.param_groups
        self.trained: dict[str, nn.Parameter] = {
            name: parameter
            for group in groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        }
        self.loss_scale = LossScale(self.device) if precision == "fp16" else None
        if recompute:
            recompute_blocks(self.model)
        if compile:
            compile_blocks(self.model)

    def lr(self, progress: Progress) -> float:
        """Return the learning rate at a point of the run, of a group with scale 1."""
        return lr_at(self.optim, progress.epoch, self.num_epochs, self.peak_lr)

    def step(
        self,
        batches: Sequence[Batch],
        progress: Progress,
        noise: Noise,
        sample_weight: Float[Tensor, " b"] | None = None,
    ) -> StepResult:
        """Make one update from micro-batches; the result does not depend on how they are cut.

        Args:
            batches: this process's share of the batch, on the engine's device.
            progress: where the run stands before the step.
            noise: randomness of the whole step, the same on every process.
            sample_weight: factor of each sample's loss, averaging to one over an epoch.

        Raises:
            NonFiniteLossError: when loss or gradient is not finite. The weights are not changed by
                such a step. On a GPU it is raised one step later, so that nothing waits.
            RankLostError: when another process has gone.
        """
        self._begin()
        ids = torch.cat([batch.ids for batch in batches])
        own, start = len(ids), 0
        shared = SharedNoise(noise, own * self.ranks.world)
        loss = torch.zeros((), device=self.device)
        sums: dict[str, Tensor] = {}
        per_sample = []
        for batch in batches:
            size = len(batch.ids)
            noise_rows = shared.at(self.ranks.rank * own + start)
            with self.arithmetic():
                output = self._forward(batch, progress, noise_rows)
            weighted = output.per_sample
            if sample_weight is not None:
                weighted = weighted * sample_weight[start : start + size]
            start += size
            part = weighted.sum() / own
            self._backward(part, last=start == own)
            loss += part.detach()
            for name, term in output.terms.items():
                sums[name] = sums.get(name, 0.0) + term.detach() * (size / own)
            per_sample.append(output.per_sample.detach())
        values = self.ranks.mean(torch.stack([loss, *(v.float() for v in sums.values())]))
        loss, terms = values[0], dict(zip(sums, values[1:].unbind(), strict=True))
        lr = self.lr(progress)
        grad_norm = self._update(lr, loss, ids, terms)
        self._average_statistics()
        self._follow(progress)
        return StepResult(loss, terms, lr, grad_norm, torch.cat(per_sample))

    def arithmetic(self) -> AbstractContextManager:
        """Return the context in which the model computes."""
        return arithmetic(self.device, self.precision)

    def check(self) -> None:  # noqa: B027 - engines that wait in every step have nothing to check
        """Wait for the last step and raise NonFiniteLossError if it went wrong."""

    def whole(self) -> AbstractContextManager:
        """Return a context in which this process has all weights; all processes enter it."""
        return nullcontext()

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return everything that a step changes, by name: `model/`, `exp_avg/`, `exp_avg_sq/`.

        `updates` holds how many updates AdamW has made. All processes call it; what processes
        other than the first get may be empty. The same whatever the engine and their number.
        """

    @abstractmethod
    def load_state(self, tensors: Mapping[str, Tensor], source: object = "checkpoint") -> None:
        """Continue from what `state` returned, of any engine.

        Raises:
            WeightsError: when the tensors belong to another architecture.
        """

    @abstractmethod
    def _begin(self) -> None:
        """Forget the last step's gradients."""

    @abstractmethod
    def _backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of a micro-batch."""

    @abstractmethod
    def _update(self, lr: float, loss: Tensor, ids: Tensor, terms: dict[str, Tensor]) -> Tensor:
        """Change the weights and return the gradient's norm, unless something is not finite."""

    def _forward(self, batch: Batch, progress: Progress, noise: Noise) -> Losses:
        trainable: Trainable = self.model
        return trainable(batch, progress, noise)

    def _follow(self, progress: Progress) -> None:
        if isinstance(self.model, Following):
            self.model.after_step(progress)

    def _average_statistics(self) -> None:
        """Give running statistics of batch norms, which each process saw a part of, one value."""
        if self.ranks.world == 1:
            return
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm)]
        found = [t for m in norms for t in (m.running_mean, m.running_var) if t is not None]
        for value in found:
            self.ranks.mean(value)

    def _parts(
        self, tensors: Mapping[str, Tensor], source: object
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """Return the model's state and each moment by parameter, after checking that all fit."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, **{m: {} for m in MOMENTS}}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            if part in parts and name:
                parts[part][name] = value
        model = parts.pop("model")
        check_fit(model, self.model.state_dict(), source)
        for moment, values in parts.items():
            for name, value in values.items():
                if name not in self.trained or self.trained[name].shape != value.shape:
                    raise WeightsError(source, f"{moment}/{name} fits nothing", "start a new run")
        if set(parts[MOMENTS[0]]) != set(parts[MOMENTS[1]]) or "updates" not in tensors:
            raise WeightsError(source, "lacks moments of the optimiser", "start a new run")
        if self.loss_scale is not None:
            self.loss_scale.load_state(tensors)
        return model, parts

    def _raise(self, ids: Tensor, terms: Mapping[str, Tensor], late: bool) -> None:
        values = {name: float(value) for name, value in terms.items()}
        raise NonFiniteLossError(ids.cpu(), values, late)
