"""AdamW as masked image modeling uses it: parameter groups and the linear learning-rate rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..encoders.contract import Encoder
from ..errors import UsageError
from .schedules import cosine_with_warmup, steps_with_warmup


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay."""

    base_lr: float = 1.5e-4
    """Learning rate per 256 samples; the rate used is base_lr * batch_size / 256 (times the
    method's own factor) and is printed at the start."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the two moments."""
    weight_decay: float = 0.05
    """Decoupled weight decay; never on biases, norms and other 1-D parameters."""
    warmup_epochs: float = 40.0
    """Epochs in which the learning rate rises from zero."""
    min_lr: float = 0.0
    """Learning rate at the end of the run."""
    warmup_lr: float = 0.0
    """Learning rate at the start of the warm-up."""
    step_epochs: tuple[float, ...] = ()
    """Epochs at which the learning rate is multiplied by `step_factor`; none for a cosine."""
    step_factor: float = 0.1
    """See `step_epochs`."""
    no_decay: tuple[str, ...] = ()
    """Parts of the names of further parameters that weight decay leaves alone."""
    clip_grad: float | None = None
    """Largest norm of the whole gradient; None does not clip."""
    layer_decay: float | None = None
    """Factor on the learning rate per encoder block below the top; None for none."""


def check_optim(config: OptimConfig, num_epochs: int, where: str = "optim") -> None:
    """Raise UsageError for a value that cannot train, naming field, value and fix."""
    rules = (
        ("base_lr", config.base_lr > 0, "must be positive", "use about 1.5e-4"),
        ("weight_decay", config.weight_decay >= 0, "must not be negative", "use 0.05"),
        ("min_lr", config.min_lr >= 0, "must not be negative", "use 0"),
        ("betas", all(0 <= b < 1 for b in config.betas), "must lie in [0, 1)", "use 0.9 0.95"),
        (
            "warmup_epochs",
            0 <= config.warmup_epochs < num_epochs,
            f"must lie in [0, {num_epochs}), the length of the run in epochs",
            f"use {round(num_epochs / 10, 2)}",
        ),
        ("warmup_lr", config.warmup_lr >= 0, "must not be negative", "use 0"),
        (
            "step_epochs",
            all(config.warmup_epochs <= epoch < num_epochs for epoch in config.step_epochs),
            f"must lie between the warm-up and the end of the run ({num_epochs} epochs)",
            f"use {round(num_epochs * 7 / 8, 2)}, or none for a cosine",
        ),
        ("step_factor", 0 < config.step_factor <= 1, "must lie in (0, 1]", "use 0.1"),
        (
            "clip_grad",
            config.clip_grad is None or config.clip_grad > 0,
            "must be positive",
            "use 1.0, or none to leave gradients alone",
        ),
        (
            "layer_decay",
            config.layer_decay is None or 0 < config.layer_decay <= 1,
            "must lie in (0, 1]",
            "use 0.75, or none for pre-training",
        ),
    )
    for name, fine, reason, remedy in rules:
        if not fine:
            raise UsageError(f"{where}.{name} {getattr(config, name)}", reason, remedy)


def lr_at(config: OptimConfig, epoch: float, num_epochs: float, peak: float) -> float:
    """Return the learning rate at a point of a run.

    Args:
        config: shape of the schedule.
        epoch: where the run stands, fractional.
        num_epochs: its length.
        peak: rate after the warm-up, see `resolved_lr`.
    """
    warmup, start = config.warmup_epochs, config.warmup_lr
    if config.step_epochs:
        return steps_with_warmup(epoch, warmup, peak, config.step_epochs, config.step_factor, start)
    return cosine_with_warmup(epoch, num_epochs, warmup, peak, config.min_lr, start)


def resolved_lr(config: OptimConfig, batch_size: int, factor: float = 1.0) -> float:
    """Return the peak learning rate: base_lr * batch_size / 256 * factor.

    Args:
        config: holds the rate per 256 samples.
        batch_size: samples per update, over all ranks and accumulated parts.
        factor: the method's own factor (selectivemae.md, recipe: r / m).
    """
    return config.base_lr * batch_size / 256 * factor


def encoder_of(module: nn.Module) -> tuple[str, Encoder] | None:
    """Return the encoder in a module and the leading part of its parameters' names, or None.

    Of several, such as that of a teacher, the outermost and first one counts.
    """
    for path, part in module.named_modules():
        if isinstance(part, Encoder):
            return f"{path}." if path else "", part
    return None


def param_groups(
    module: nn.Module,
    weight_decay: float,
    layer_decay: float | None = None,
    no_decay: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Group the trainable parameters by weight decay and learning-rate scale.

    Parameters of at most one axis are not decayed; class and mask tokens are 3-D and are
    (mae.md, recipe). The scale is layer_decay to the power of the layers above, which the encoder
    knows (`Encoder.layer_of`); what is no part of it has none above.

    Args:
        module: an encoder, or a module that holds one.
        weight_decay: of the parameters that are decayed.
        layer_decay: factor per layer; None for the same rate everywhere.
        no_decay: parts of the names of further parameters that are not decayed.

    Returns:
        dictionaries for a torch optimiser with the keys `params`, `names`, `weight_decay` and
        `lr_scale`.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    found = None if layer_decay is None else encoder_of(module)
    groups: dict[tuple[float, float], dict[str, list]] = defaultdict(
        lambda: {"params": [], "names": []}
    )
    for name, parameter in named:
        scale = 1.0
        if layer_decay is not None and found is not None and name.startswith(found[0]):
            prefix, encoder = found
            above = len(encoder.parts_in_order()) - encoder.layer_of(name.removeprefix(prefix))
            scale = layer_decay**above
        spared = parameter.ndim <= 1 or any(part in name for part in no_decay)
        group = groups[0.0 if spared else weight_decay, scale]
        group["params"].append(parameter)
        group["names"].append(name)
    return [
        {**group, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), group in groups.items()
    ]


def adamw(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return the optimiser of a module's trainable parameters.

    The fused update reads every number once: on a CPU it is several times faster than the others.
    """
    groups = param_groups(module, config.weight_decay, config.layer_decay, config.no_decay)
    return torch.optim.AdamW(groups, lr=config.base_lr, betas=config.betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its learning rate: lr times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
