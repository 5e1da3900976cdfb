"""DeepSpeed's own configuration, made from a recipe; nobody writes it by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import UsageError
from .engine_parts import Precision
from .optim import OptimConfig

Stage = Literal[0, 1, 2, 3]


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """What processes keep a part of instead of a copy (Rajbhandari et al., "ZeRO", SC 2020).

    Args:
        stage: 0 nothing, 1 moments and master weights, 2 gradients too, 3 weights of transformer
            blocks too.
        offload: keep moments and master weights in the memory of the CPU and update there.
    """

    stage: Stage = 1
    offload: bool = False


def check_sharding(sharding: Sharding, precision: Precision, compile: bool) -> None:
    """Raise UsageError for options that do not go together, naming both and the way out."""
    stage = f"efficiency.zero_stage {sharding.stage}"
    if sharding.offload and sharding.stage == 0:
        raise UsageError(
            stage, "has nothing that could be offloaded", "use --efficiency.zero-stage 1, 2 or 3"
        )
    if precision == "fp16" and sharding.stage == 0:
        remedy = "use --efficiency.zero-stage 1, or --efficiency.engine plain"
        raise UsageError(stage, "has no loss scaling, which fp16 needs", remedy)
    if compile and sharding.stage == 3:
        remedy = "leave --efficiency.compile out, or use stage 2"
        raise UsageError(stage, "gathers weights in hooks that compiled blocks do not run", remedy)


def deepspeed_config(
    optim: OptimConfig,
    sharding: Sharding,
    *,
    batch_size: int,
    world: int = 1,
) -> dict[str, Any]:
    """Return what `deepspeed.initialize` is given.

    Weights stay float32 and half precision is autocast, as in the plain engine, so that both
    engines compute the same; DeepSpeed's own bf16 and fp16 modes, which round the weights, are off.
    Accumulation is driven from outside, because micro-batches may differ in size: DeepSpeed is told
    of one micro-batch per step, and where the last one ends.

    Args:
        optim: for the largest gradient.
        sharding: what processes share.
        batch_size: samples per update over all processes.
        world: number of processes.
    """
    share = batch_size // world
    zero: dict[str, Any] = {
        "stage": sharding.stage,
        "contiguous_gradients": True,
        "overlap_comm": False,
        "allgather_bucket_size": 2**26,
        "reduce_bucket_size": 2**26,
    }
    if sharding.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    if sharding.stage == 3:
        # Only what lies inside blocks is sharded; the engine marks everything else as kept.
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 2**24}
    return {
        "train_batch_size": share * world,
        "train_micro_batch_size_per_gpu": share,
        "gradient_accumulation_steps": 1,
        # Stage 0 clips where it looks for numbers that are not finite, see the engine.
        "gradient_clipping": 0.0 if sharding.stage == 0 else optim.clip_grad or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW needs no compiler
        "bf16": {"enabled": False, "check_grad_overflow": True},
        "fp16": {"enabled": False},
        "torch_autocast": {"enabled": False},
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }
