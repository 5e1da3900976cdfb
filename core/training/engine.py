"""The plain engine: torch alone, on a CPU or a GPU per process, with whole weights on each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .engine_base import MOMENTS, Engine
from .engine_parts import (
    Following,
    Losses,
    LossScale,
    NonFiniteLossError,
    Precision,
    SharedNoise,
    StepResult,
    Trainable,
    compile_blocks,
    recompute_blocks,
    split,
    step_seed,
)
from .optim import set_lr

__all__ = [
    "Engine",
    "Following",
    "LossScale",
    "Losses",
    "NonFiniteLossError",
    "PlainEngine",
    "Precision",
    "SharedNoise",
    "StepResult",
    "Trainable",
    "compile_blocks",
    "recompute_blocks",
    "split",
    "step_seed",
]

_BUCKET = 2**24  # numbers whose gradients are sent at once: 64 MB


class PlainEngine(Engine):
    """An engine that keeps weights and moments whole on each process and averages gradients."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unchecked: tuple[Tensor, dict[str, Tensor]] | None = None
        # Whether a step has gone wrong; from then on nothing moves until someone has looked.
        self._broken = torch.zeros((), dtype=torch.bool, device=self.device)

    def check(self) -> None:
        """Wait for the last step and raise NonFiniteLossError if it went wrong."""
        self._check(late=True)

    def _check(self, late: bool) -> None:
        if self._unchecked is None:
            return
        (ids, terms), self._unchecked = self._unchecked, None
        if bool(self._broken):
            self._broken = torch.zeros_like(self._broken)
            self._raise(ids, terms, late)

    def _begin(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def _backward(self, loss: Tensor, *, last: bool) -> None:
        del last
        (loss if self.loss_scale is None else loss * self.loss_scale.scale).backward()

    def _update(self, lr: float, loss: Tensor, ids: Tensor, terms: dict[str, Tensor]) -> Tensor:
        self._average_gradients()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        scale = None if self.loss_scale is None else self.loss_scale.scale
        if scale is not None:
            norm = norm / scale
        if self.optim.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(
                self.model.parameters(), self.optim.clip_grad, norm
            )
        bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
        broken = self._broken | bad
        if self.loss_scale is not None:
            # A gradient that overflows asks for a smaller scale; only a loss that does is an error.
            hopeless = ~torch.isfinite(loss) | (bad & (self.loss_scale.scale <= LossScale.LEAST))
            broken = self._broken | hopeless
            self.loss_scale.update(bad)
        set_lr(self.optimizer, lr)
        # The fused update leaves weights and moments alone where this is one, on the device, so
        # that the state before a bad step survives without a wait (torch's own loss scaler asks
        # for it in the same way).
        optimizer: Any = self.optimizer
        optimizer.grad_scale, optimizer.found_inf = scale, (bad | broken).float()
        self.optimizer.step()
        late = self.device.type != "cpu"
        if late:
            self._check(late)
        self._broken, self._unchecked = broken, (ids, terms)
        if not late:
            self._check(late)
        return norm

    def _average_gradients(self) -> None:
        """Replace gradients by their mean over all processes, some buckets after the other."""
        if self.ranks.world == 1:
            return
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        bucket: list[Tensor] = []
        for place, gradient in enumerate(gradients):
            bucket.append(gradient)
            full = sum(part.numel() for part in bucket) >= _BUCKET
            if full or place == len(gradients) - 1:
                flat = self.ranks.mean(torch.cat([part.flatten() for part in bucket]))
                for part, mean in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                    part.copy_(mean.view_as(part))
                bucket = []

    def state(self) -> dict[str, Tensor]:
        """Return everything that a step changes, by name; see `Engine.state`."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        updates = torch.zeros(())
        for name, parameter in self.trained.items():
            slots = self.optimizer.state.get(parameter)
            if slots:
                tensors |= {f"{moment}/{name}": slots[moment] for moment in MOMENTS}
                updates = slots["step"]
        scale = {} if self.loss_scale is None else self.loss_scale.state()
        return tensors | {"updates": updates} | scale

    def load_state(self, tensors: Mapping[str, Tensor], source: object = "checkpoint") -> None:
        """Continue from what `state` returned, of any engine.

        Raises:
            WeightsError: when the tensors belong to another architecture.
        """
        model, moments = self._parts(tensors, source)
        self.model.load_state_dict(model)
        self.optimizer.state.clear()
        if not float(tensors["updates"]):
            return  # moments of zero are those of an optimiser that has not begun
        for name in moments[MOMENTS[0]]:
            slots = {m: moments[m][name].to(self.device, copy=True) for m in MOMENTS}
            # AdamW keeps the count of a fused update where the parameter is.
            slots["step"] = tensors["updates"].to(self.device, torch.float32, copy=True)
            self.optimizer.state[self.trained[name]] = slots
