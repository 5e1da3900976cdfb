"""The plain engine: one process, CPU or one GPU; forward, backward and update of one step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..batch import Batch, Progress
from ..checkpoints.model_dir import check_fit
from ..errors import UserError, WeightsError
from ..noise import Noise
from .optim import OptimConfig, adamw, lr_at, resolved_lr, set_lr

Precision = Literal["fp32", "bf16"]
MOMENTS = ("exp_avg", "exp_avg_sq")


class NonFiniteLossError(UserError):
    """A loss or gradient that is infinite or no number; the weights are those before the step.

    Args:
        ids: (b,) samples of the step.
        terms: loss of each head at that step.
    """

    def __init__(self, ids: Tensor, terms: Mapping[str, float]) -> None:
        values = ", ".join(f"{name} {value}" for name, value in terms.items())
        super().__init__(
            f"loss ({values})",
            "or its gradient is not finite",
            "look at the samples of this step, or start a new run with a lower --optim.base-lr",
        )
        self.ids, self.terms = ids, dict(terms)


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
        loss: what was minimised, float32.
        terms: loss of each head, unweighted.
        lr: peak-scaled learning rate of the step.
        grad_norm: norm of the whole gradient before clipping.
        per_sample: unweighted loss of each sample, in the order of the micro-batches.
    """

    loss: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    lr: float
    grad_norm: Float[Tensor, ""]
    per_sample: Float[Tensor, " b"]


class SharedNoise(Noise):
    """The rows of a step's draws that belong to one micro-batch.

    Draws are made once for the whole batch, so that cutting it into micro-batches changes nothing.
    Draws of one axis are shared by all samples; others have one row per sample.

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


class PlainEngine:
    """Trains a model in one process: float32 weights, optional bf16 arithmetic, float32 losses.

    Args:
        model: what is trained, a `Trainable` such as a pre-training method; moved to the device.
        optim: optimiser and schedule.
        batch_size: samples per update, all micro-batches together.
        num_epochs: length of the run, for the schedule.
        lr_factor: the model's factor in the learning-rate rule.
        device: where to train.
        precision: arithmetic of the forward pass.
        compile: compile the transformer blocks.
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
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).train()
        self.optim, self.num_epochs, self.precision = optim, num_epochs, precision
        self.peak_lr = resolved_lr(optim, batch_size, lr_factor)
        self.optimizer = adamw(self.model, optim)
        self._unchecked: tuple[Tensor, Tensor, dict[str, Tensor]] | None = None
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
            batches: micro-batches, on the engine's device.
            progress: where the run stands before the step.
            noise: randomness of the whole step.
            sample_weight: factor of each sample's loss, averaging to one over an epoch.

        Raises:
            NonFiniteLossError: when loss or gradient is not finite. The weights are not changed by
                such a step. On a GPU it is raised one step later, so that nothing waits.
        """
        self.optimizer.zero_grad(set_to_none=True)
        ids = torch.cat([batch.ids for batch in batches])
        total, start = len(ids), 0
        shared = SharedNoise(noise, total)
        loss = torch.zeros((), device=self.device)
        sums: dict[str, Tensor] = {}
        per_sample = []
        for batch in batches:
            size = len(batch.ids)
            with self._arithmetic():
                output = self._losses(batch, progress, shared.at(start))
            weighted = output.per_sample
            if sample_weight is not None:
                weighted = weighted * sample_weight[start : start + size]
            part = weighted.sum() / total
            part.backward()
            loss += part.detach()
            for name, term in output.terms.items():
                sums[name] = sums.get(name, 0.0) + term.detach() * (size / total)
            per_sample.append(output.per_sample.detach())
            start += size
        lr = self.lr(progress)
        grad_norm = self._update(lr, loss, ids, sums)
        if isinstance(self.model, Following):
            self.model.after_step(progress)
        return StepResult(loss, sums, lr, grad_norm, torch.cat(per_sample))

    def _losses(self, batch: Batch, progress: Progress, noise: Noise) -> Losses:
        trainable: Trainable = self.model
        return trainable(batch, progress, noise)

    def check(self) -> None:
        """Wait for the last step and raise NonFiniteLossError if it went wrong."""
        if self._unchecked is None:
            return
        (bad, ids, terms), self._unchecked = self._unchecked, None
        if bool(bad):
            raise NonFiniteLossError(ids.cpu(), {k: float(v) for k, v in terms.items()})

    def _update(self, lr: float, loss: Tensor, ids: Tensor, terms: dict[str, Tensor]) -> Tensor:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.optim.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(
                self.model.parameters(), self.optim.clip_grad, norm
            )
        bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
        set_lr(self.optimizer, lr)
        # The fused update leaves weights and moments alone where this is one, on the device, so
        # that the state before a bad step survives without a wait (torch's own loss scaler asks
        # for it in the same way).
        optimizer: Any = self.optimizer
        optimizer.grad_scale, optimizer.found_inf = None, bad.float()
        self.optimizer.step()
        late = self.device.type != "cpu"
        if late:
            self.check()
        self._unchecked = (bad, ids, terms)
        if not late:
            self.check()
        return norm

    def _arithmetic(self) -> AbstractContextManager:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def state(self) -> dict[str, Tensor]:
        """Return everything that a step changes, by name: `model/`, `exp_avg/`, `exp_avg_sq/`.

        `updates` holds how many updates AdamW has made.
        """
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        updates = torch.zeros(())
        for name, parameter in self._named_parameters():
            slots = self.optimizer.state.get(parameter)
            if slots:
                tensors |= {f"{moment}/{name}": slots[moment] for moment in MOMENTS}
                updates = slots["step"]
        return tensors | {"updates": updates}

    def load_state(self, tensors: Mapping[str, Tensor], source: object = "checkpoint") -> None:
        """Continue from what `state` returned.

        Raises:
            WeightsError: when the tensors belong to another architecture.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, **{m: {} for m in MOMENTS}}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            if part in parts and name:
                parts[part][name] = value
        check_fit(parts["model"], self.model.state_dict(), source)
        parameters = dict(self._named_parameters())
        for moment in MOMENTS:
            for name, value in parts[moment].items():
                if name not in parameters or parameters[name].shape != value.shape:
                    raise WeightsError(source, f"{moment}/{name} fits nothing", "start a new run")
        self.model.load_state_dict(parts["model"])
        self.optimizer.state.clear()
        for name in parts[MOMENTS[0]]:
            parameter = parameters[name]
            slots = {m: parts[m][name].to(self.device, copy=True) for m in MOMENTS}
            # AdamW keeps the count of a fused update where the parameter is.
            slots["step"] = tensors["updates"].to(self.device, torch.float32, copy=True)
            self.optimizer.state[parameter] = slots

    def _named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [
            (name, parameter)
            for group in self.optimizer.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        ]


def compile_blocks(module: nn.Module) -> None:
    """Compile every transformer block in place; equal blocks share one compilation.

    What surrounds them (masks, draws from generators) stays as it is, and so do all names.
    """
    for name, child in module.named_modules():
        if isinstance(child, nn.ModuleList) and name.rsplit(".", 1)[-1] == "blocks":
            for block in child:
                block.compile(dynamic=False)
