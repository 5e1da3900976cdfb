"""A training step of every method beside one of MAE with an equal encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm
from statistics import fmean

import torch

from ...core import flops
from ...core.encoders.clip_vit import ClipViTConfig
from ...core.errors import UserError
from ...core.method import Method
from ...core.methods import (
    METHODS,
    EncoderConfig,
    ITPNClipConfig,
    MAEConfig,
    MethodConfig,
    build,
    spec,
)
from ...core.methods.config import BASE, SMALL
from ...core.training.flops import training_flops
from ..progress import say
from ..recipe import load_recipe
from .compare import compare, number, workload
from .config import BenchmarkConfig
from .mae import READING
from .steps import Ours, Workload
from .table import Cell, Goal, Table

ENCODER, IMAGE_SIZE = SMALL, 128  # on a CPU; BASE and the size of `workload` on a GPU
LARGEST = 120_000_000  # parameters of an encoder that a CPU trains for a benchmark
STEP_GFLOP = 80.0  # of a training step on a CPU, which decides how many images it has
CLAIMS = {
    "localmim": "LocalMIM claims the accuracy of MAE in several times fewer epochs. That is not "
    "shown here: it takes accuracies after full trainings, and the publication states the cost of "
    "an epoch (0.7 GPU hours with ViT-B) without MAE's beside it. The row says what a step costs.",
    "selectivemae": "SelectiveMAE claims 2.1 times the throughput of MAE, with ViT-B.",
    "dmjd": "DMJD claims 101 hours where ConvMAE takes 300 (eight A100): 400 epochs of two views "
    "against 1600 of one. That is not shown here: ConvMAE is not part of the suite, so the row "
    "compares a step of two views with one view of an MAE.",
    "hi-end-mae": "Hi-End-MAE states no cost; the row says what its decoder saves.",
    "itpn-clip": "itpn-clip has a frozen teacher as large as CLIP's ViT-B/16, at random weights: "
    "its forward on whole images is part of the step.",
}
"""What the publications say about cost, and what has to be known of a row, by method."""
LEAST_FASTER = {"selectivemae": 2.0}


@dataclass(frozen=True)
class Trial:
    """What is timed together: methods, and the MAE that they are compared with.

    Attributes:
        base: MAE.
        sides: the others.
        work: what all of them work on.
    """

    base: Ours
    sides: tuple[Ours, ...]
    work: Workload


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Measure all methods of the table.

    Raises:
        UserError: when not one of them can be measured.
    """
    work = workload(config, device)
    encoder = BASE
    if device.type == "cpu":
        work, encoder = replace(work, image_size=IMAGE_SIZE), ENCODER
    trials, problems = make_trials(work, encoder)
    rows: list[dict[str, Cell]] = []
    faster: dict[str, float] = {}
    for trial in trials:
        found, speedups = run_trial(trial, config.seconds / len(trials))
        rows, faster = rows + found, faster | speedups
    goals = tuple(
        Goal(f"{name} at least {least:.0f} times as fast as MAE", f"{faster[name]:.2f}", met)
        for name, least in LEAST_FASTER.items()
        if name in faster
        for met in [faster[name] >= least]
    )
    notes = (
        f"{work.image_size} px, 3 channels, float32. Plain ViTs are {encoder.embed_dim} wide and "
        f"{encoder.depth} deep with patches of {encoder.patch_size} px, and each method has the "
        "decoder of its default configuration. Below such a group, and below every other encoder, "
        "stands the MAE that it is compared with: the same encoder, or a ViT 12 deep with patches "
        "of 16 px that takes nearest the same FLOP for a whole image. On a CPU, encoders of more "
        f"than {LARGEST / 1e6:.0f} M parameters give way to those of the method's tiny recipe.",
        "Tokens: computed by the encoder, predicted, in an image; of several views, of one view.",
        "The right column is by formula: ViT-B/16 and 224 px, over MAE's.",
        *(text for name, text in CLAIMS.items() if name in faster),
        *problems,
        *READING,
    )
    return Table("Methods: a training step beside MAE", tuple(rows), goals, notes)


def make_trials(work: Workload, encoder: EncoderConfig) -> tuple[list[Trial], list[str]]:
    """Return what is to be timed, and one line for each method that cannot be.

    Raises:
        UserError: when no method can.
    """
    groups: dict[MAEConfig, list[Ours]] = {}
    problems: list[str] = []
    for name in METHODS:
        try:
            config = sized(name, encoder, work)
            twin = mae_of(config, work)
            if name != "mae":
                num = max(2, multiple_of([config], work))
                Ours(name, config).build(replace(work, batch_size=num)).run()
        except UserError as error:
            problems.append(f"Not measured: {name} ({error})")
            say(problems[-1])
            continue
        group = groups.setdefault(twin, [])
        if name != "mae":
            group.append(Ours(name, config))
    trials = []
    for twin, sides in groups.items():
        if sides:
            trials.append(Trial(Ours("mae", twin), tuple(sides), fitted(twin, sides, work)))
    if not trials:
        raise UserError("benchmark methods", "finds no method to measure", "see the lines above")
    return trials, problems


