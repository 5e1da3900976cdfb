"""The DeepSpeed engine: moments, gradients or weights are sharded over the processes (ZeRO).

DeepSpeed's files are never the record of a run, and none of its kernels is used, so that neither
a compiler nor one of its releases decides whether a run can go on. Its flat buffers are read and
written with its `safe_get_full_*` and `safe_set_full_*` functions; what those leave out is marked
below. Tried with DeepSpeed 0.19.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch, Progress
from ..noise import Noise
from .deepspeed_config import Sharding, deepspeed_config
from .distributed import join
from .engine_base import MOMENTS, Engine
from .engine_parts import Following, Losses, LossScale, block_lists
from .optim import set_lr


class _Casting(nn.Module):
    """What DeepSpeed takes for the model: its forward computes in the run's precision."""

    def __init__(self, engine: DeepSpeedEngine) -> None:
        super().__init__()
        self.model = engine.model
        self._arithmetic = engine.arithmetic

    def forward(self, batch: Batch, progress: Progress, noise: Noise) -> Losses:
        with self._arithmetic():
            return self.model(batch, progress, noise)


class DeepSpeedEngine(Engine):
    """An engine whose processes keep parts of what the plain one copies.

    Of the weights only the matrices of transformer blocks are sharded; what no gradient reaches (a
    teacher) stays whole, so that a moving average is the same number on every process.

    Args:
        sharding: what is sharded.
        options: see `Engine`.
    """

    def __init__(self, *args: Any, sharding: Sharding, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sharding = sharding
        self._ds: Any = None
        self._untrained = untrained(self.model)
        self._sharded: list[nn.Parameter] = []
        self._given: tuple[dict[str, dict[str, Tensor]], Tensor] | None = None
        self._norm = torch.zeros((), device=self.device)

    @property
    def zero(self) -> Any:
        """DeepSpeed's optimiser; at stage 0 it is torch's."""
        self._start()
        return self._ds.optimizer

    def whole(self) -> AbstractContextManager:
        """Return a context in which this process has all weights; all processes enter it."""
        self._start()
        if not self._sharded:
            return nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters(self._sharded)

    def state(self) -> dict[str, Tensor]:
        """Return everything that a step changes, by name; empty on all processes but the first.

        One parameter after the other is put together, so that no process holds all of them twice.
        """
        self._start()
        from deepspeed.utils import safe_get_full_optimizer_state

        tensors: dict[str, Tensor] = {}
        keep = self.ranks.first
        with self.whole():
            if keep:
                values = self.model.state_dict().items()
                tensors = {f"model/{n}": v.detach().to("cpu", copy=True) for n, v in values}
        updates = self._updates()
        for name, parameter in self.trained.items() if updates else ():
            for moment in MOMENTS:
                value: Any = (
                    self.optimizer.state[parameter][moment]
                    if self.sharding.stage == 0
                    else safe_get_full_optimizer_state(parameter, moment)
                )
                if keep:
                    shaped = value.detach().to("cpu", copy=True).view(self.shapes[name])
                    tensors[f"{moment}/{name}"] = shaped
        scale = {} if self.loss_scale is None else self.loss_scale.state()
        return tensors | {"updates": torch.tensor(updates)} | scale if keep else {}

    def load_state(self, tensors: Mapping[str, Tensor], source: object = "checkpoint") -> None:
        """Continue from what `state` returned, of any engine; before the first step.

        Raises:
            WeightsError: when the tensors belong to another architecture.
        """
        if self._ds is not None:
            raise RuntimeError("a state is loaded before the first step")
        model, moments = self._parts(tensors, source)
        self.model.load_state_dict(model)
        self._given = (moments, tensors["updates"]) if float(tensors["updates"]) else None

    def _start(self) -> None:
        """Hand the model over to DeepSpeed, which moves weights into its buffers."""
        if self._ds is not None:
            return
        self.shapes = {name: tuple(p.shape) for name, p in self.trained.items()}
        config = deepspeed_config(
            self.optim, self.sharding, batch_size=self.batch_size, world=self.ranks.world
        )
        set_lr(self.optimizer, 0.0)  # ZeRO-3 makes a step with gradients of zero to get its buffers
        deepspeed = library(self)
        with hiding(self._untrained):
            self._ds, *_ = deepspeed.initialize(
                model=_Casting(self), optimizer=self.optimizer, config=config
            )
        if self.sharding.stage == 0:
            self.optimizer.register_step_pre_hook(self._guard)
        elif self.sharding.stage == 3:
            with hiding(self._untrained):
                self._shard_matrices_only()
        self._set_moments()

    def _shard_matrices_only(self) -> None:
        """Let ZeRO-3 gather the matrices of blocks when they are called, and keep the rest whole.

        Its hooks find the moment to gather weights by looking for tensors in what modules take and
        return, and it expects the same order of modules in every step. Many modules of ours
        exchange richer values, and a curriculum changes the order; a linear layer does neither.
        """
        offload = self.zero.parameter_offload
        offload._remove_module_hooks()
        if not offload.param_coordinator.is_invalid_trace():
            offload.param_coordinator._invalidate_trace()
        for number, part in enumerate(matrices(self.model)):
            offload._register_deepspeed_module(part, [number])
            self._sharded += part.parameters()
        sharded = {id(p) for p in self._sharded}
        kept = [p for p in self._ds.module.parameters() if hasattr(p, "ds_id")]
        kept = [p for p in kept if id(p) not in sharded]
        for parameter in kept:
            parameter.ds_persist = True
        self.zero.persistent_parameters.extend(kept)
        if kept:
            kept[0].all_gather(kept)

    def _flat(self) -> list[Tensor]:
        """Return the flat master weights that torch's optimiser works on."""
        if self.sharding.stage == 3:
            return list(self.zero.fp32_partitioned_groups_flat)
        return list(self.zero.single_partition_of_fp32_groups)

    def _slots(self) -> list[dict[str, Tensor]]:
        keys = self.trained.values() if self.sharding.stage == 0 else self._flat()
        return [slots for key in keys if (slots := self.optimizer.state.get(key))]

    def _updates(self) -> float:
        return max((float(slots["step"]) for slots in self._slots()), default=0.0)

    def _set_moments(self) -> None:
        """Give the optimiser the moments that a state brought, or none."""
        moments, updates = self._given or ({m: {} for m in MOMENTS}, torch.zeros(()))
        self._given = None
        if self.sharding.stage == 0 and not float(updates):
            return
        for key in self.trained.values() if self.sharding.stage == 0 else self._flat():
            slots = self.optimizer.state[key]
            if not slots:  # ZeRO-3 has made them already, with its step of zero gradients
                slots |= {moment: torch.zeros_like(key) for moment in MOMENTS}
                slots["step"] = torch.zeros((), device=key.device)
            slots["step"].fill_(float(updates))
        if self.sharding.stage in (1, 2):
            # Links parameters and buffers; DeepSpeed would do it after the first of several groups
            # was updated, and miss the others.
            self.zero._lazy_init_hp_params_optimizer_state()
        from deepspeed.utils import safe_set_full_optimizer_state

        for moment in MOMENTS:
            for name, value in moments[moment].items():
                parameter, value = self.trained[name], value.to(self.device)
                if self.sharding.stage == 0:
                    self.optimizer.state[parameter][moment].copy_(value)
                else:
                    safe_set_full_optimizer_state(parameter, value, moment)

    def _begin(self) -> None:
        self._start()
        if self.loss_scale is not None:
            self.zero.override_loss_scale(float(self.loss_scale.scale))

    def _forward(self, batch: Batch, progress: Progress, noise: Noise) -> Losses:
        return self._ds(batch, progress, noise)

    def _backward(self, loss: Tensor, *, last: bool) -> None:
        self._ds.set_gradient_accumulation_boundary(last)
        self._ds.backward(loss, scale_wrt_gas=False)

    def _guard(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Clip at stage 0 and keep AdamW from a step that is not finite."""
        del args, kwargs
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        self._norm = torch.nn.utils.get_total_norm(gradients)
        if self.optim.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(
                self.trained.values(), self.optim.clip_grad, self._norm
            )
        optimizer.grad_scale, optimizer.found_inf = None, (~torch.isfinite(self._norm)).float()

    def _update(self, lr: float, loss: Tensor, ids: Tensor, terms: dict[str, Tensor]) -> Tensor:
        if not bool(torch.isfinite(loss)):
            self._raise(ids, terms, late=False)
        set_lr(self.optimizer, lr)
        with self.ranks.answering(), hiding(self._untrained):
            self._ds.step()
        if self.sharding.stage:
            self._norm = torch.as_tensor(self._ds.get_global_grad_norm(), device=self.device)
        bad = not bool(torch.isfinite(self._norm))
        if self.loss_scale is not None:
            least = float(self.loss_scale.scale) <= LossScale.LEAST
            self.loss_scale.update(torch.tensor(bad, device=self.device))
            bad = bad and least
        if bad:
            self._raise(ids, terms, late=False)
        return self._norm

    def _follow(self, progress: Progress) -> None:
        if isinstance(self.model, Following):
            with self.whole() if self._untrained else nullcontext():
                self.model.after_step(progress)


def matrices(model: nn.Module) -> Iterator[nn.Linear]:
    """Yield what ZeRO-3 shards: the linear layers inside transformer blocks.

    Left out are those of a module that has parameters of its own beside them, such as an attention
    with separate biases: it may use their weights without calling them.
    """
    seen: set[int] = set()
    for _, block in block_lists(model):
        for owner in block.modules():
            for part in owner.children() if not owner._parameters else ():
                if isinstance(part, nn.Linear) and id(part) not in seen:
                    seen.add(id(part))
                    yield part


def untrained(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Return the largest parts that have weights but none that is trained: (owner, name, part)."""
    found: list[tuple[nn.Module, str, nn.Module]] = []
    for name, part in model.named_children():
        wanted = [p.requires_grad for p in part.parameters()]
        if wanted and not any(wanted):
            found.append((model, name, part))
        else:
            found += untrained(part)
    return found


@contextmanager
def hiding(parts: list[tuple[nn.Module, str, nn.Module]]) -> Iterator[None]:
    """Take parts out of a model for a while, so that they are neither sharded nor looked for."""
    for owner, name, _ in parts:
        owner._modules[name] = None
    try:
        yield
    finally:
        for owner, name, part in parts:
            owner._modules[name] = part


def library(engine: Engine) -> Any:
    """Import DeepSpeed for the engine's device and connect it to the other processes.

    On a CPU its own all-reduce through shared memory is left out: it is compiled for a minute, it
    leaves names in shared memory behind when a process is killed, and gloo does the same work.
    """
    os.environ.setdefault("DS_ACCELERATOR", engine.device.type)
    os.environ.setdefault("LOCAL_RANK", str(engine.ranks.local))
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel("ERROR")  # it warns of richer values than tensors, see _shard_matrices_only
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    join(engine.ranks, engine.device, alone_too=True)
    backend = "nccl" if engine.device.type == "cuda" else "gloo"
    deepspeed.init_distributed(backend, dist_init_required=False)
    return deepspeed
