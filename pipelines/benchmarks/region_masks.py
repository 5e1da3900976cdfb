"""Masks by region of a whole batch, beside a loop over images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ...core.batch import Batch, Progress
from ...core.context import Context, make_context
from ...core.grid import Grid
from ...core.masking.facial import FACE
from ...core.masking.plan import seen_and_hidden
from ...core.masking.region_maps import Region, RegionMask
from ...core.noise import Noise
from ..progress import say
from .compare import IMAGE_SIZE, PATCH_SIZE
from .config import BenchmarkConfig
from .table import Cell, Goal, Table
from .turns import take_turns

FASTER, BATCH_SIZE, MASK_RATIO = 20.0, 256, 0.75
# Class, centre (row, column), half axes: shares of an image; later ones lie on top.
_ELLIPSES = (
    (10, 0.42, 0.50, 0.42, 0.38),
    (1, 0.54, 0.50, 0.36, 0.27),
    (2, 0.40, 0.37, 0.02, 0.08),
    (3, 0.40, 0.63, 0.02, 0.08),
    (4, 0.46, 0.37, 0.025, 0.06),
    (5, 0.46, 0.63, 0.025, 0.06),
    (6, 0.58, 0.50, 0.09, 0.05),
    (7, 0.71, 0.50, 0.02, 0.10),
    (8, 0.73, 0.50, 0.012, 0.08),
    (9, 0.75, 0.50, 0.02, 0.09),
)


def face_maps(num: int, size: int, seed: int = 0) -> Int[Tensor, "b h w"]:
    """Return parsing maps of drawn faces, each shifted and scaled a little, as `facial.CLASSES`.

    Args:
        num: how many.
        size: pixels per side.
        seed: of shifts and scales.
    """
    random = torch.Generator().manual_seed(seed)
    draws = torch.rand(num, 3, 1, 1, generator=random)
    scale, shift = 0.8 + 0.4 * draws[:, 0], 0.1 * (draws[:, 1:] - 0.5)
    at = (torch.arange(size) + 0.5) / size
    rows, cols = at[:, None] - shift[:, 0], at[None, :] - shift[:, 1]
    maps = torch.zeros(num, size, size, dtype=torch.int8)
    for label, row, col, high, wide in _ELLIPSES:
        distance = ((rows - row) / (high * scale)) ** 2 + ((cols - col) / (wide * scale)) ** 2
        maps[distance < 1] = label
    return maps


@dataclass(frozen=True)
class LoopMask:
    """The published order of work: one image after the other, region by region, class by class.

    Written after fsfm.md, steps 2 to 4; draws are the smallest of given numbers, so that masks can
    be compared one by one.

    Args:
        num_hidden: tokens that are hidden.
        patch: pixels per side of a token.
    """

    num_hidden: int
    patch: int

    def __call__(
        self, maps: Int[Tensor, "b h w"], drawn: int, noise: Float[Tensor, "b n"]
    ) -> tuple[Bool[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """Return what is hidden, and what of it is the drawn region.

        Args:
            maps: parsing maps.
            drawn: place of the region in `FACE.regions`.
            noise: of each token.
        """
        region = self.tokens(maps, FACE.regions[drawn])
        hidden = region.clone()
        for image in range(len(maps)):
            one = maps[image : image + 1], drawn, region[image], noise[image]
            hidden[image], region[image] = self.one(*one)
        return hidden, region

    def tokens(self, maps: Int[Tensor, "b h w"], region: Region) -> Bool[Tensor, "b n"]:
        """Return the tokens of a region."""
        own = self.pooled(maps, region.classes)
        return own & self.pooled(maps, region.beside) if region.beside else own

    def pooled(self, maps: Int[Tensor, "b h w"], classes: tuple[int, ...]) -> Bool[Tensor, "b n"]:
        """Return the tokens that have a pixel of some classes."""
        found = [functional.max_pool2d((maps == k).float(), self.patch) for k in classes]
        return torch.stack(found).amax(dim=0).flatten(1) > 0

    def one(
        self,
        maps: Int[Tensor, "1 h w"],
        drawn: int,
        region: Bool[Tensor, " n"],
        noise: Float[Tensor, " n"],
    ) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
        """Return both masks of one image."""
        hidden, claimed, num_covered = region.clone(), region.clone(), region.sum()
        budget = self.num_hidden - num_covered
        if budget < 1:
            hidden[smallest(region, noise, int(-budget))] = False
            return hidden, hidden
        share = budget / (len(region) - num_covered)
        for place, other in enumerate(FACE.regions):
            if place != drawn:
                candidates = self.tokens(maps, other)[0] & ~claimed
                amount = (share * candidates.sum()).round()
                hidden[smallest(candidates, noise, int(amount))] = True
                claimed = claimed | candidates
        missing = self.num_hidden - int(hidden.sum())
        if missing >= 1:
            hidden[smallest(~hidden, noise, missing)] = True
        else:
            hidden[smallest(hidden & ~region, noise, -missing)] = False
        return hidden, region


def smallest(
    candidates: Bool[Tensor, " n"], noise: Float[Tensor, " n"], amount: int
) -> Int[Tensor, " k"]:
    """Return the candidates with the smallest noise."""
    places = candidates.nonzero()[:, 0]
    return places[noise[places].argsort()[:amount]]


def region_context(maps: Int[Tensor, "b h w"], patch: int, noise: Noise) -> Context:
    """Return what a mask is given, with images of one channel that it does not look at."""
    images = torch.zeros(len(maps), 1, *maps.shape[1:], device=maps.device)
    grid = Grid.for_image(tuple(maps.shape[1:]), patch, 1)
    batch = Batch(images, None, torch.arange(len(maps)), regions=maps)
    return make_context(batch, grid, Progress(0, 1), noise, torch.Tensor.clone)


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Compare the masks of a batch of 256 maps."""
    maps = face_maps(BATCH_SIZE, IMAGE_SIZE)
    context = region_context(maps.to(device), PATCH_SIZE, Noise(0, device))
    num_tokens = context.grid.num_tokens
    seen, num_hidden = seen_and_hidden(num_tokens, MASK_RATIO)
    ours = RegionMask(seen, num_hidden, FACE)
    shared = replace(ours, shared_draw=True)
    loop, noise = LoopMask(num_hidden, PATCH_SIZE), Noise(0)

    def publish() -> None:
        drawn = int(noise.uniform("region", (1,)) * FACE.num_drawn)
        loop(maps, drawn, noise.uniform("mask", (BATCH_SIZE, num_tokens)))

    sides: dict[str, Callable[[], object]] = {
        "one region per image": lambda: ours(context),
        "one region per batch": lambda: shared(context),
        "loop over images": publish,
    }
    names = tuple(sides)
    say(f"region-masks: masks of {BATCH_SIZE} images in turns for {config.seconds:.0f} s")
    turns = take_turns(sides, config.seconds, device, "region-masks")
    rows: list[dict[str, Cell]] = [
        {
            "masks": name,
            "ms per batch": 1e3 * turns.wall(name),
            "images/s": BATCH_SIZE / turns.wall(name),
            "times as fast": turns.speedup(name, names[-1]) if name != names[-1] else None,
        }
        for name in names
    ]
    ratios = [turns.speedup(name, names[-1]) for name in names[:-1]]
    return Table(
        "Masks by region: a batch at once beside a loop over its images",
        tuple(rows),
        (
            Goal(
                f"at least {FASTER:.0f} times as fast as the loop",
                " and ".join(f"{ratio:.1f}" for ratio in ratios),
                min(ratios) >= FASTER,
            ),
        ),
        (
            f"{BATCH_SIZE} drawn parsing maps of {IMAGE_SIZE} px, patch {PATCH_SIZE}, "
            f"{num_hidden} of {num_tokens} tokens hidden; from maps to masks, draws included. "
            "The loop pools maps as the release does, class by class and image by image, and runs "
            "on the CPU; from the same draws it gives the same masks (compared in a test).",
            f"Median of {turns.num_turns} turns.",
        ),
    )
