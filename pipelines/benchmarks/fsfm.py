"""A training step of FSFM beside the same losses with an encoder pass for each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from ...core.batch import Batch, Progress
from ...core.encoders.contract import Encoder
from ...core.method import HeadResult, Method, Output
from ...core.methods import DecoderConfig, FSFMConfig, build
from ...core.methods.config import SMALL
from ...core.noise import Noise
from ...core.objectives.subset import SubsetLoss
from ...core.training.flops import training_flops
from .compare import compare, workload
from .config import BenchmarkConfig
from .mae import READING
from .region_masks import face_maps
from .steps import Side, Step, Workload, engine_step, tiny
from .table import Goal, Table

METHOD = FSFMConfig(encoder=replace(SMALL, num_heads=12), decoder=DecoderConfig())


class SeparatePasses(nn.Module):
    """The losses of a method, each from a pass of its own through encoder and decoder.

    Args:
        method: whose losses are computed.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, progress: Progress, noise: Noise) -> Output:
        """Compute every objective after a fresh pass; predictions it reads are made once more."""
        plan, per_sample = None, torch.zeros(len(batch.ids), device=batch.images.device)
        terms, results, output = {}, dict[str, HeadResult](), None
        for name, objective in self.method.objectives.items():
            seen = self.method.see(batch, progress, noise, plan)
            plan = seen.plan
            for other in needed(self.method, name):
                given = (seen.features, seen.plan, seen.context, results)
                results[other] = self.method.objectives[other](*given)
            own = results[name].per_sample
            per_sample = per_sample + objective.weight * own
            terms[name] = own.mean()
            shown = (seen.plan, {}, seen.features, seen.context, seen)
            output = Output(per_sample.mean(), terms, per_sample, *shown)
        assert output is not None
        return output

    def after_step(self, progress: Progress) -> None:
        """Let the method's teacher follow."""
        self.method.after_step(progress)


def needed(method: Method, name: str) -> list[str]:
    """Return the objectives whose predictions one compares, in order."""
    objective = method.objectives[name]
    return [objective.of, name] if isinstance(objective, SubsetLoss) else [name]


@dataclass(frozen=True)
class FSFMSide:
    """A step of FSFM on images with parsing maps.

    Attributes:
        name: what tables call it.
        config: the method.
        separate: a pass through the encoder for each loss.
    """

    name: str
    config: FSFMConfig
    separate: bool = False

    def check(self) -> None:
        """Everything is there: nothing to import."""

    def small(self) -> FSFMSide:
        """Return a step of the same method with a tiny network."""
        return replace(self, config=tiny(self.config))

    def build(self, work: Workload) -> Step:
        """Make the method and its engine."""
        torch.manual_seed(0)
        method = build(self.config, work.grid_of(self.config.encoder.patch_size))
        images, maps = work.images(), face_maps(work.batch_size, work.image_size)
        ids = torch.arange(len(images), device=work.device)
        batch = Batch(images, None, ids, regions=maps.to(work.device))
        flops = training_flops(method).training
        if not self.separate:
            return engine_step(method, batch, work, flops)
        return engine_step(SeparatePasses(method), batch, work, separate_flops(method))


def separate_flops(method: Method) -> int:
    """Return the FLOP of one image in a step with an encoder pass for each loss, by formula."""
    shared = training_flops(method)
    context = method.num_encoded + method.encoder.num_prefix_tokens
    once = 3 * shared.encoder - method.encoder.embed_flops(method.num_encoded)
    total = shared.training + (len(method.objectives) - 1) * once
    for name in method.objectives:
        for other in needed(method, name)[:-1]:
            head = method.objectives[other]
            total += 3 * head.forward_flops(context, method.mask.num_predict)
    return total


def encoded_tokens(step: Step) -> float:
    """Return how many tokens of an image the encoders of a step compute, the teacher's too."""
    counts = [0]

    def count(module: nn.Module, given: tuple, output: object) -> None:
        del module, output
        counts[0] += given[0].shape[0] * given[0].shape[1]

    encoders = [part for part in step.model.modules() if isinstance(part, Encoder)]
    hooks = [part.get_submodule("blocks.0").register_forward_hook(count) for part in encoders]
    step.run()
    for hook in hooks:
        hook.remove()
    return counts[0] / len(step.images)


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Compare forward, backward and update of ViT-S at equal batch."""
    work = workload(config, device)
    sides: list[Side] = [
        FSFMSide("one pass for all losses", METHOD),
        FSFMSide("a pass for each loss", METHOD, separate=True),
    ]
    rows, turns = compare(sides, work, config.seconds, "fsfm")
    method = build(METHOD, work.grid)
    prefix = method.encoder.num_prefix_tokens
    least = method.num_encoded + work.grid.num_tokens + 2 * prefix
    encoded = [encoded_tokens(side.build(replace(work, batch_size=2))) for side in sides]
    for row, num in zip(rows, encoded, strict=True):
        row["encoded tokens per image"] = num
    ratio = turns.speedup(sides[0].name, sides[1].name)
    return Table(
        "FSFM: a training step beside the same losses with an encoder pass for each",
        tuple(rows),
        (
            Goal(
                f"encodes no more than the visible tokens and, for the teacher, all: {least}",
                f"{encoded[0]:.0f}",
                encoded[0] == least,
            ),
            Goal("faster than separate passes", f"{ratio:.2f} times", ratio > 1),
        ),
        (
            f"{METHOD.encoder.embed_dim} x {METHOD.encoder.depth}, {work.image_size} px, patch "
            f"{work.patch_size}, batch {work.batch_size}, float32, with drawn parsing maps; masks, "
            "teacher and its update are part of the step. Separate passes decode pixels for the "
            "two losses that read them; both sides have one pass of the teacher.",
            *READING,
            f"Median of {turns.num_turns} turns; peak {turns.peak / 1e9:.0f} GFLOP/s.",
        ),
    )
