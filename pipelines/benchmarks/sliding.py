"""Sliding windows over a volume beside MONAI's, with the same network: time and peak memory."""

from __future__ import annotations

import time

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ...core.batch import Batch
from ...core.grid import Grid
from ...core.heads.sliding import Windows, slide
from ...core.heads.task import TaskConfig, TaskModel
from ...core.methods import DecoderConfig, EncoderConfig, MAEConfig, build
from ..progress import say
from .config import FULL_DEPTH, BenchmarkConfig
from .memory import in_child, peak_resident, resident
from .table import Cell, Goal, Table
from .turns import take_turns

NUM_CLASSES, OVERLAP, SIDE = 14, 0.5, 512
WINDOW, PATCH = (96, 96, 96), (16, 16, 16)
TIMED = (128, 160, 160)  # voxels of the volume that is timed; 8 windows
LEAST = 0.98  # times as fast that counts as no slower
OURS, MONAI = "mimkit", "MONAI"


class Network(nn.Module):
    """A small ViT with the simple segmentation head, from volumes to scores."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        encoder = EncoderConfig(embed_dim=192, depth=4, num_heads=3, patch_size=PATCH[0])
        config = MAEConfig(encoder=encoder, decoder=DecoderConfig(dim=32, depth=1, num_heads=2))
        method = build(config, Grid.for_image(WINDOW, PATCH, 1))
        classes = tuple(map(str, range(NUM_CLASSES)))
        task = TaskConfig(task="segment", classes=classes, image_size=WINDOW, dim=32, stem_dim=8)
        self.model = TaskModel(method.encoder, task).eval()

    def forward(self, images: Float[Tensor, "b 1 d h w"]) -> Float[Tensor, "b k d h w"]:
        """Return class scores."""
        return self.model(Batch(images, None, torch.arange(len(images))))


def labels_by(
    side: str, volume: Float[Tensor, "1 d h w"], network: nn.Module
) -> UInt8[Tensor, "d h w"]:
    """Return the class of every voxel, by our windows or by MONAI's."""
    with torch.inference_mode():
        if side == MONAI:
            from monai.inferers.utils import sliding_window_inference

            scores = sliding_window_inference(
                volume[None], WINDOW, 1, network, overlap=OVERLAP, mode="gaussian"
            )
            assert isinstance(scores, Tensor)
            return scores[0].argmax(dim=0).to(torch.uint8)
        windows = Windows(tuple(volume.shape[1:]), WINDOW, OVERLAP)
        found = torch.zeros(volume.shape[1:], dtype=torch.uint8, device=volume.device)
        slabs = slide(
            windows,
            lambda place: windows.cut(volume, place),
            network,
            NUM_CLASSES,
            device=volume.device,
        )
        for slab in slabs:
            found[slab.place] = slab.winners()
        return found


def measure(config: BenchmarkConfig, device: torch.device) -> Table:
    """Time both in turns on a small volume, and watch the memory of each on a large one."""
    network = Network().to(device)
    volume = torch.rand(1, *TIMED, generator=torch.Generator().manual_seed(0)).to(device)
    same = (labels_by(OURS, volume, network) == labels_by(MONAI, volume, network)).float().mean()
    say(f"sliding: {OURS} and {MONAI} in turns for {config.seconds:.0f} s")
    sides = {side: _walk(side, volume, network) for side in (OURS, MONAI)}
    turns = take_turns(sides, config.seconds, device, "sliding")
    depth = config.volume_depth
    large = (depth, SIDE, SIDE)
    say(f"sliding: memory on {' x '.join(map(str, large))} voxels, each in a process of its own")
    threads = torch.get_num_threads()
    grown = {side: in_child(walk_large, side, large, threads) for side in (OURS, MONAI)}
    rows = tuple(_row(side, turns.wall(side), grown[side]) for side in (OURS, MONAI))
    speed = turns.speedup(OURS, MONAI)
    share = grown[OURS][0] / grown[MONAI][0]
    full = depth == FULL_DEPTH
    less = Goal("less peak memory than MONAI", f"{share:.2f} of it", share < 1)
    words = f"{depth} slices; the goal for memory is stated for {FULL_DEPTH}."
    return Table(
        "Sliding windows over a volume beside MONAI's sliding_window_inference",
        rows,
        (
            Goal(f"no slower than MONAI (at least {LEAST})", f"{speed:.3f}", speed >= LEAST),
            *([less] if full else []),
        ),
        (
            f"{NUM_CLASSES} classes, windows of {WINDOW[0]} voxels a side, overlap {OVERLAP:.0%}, "
            "Gaussian weights, float32; both end with the class of every voxel, which agrees at "
            f"{float(same):.4%} of the voxels.",
            f"Time: a ViT of 192 x 4 with the simple head on {' x '.join(map(str, TIMED))} voxels, "
            f"median of {turns.num_turns} turns.",
            f"Memory: growth of a process of its own on {' x '.join(map(str, large))} voxels with "
            "one convolution of a voxel as network, so that scores are what is measured; the input "
            "volume is not counted.",
            *(() if full else (f"QUICK LOOK at memory with {words}",)),
        ),
    )


def _walk(side: str, volume: Tensor, network: nn.Module):
    return lambda: labels_by(side, volume, network)


def _row(side: str, wall: float, grown: tuple[int, float]) -> dict[str, Cell]:
    return {
        "side": side,
        "s, small ViT": wall,
        "peak memory beside the volume, MB": grown[0] / 1e6,
        "s, large volume": grown[1],
    }


def walk_large(side: str, shape: tuple[int, int, int], num_threads: int) -> tuple[int, float]:
    """Walk a large volume in this process.

    Returns:
        growth of the process's peak in bytes over what it held with the volume, and seconds.
    """
    torch.set_num_threads(num_threads)
    network = nn.Conv3d(1, NUM_CLASSES, 1).eval()
    labels_by(side, torch.rand(1, *WINDOW), network)  # libraries are loaded before
    volume = torch.rand(1, *shape)
    before, began = resident(), time.perf_counter()
    labels_by(side, volume, network)
    return peak_resident() - before, time.perf_counter() - began
