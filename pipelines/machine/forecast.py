"""How long a recipe takes and how much memory it needs, before it starts.

Time is the method's arithmetic (`training_flops`) divided by the speed that one transformer block
of the recipe's own size reaches here, forward and backward. Memory is what weights, gradients and
the two moments of AdamW take, and what a block keeps for its backward pass, for as many blocks and
tokens as the method has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core import flops
from ...core.decoders.contract import Predictor
from ...core.encoders.contract import Encoder
from ...core.encoders.vit import ViT
from ...core.layers import Block
from ...core.method import Method
from ...core.methods import build
from ...core.training.engine_parts import arithmetic
from ...core.training.flops import FlopCount, training_flops
from ..recipe import Recipe, check_recipe, recipe_grid

_STATE_BYTES = 16  # per parameter: weight, gradient and two moments, each in float32
_IMAGE_COPIES = 6  # pixels, patches, those that are seen, targets, and what makes them
_CUDA_BYTES = 6e8  # context and libraries of a process on a GPU
_STEP_FLOPS = {"cpu": 2e10, "cuda": 4e12}  # enough to be busy, little enough to be quick


@dataclass(frozen=True)
class Forecast:
    """What a recipe costs on this machine.

    Attributes:
        flops: arithmetic of one image.
        num_parameters: of encoder and decoder.
        images_per_s: when data and views hold nothing up.
        fixed_bytes: memory that does not depend on the batch.
        image_bytes: memory of each image of a forward pass.
        batch_size: samples per update.
    """

    flops: FlopCount
    num_parameters: int
    images_per_s: float
    fixed_bytes: float
    image_bytes: float
    batch_size: int

    def memory(self, micro_batch: int | None = None) -> float:
        """Return the bytes that training needs with so many samples per forward pass."""
        return self.fixed_bytes + self.image_bytes * (micro_batch or self.batch_size)

    def largest_micro_batch(self, free: float) -> int:
        """Return how many samples per forward pass fit into some bytes, 0 when none does."""
        return max(0, min(self.batch_size, int((free - self.fixed_bytes) / self.image_bytes)))


@dataclass(frozen=True)
class BlockCost:
    """What a transformer block costs, measured.

    Attributes:
        flops_per_s: speed of forward and backward together.
        kept_bytes: what is kept for the backward pass, per token and unit of width.
    """

    flops_per_s: float
    kept_bytes: float


def forecast(
    recipe: Recipe, channels: int, device: torch.device, *, seconds: float = 2.0
) -> Forecast:
    """Predict what a recipe costs.

    Args:
        recipe: the settings.
        channels: bands of the images.
        device: where it is to run.
        seconds: how long to measure.

    Raises:
        UsageError: for a recipe that cannot be run.
    """
    check_recipe(recipe)
    with torch.device("meta"):  # sizes without memory
        method = build(recipe.method, recipe_grid(recipe, channels))
    count = training_flops(method)
    cost = measure_block(recipe, method, device, seconds)
    num_parameters = sum(p.numel() for p in method.parameters())
    state_bytes = _STATE_BYTES + _weight_copies(recipe)
    pixels = channels * method.grid.num_tokens * method.grid.patch_dim / method.grid.channels
    return Forecast(
        flops=count,
        num_parameters=num_parameters,
        images_per_s=cost.flops_per_s / count.training,
        fixed_bytes=state_bytes * num_parameters + process_bytes(device),
        image_bytes=cost.kept_bytes * token_widths(method) + 4 * _IMAGE_COPIES * pixels,
        batch_size=recipe.batch_size,
    )


def token_widths(method: Method) -> int:
    """Return the sum over all blocks of tokens times width, for one image."""
    mask, encoder = method.mask, method.encoder
    seen = method.num_encoded + encoder.num_prefix_tokens
    total = encoder.depth * seen * encoder.embed_dim
    predictors = [part for part in method.heads.modules() if isinstance(part, Predictor)]
    for predictor in predictors:
        blocks = getattr(predictor, "blocks", ())
        width = getattr(predictor, "dim", 0)
        # A joint decoder carries all tokens, a cross decoder those that it is asked for.
        tokens = getattr(predictor, "num_tokens", mask.num_predict)
        total += len(blocks) * tokens * width
    return total


def process_bytes(device: torch.device) -> float:
    """Return the memory that a process takes before it trains."""
    if device.type == "cuda":
        return _CUDA_BYTES
    import psutil

    return psutil.Process().memory_info().rss


def block_like(encoder: Encoder) -> tuple[Block, float]:
    """Return a transformer block like an encoder's, and its MLP ratio.

    For an encoder of another kind it is a common block of the same width: its cost per FLOP stands
    in for theirs.
    """
    width = encoder.embed_dim
    if isinstance(encoder, ViT):
        return Block(width, encoder.num_heads, encoder.mlp_ratio), encoder.mlp_ratio
    num_heads = max(n for n in range(1, max(1, width // 32) + 1) if width % n == 0)
    return Block(width, num_heads), 4.0


def measure_block(
    recipe: Recipe, method: Method, device: torch.device, seconds: float
) -> BlockCost:
    """Time one block of the encoder with the tokens that it will see."""
    tokens = method.num_encoded + method.encoder.num_prefix_tokens
    with torch.random.fork_rng(devices=()):
        block, ratio = block_like(method.encoder)
        width = method.encoder.embed_dim
        one = 3 * flops.block(tokens, width, ratio)
        batch = max(1, min(recipe.batch_size, int(_STEP_FLOPS[device.type] / one)))
        x = torch.randn(batch, tokens, width).to(device).requires_grad_()
    block = block.to(device)

    def step() -> None:
        with arithmetic(device, recipe.precision):
            out = block(x)
        out.float().sum().backward()

    counts = []
    for tokens_in in (x, torch.cat([x, x]).detach().requires_grad_()):
        with counting_kept(block) as kept, arithmetic(device, recipe.precision):
            block(tokens_in)
        counts.append(kept[0])
    took = _median_seconds(step, device, seconds)
    # Of twice the tokens twice as much is kept; copies of weights stay as they are.
    return BlockCost(batch * one / took, (counts[1] - counts[0]) / x.numel())


def _weight_copies(recipe: Recipe) -> int:
    """Return the bytes per weight of the copy in which a forward pass computes."""
    return 0 if recipe.precision == "fp32" else 2


def _median_seconds(step: Callable[[], None], device: torch.device, seconds: float) -> float:
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


@contextmanager
def counting_kept(module: torch.nn.Module) -> Iterator[list[int]]:
    """Count the bytes that a forward pass keeps for its backward pass, parameters left out.

    Yields:
        a list of one number, which grows.
    """
    seen = {p.untyped_storage().data_ptr() for p in module.parameters()}
    total = [0]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total