def sized(name: str, encoder: EncoderConfig, work: Workload) -> MethodConfig:
    """Return a method's default configuration, its plain ViT as large as another one.

    Raises:
        UsageError: when its encoder is of another kind and too large for a CPU, and no small recipe
            of the method is known.
    """
    config: MethodConfig = spec(name).config()
    if isinstance(config, ITPNClipConfig):
        config = replace(config, teacher=ClipViTConfig())
    if not isinstance(config.encoder, EncoderConfig):
        on_cpu = torch.device(work.device).type == "cpu"
        large = on_cpu and num_parameters(config, work) > LARGEST
        return load_recipe(f"{name}/tiny").method if large else config
    token = config.encoder.class_token
    return replace(config, encoder=replace(encoder, class_token=token))


def num_parameters(config: MethodConfig, work: Workload) -> int:
    """Return the size of a method's encoder."""
    return sum(p.numel() for p in on_meta(config, work).encoder.parameters())


def mae_of(config: MethodConfig, work: Workload) -> MAEConfig:
    """Return MAE with the encoder of a method, or one that takes nearest the same FLOP."""
    if isinstance(config.encoder, EncoderConfig):
        return MAEConfig(encoder=replace(config.encoder, class_token=True))
    wanted, twin = whole_image_flops(config, work), EncoderConfig()
    grid = work.grid_of(twin.patch_size)

    def distance(num_heads: int) -> int:
        # The formula alone: building thirty networks takes longer than measuring one.
        width = 64 * num_heads
        blocks = twin.depth * flops.block(1 + grid.num_tokens, width, twin.mlp_ratio)
        return abs(flops.linear(grid.num_tokens, grid.patch_dim, width) + blocks - wanted)

    heads = min(range(1, 33), key=distance)
    return MAEConfig(encoder=replace(twin, embed_dim=64 * heads, num_heads=heads))


def on_meta(config: MethodConfig, work: Workload) -> Method:
    """Return a method that has shapes and no numbers."""
    with torch.device("meta"):
        return build(config, work.grid_of(config.encoder.patch_size))


def whole_image_flops(config: MethodConfig, work: Workload) -> int:
    """Return the FLOP of an encoder's forward when nothing is hidden."""
    method = on_meta(config, work)
    return method.encoder.forward_flops(method.grid.num_tokens)


def step_flops(config: MethodConfig, work: Workload) -> int:
    """Return the FLOP of a training step on one image."""
    return training_flops(on_meta(config, work)).training


def fitted(twin: MAEConfig, sides: list[Ours], work: Workload) -> Workload:
    """Return work with fewer images where a step would take too long on a CPU."""
    multiple = multiple_of([side.config for side in sides], work)
    if torch.device(work.device).type != "cpu":
        return replace(work, multiple=multiple)
    costs = [step_flops(config, work) for config in (twin, *(side.config for side in sides))]
    num = min(work.batch_size, int(STEP_GFLOP * 1e9 / fmean(costs)))
    return replace(work, batch_size=max(num // multiple, 1) * multiple, multiple=multiple)


def multiple_of(configs: Sequence[MethodConfig], work: Workload) -> int:
    """Return what the batch of a step has to be a multiple of, where images are mixed."""
    return lcm(*(on_meta(config, work).batch_multiple for config in configs))


def run_trial(trial: Trial, seconds: float) -> tuple[list[dict[str, Cell]], dict[str, float]]:
    """Measure a trial.

    Returns:
        a row for each method and one for MAE below them, and how many times as fast each is.
    """
    sides = (*trial.sides, trial.base)
    label = "methods, " + ", ".join(side.name for side in trial.sides)
    found, turns = compare(sides, trial.work, seconds, label)
    base_flops = number(found, len(sides) - 1, "GFLOP per image")
    rows = []
    for side, row in zip(sides, found, strict=True):
        other = side is not trial.base
        gflop, speedup = row["GFLOP per image"], row["times as fast"]
        assert isinstance(gflop, float)
        rows.append(
            described(side.config, trial.work)
            | {
                "s per step": row["s per step"],
                "times MAE's time": 1 / speedup if isinstance(speedup, float) else None,
                "GFLOP per image": gflop,
                "times MAE's GFLOP": gflop / base_flops if other else None,
                "kept for backward, MB": row["kept for backward, MB"],
                "peak memory, MB": row["peak memory, MB"],
                "times MAE's GFLOP at ViT-B": at_base(side.config) if other else None,
            }
        )
    return rows, {side.name: turns.speedup(side.name, trial.base.name) for side in trial.sides}


def described(config: MethodConfig, work: Workload) -> dict[str, Cell]:
    """Return what a method computes on."""
    method = on_meta(config, work)
    encoder, mask = method.encoder, method.mask
    tokens = f"{method.num_encoded}, {mask.num_predict}, {method.grid.num_tokens}"
    kind = f"{type(encoder).__name__} {encoder.embed_dim} x {encoder.depth}"
    return {
        "method": config.name,
        "encoder": kind,
        "tokens": tokens,
        "images": work.batch_size,
    }


def at_base(config: MethodConfig) -> float | None:
    """Return the GFLOP of a method with ViT-B/16 over those of MAE; None for other encoders."""
    if not isinstance(config.encoder, EncoderConfig):
        return None
    work = Workload()
    large = replace(config, encoder=replace(BASE, class_token=config.encoder.class_token))
    return step_flops(large, work) / step_flops(MAEConfig(encoder=BASE), work)
