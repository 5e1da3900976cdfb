"""Training of a tiny method by any engine and number of processes, from any state.

    torchrun --nproc-per-node 2 tests/tools/rank_cases.py FOLDER

runs all cases that need two processes and writes FOLDER/cases.json; test_distributed.py starts it
and compares.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.run_state import read_state, save_state
from mimkit.core.grid import Grid
from mimkit.core.methods import MethodConfig, build
from mimkit.core.noise import Noise
from mimkit.core.training.deepspeed_config import Sharding, Stage
from mimkit.core.training.distributed import ALONE, Ranks, end_process, join, launched, leave
from mimkit.core.training.engine import (
    Engine,
    NonFiniteLossError,
    PlainEngine,
    Precision,
    split,
    step_seed,
)
from mimkit.core.training.optim import OptimConfig
from mimkit.pipelines.recipe import load_recipe

STEPS, HALF, BATCH = 4, 2, 8
OPTIM = OptimConfig(base_lr=0.03, warmup_epochs=1, clip_grad=1.0, layer_decay=0.8)
GRID = Grid.for_image((16, 16), 4, 2)


def method_config(name: str) -> MethodConfig:
    """Return a recipe's method in the smallest size that still has everything."""
    config: Any = load_recipe(name).method
    encoder = replace(config.encoder, patch_size=4, embed_dim=16, depth=2, num_heads=2)
    decoder = replace(config.decoder, dim=16, depth=1, num_heads=2)
    return replace(config, encoder=encoder, decoder=decoder)


SELECTIVE, WITH_TEACHER = "satellite/selectivemae-tiny", "hpm/tiny"


def make(
    kind: str,
    ranks: Ranks = ALONE,
    method: str = SELECTIVE,
    precision: Precision = "fp32",
    recompute: bool = False,
) -> Engine:
    """Return an engine: "plain", "zero0" to "zero3", or one of these with "+offload"."""
    torch.manual_seed(0)
    model = build(method_config(method), GRID)
    options: dict[str, Any] = {"batch_size": BATCH, "num_epochs": 4, "ranks": ranks}
    options |= {"precision": precision, "recompute": recompute}
    if kind == "plain":
        return PlainEngine(model, OPTIM, **options)
    from mimkit.core.training.engine_deepspeed import DeepSpeedEngine

    stage: Stage = {"0": 0, "1": 1, "2": 2, "3": 3}[kind[4]]  # type: ignore[assignment]
    sharding = Sharding(stage=stage, offload=kind.endswith("+offload"))
    return DeepSpeedEngine(model, OPTIM, sharding=sharding, **options)


def batch_of(step: int) -> Batch:
    """Return the whole batch of a step."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 2, 16, 16, generator=generator)
    valid = torch.rand(BATCH, 16, 16, generator=generator) > 0.1
    return Batch(images, valid, torch.arange(BATCH) + 10 * step)


def share(batch: Batch, ranks: Ranks) -> Batch:
    """Return one process's part of a batch."""
    rows = ranks.share(BATCH)
    assert batch.valid is not None
    return Batch(batch.images[rows], batch.valid[rows], batch.ids[rows])


def train(engine: Engine, steps: range, parts: int = 2) -> list[float]:
    """Make some updates and return their losses."""
    losses = []
    for step in steps:
        micro = split(share(batch_of(step), engine.ranks), parts)
        result = engine.step(micro, Progress(step / 2, 4), Noise(step_seed(3, step)))
        losses.append(float(result.loss))
    return losses


def keep(engine: Engine, folder: Path, name: str) -> None:
    """Save the state of an engine under a name."""
    tensors = engine.state()
    if engine.ranks.first:
        save_state(folder / name, HALF, tensors, {"name": name})
    engine.ranks.most([0])  # wait for the file


def go_on(engine: Engine, folder: Path, name: str) -> list[float]:
    """Continue from a saved state and return the losses of the rest of the run."""
    state = read_state(folder / name / f"step-{HALF:08d}")
    assert state is not None, name
    engine.load_state(state.tensors, state.path)
    return train(engine, range(HALF, STEPS))


def checksum(engine: Engine) -> dict[str, float]:
    """Return sums of a state's tensors by group, and those of the teacher alone."""
    tensors = engine.state()
    sums: dict[str, float] = {}
    for name, value in tensors.items():
        group = name.partition("/")[0]
        sums[group] = sums.get(group, 0.0) + float(value.double().abs().sum())
        if "teacher" in name:
            sums["teacher"] = sums.get("teacher", 0.0) + float(value.double().abs().sum())
    return sums


def two_process_cases(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Run everything that two processes do."""
    found: dict[str, Any] = {}
    kinds = ["plain", "zero0", "zero1", "zero2", "zero3", "zero2+offload", "zero3+offload"]
    for kind in kinds:
        engine = make(kind, ranks)
        losses = train(engine, range(HALF))
        keep(engine, folder, kind)
        found[kind] = losses + train(engine, range(HALF, STEPS))
        if kind == "zero3":
            found["sharded"] = sharded_share(engine)
    for name, kind in (
        ("plain", "plain"), ("zero1", "zero1"), ("zero3", "zero3"), ("zero1", "zero3"),
        ("plain", "zero2"), ("zero3", "plain"), ("alone", "plain"), ("alone", "zero1"),
    ):  # fmt: skip
        found[f"{name} -> {kind}"] = go_on(make(kind, ranks), folder, name)
    for kind in ("plain", "zero1", "zero3"):
        engine = make(kind, ranks, WITH_TEACHER, recompute=True)
        found[f"teacher {kind}"] = train(engine, range(STEPS)), checksum(engine)
    precisions: tuple[Precision, ...] = ("bf16", "fp16")
    for precision in precisions:
        for kind in ("plain", "zero2"):
            engine = make(kind, ranks, precision=precision)
            found[f"{precision} {kind}"] = train(engine, range(STEPS))
    found["not finite"] = {kind: broken(make(kind, ranks)) for kind in ("plain", "zero0", "zero2")}
    return found


def sharded_share(engine: Any) -> float:
    """Return the share of the weights that ZeRO-3 keeps only a part of, between steps."""
    absent = sum(p.ds_numel for p in engine.trained.values() if p.numel() == 0)
    return absent / sum(p.ds_numel for p in engine.trained.values())


def broken(engine: Engine) -> dict[str, Any]:
    """Spoil one sample of the second process after a good step; say what happened."""
    train(engine, range(1))
    before = {name: value.clone() for name, value in engine.state().items()}
    batch = batch_of(1)
    batch.images[-1] = float("inf")
    part = replace(share(batch, engine.ranks), valid=None)
    try:
        engine.step([part], Progress(0.5, 4), Noise(1))
    except NonFiniteLossError as error:
        after = engine.state()
        return {"ids": error.ids.tolist(), "same": same(before, after)}
    return {}


def same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    """Whether two states are equal to the bit."""
    return all(torch.equal(value, after[name]) for name, value in before.items())


def main(folder: Path) -> None:
    """Run the cases of this process."""
    ranks = launched()
    join(ranks, torch.device("cpu"), 120)
    found = two_process_cases(ranks, folder)
    if ranks.first:
        (folder / "cases.json").write_text(json.dumps(found))
    leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
    end_process(0)
