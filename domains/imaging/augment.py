"""Random views of images: flips, rotations, resized crops, gain, missing bands.

A whole batch is resampled at once: flip, rotation and crop of every image are one affine map, and
labels and the valid mask go through the same map. All draws of an image are a function of one key
and of its row in the store, so that they do not depend on which images share its batch: the same
view comes out for any batch split, number of processes or accumulation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...core.errors import UsageError

# Which of an image's numbers decides what; two per band follow after the last.
_FLIP, _ROTATE, _AREA, _RATIO, _TOP, _LEFT, _OFFSET, _GAIN, _PER_BAND = range(9)
_FLIPPED = 0.5  # numbers below it mirror
_WHOLE = 1 - 1e-4  # interpolation weight from which rounding, not missing data, keeps it below 1


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How images are changed from epoch to epoch."""

    flip: bool = True
    """Mirror half of the images, left to right."""
    rotate: bool = True
    """Turn by 0, 90, 180 or 270 degrees; scenes look the same from above in every direction."""
    min_area: float = 0.2
    """Smallest share of the image that a random crop covers; 1 crops nothing."""
    max_ratio: float = 4 / 3
    """Largest ratio of the crop's sides, either way; 1 keeps squares square."""
    gain: float = 0.0
    """Physical values are multiplied by 1 - gain to 1 + gain, one factor per image."""
    band_gain: float = 0.0
    """The same, with a factor of its own for every band."""
    offset: float = 0.0
    """Largest shift of an image in standard deviations of its bands."""
    band_dropout: float = 0.0
    """Probability that a band is blanked to its mean; one band always stays."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        ranges = {
            "min_area": (0.01, 1.0),
            "max_ratio": (1.0, 10.0),
            "gain": (0.0, 0.99),
            "band_gain": (0.0, 0.99),
            "offset": (0.0, 10.0),
            "band_dropout": (0.0, 0.99),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                reason = f"is {value}, outside of {low} to {high}"
                raise UsageError(f"augment.{name}", reason, f"set it between {low} and {high}")

    @property
    def moves(self) -> bool:
        """True when pixels change their place."""
        return self.flip or self.rotate or self.min_area < 1 or self.max_ratio > 1


@dataclass(frozen=True)
class View:
    """Images with what moves along.

    Attributes:
        images: normalised; 0 where invalid.
        valid: true where there is data; None when everywhere.
        labels: class of every pixel, 255 where not known; None without labels.
        regions: class of every pixel in a map of regions; None without such maps.
    """

    images: Float[Tensor, "b c h w"]
    valid: Bool[Tensor, "b h w"] | None = None
    labels: Int[Tensor, "b h w"] | None = None
    regions: Int[Tensor, "b h w"] | None = None


def step_generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """Return the generator of one training step, the same in every run and process."""
    state = np.random.SeedSequence((seed, epoch, step)).generate_state(2, np.uint32)
    # 63 bits, because torch reads seeds as signed.
    return torch.Generator().manual_seed((int(state[0]) << 31) ^ int(state[1]))


def draw(
    generator: torch.Generator, rows: Int[Tensor, " b"], num: int
) -> Float[np.ndarray, "b num"]:
    """Return uniform numbers in [0, 1) that belong to rows.

    Takes one number from the generator, however many rows there are. The rest is a hash of it, the
    row and the position (the finaliser of SplitMix64: Steele, Lea and Flood 2014, "Fast splittable
    pseudorandom number generators", figure 17).
    """
    top = torch.iinfo(torch.int64).max
    key = torch.randint(top, (), generator=generator, device=generator.device).item()
    counter = rows.cpu().numpy().astype(np.uint64)[:, None] * np.uint64(0xD1342543DE82EF95)
    counter = _mix(counter + np.uint64(key)) + np.arange(1, num + 1, dtype=np.uint64) * np.uint64(
        0x9E3779B97F4A7C15
    )
    return (_mix(counter) >> np.uint64(11)) * 2.0**-53


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def random_view(
    view: View,
    rows: Int[Tensor, " b"],
    config: AugmentConfig,
    generator: torch.Generator,
    *,
    size: tuple[int, int] | None = None,
    zero: tuple[float, ...] | None = None,
    mirrored: tuple[int, ...] | None = None,
) -> View:
    """Return one random view of every image.

    Args:
        view: images and what moves along; not changed.
        rows: (b,) row of each image in its store.
        config: what may happen.
        generator: gives one number; the same state and rows give the same views.
        size: height and width of the result; None keeps those of the images.
        zero: network input per band that stands for a physical value of zero, which gains leave
            alone; None means 0.
        mirrored: what each region is in a mirrored image, where regions have sides (a left eye
            becomes a right one); None when they have none.
    """
    num_bands, height, width = view.images.shape[1:]
    numbers = draw(generator, rows, _PER_BAND + 2 * num_bands)
    size = size or (height, width)
    if config.moves or size != (height, width):
        view = warp(view, _random_maps(numbers, config, (height, width), size), size)
    if config.flip and mirrored is not None and view.regions is not None:
        flipped = torch.from_numpy(numbers[:, _FLIP] < _FLIPPED).to(view.regions.device)
        other = torch.tensor(mirrored, device=view.regions.device)[view.regions]
        regions = torch.where(flipped[:, None, None], other, view.regions)
        view = replace(view, regions=regions)
    images = _recolour(view.images, numbers, config, zero)
    if images is not view.images and view.valid is not None:
        images = images.masked_fill(~view.valid.unsqueeze(1), 0.0)
    return replace(view, images=images)


def fit_size(view: View, size: tuple[int, int] | None) -> View:
    """Return the largest central part that has the shape asked for, resized, without randomness."""
    height, width = view.images.shape[-2:]
    if size is None or size == (height, width):
        return view
    side = min(height / size[0], width / size[1])
    # One step of resampling as in training, so that both see the same sharpness.
    extent = np.array([[side * size[1] / width, side * size[0] / height]])
    maps = _maps(extent, np.zeros((1, 2)), np.eye(2)[None])
    return warp(view, maps.repeat(len(view.images), axis=0), size)


def _random_maps(
    numbers: np.ndarray, config: AugmentConfig, old: tuple[int, int], new: tuple[int, int]
) -> Float[np.ndarray, "b 2 3"]:
    """Return affine maps from output to input positions, both -1 to 1, x before y."""
    num = len(numbers)
    turns = (numbers[:, _ROTATE] * 4).astype(int) if config.rotate else np.zeros(num, int)
    cos, sin = np.array([1, 0, -1, 0])[turns], np.array([0, 1, 0, -1])[turns]
    mirror = np.where(numbers[:, _FLIP] < _FLIPPED, -1, 1) if config.flip else np.ones(num, int)
    turn = np.stack([np.stack([cos * mirror, -sin], -1), np.stack([sin * mirror, cos], -1)], 1)
    area = config.min_area + (1 - config.min_area) * numbers[:, _AREA]
    ratio = config.max_ratio ** (2 * numbers[:, _RATIO] - 1)
    # Width to height of the part that is cut, such that a ratio of 1 distorts nothing.
    shape = np.where(turns % 2 == 0, new[1] / new[0], new[0] / new[1]) * ratio
    pixels = area * old[0] * old[1]
    extent = np.stack([np.sqrt(pixels * shape) / old[1], np.sqrt(pixels / shape) / old[0]], 1)
    extent /= np.maximum(extent.max(axis=1, keepdims=True), 1.0)  # too long a side shrinks both
    centre = (2 * numbers[:, [_LEFT, _TOP]] - 1) * (1 - extent)
    return _maps(extent, centre, turn)


def _maps(extent: np.ndarray, centre: np.ndarray, turn: np.ndarray) -> np.ndarray:
    return np.concatenate([extent[:, :, None] * turn, centre[:, :, None]], axis=2)


def warp(view: View, maps: Float[np.ndarray, "b 2 3"], size: tuple[int, int]) -> View:
    """Resample every image with its own affine map.

    Images are interpolated bilinearly without a low-pass filter and only between valid pixels, by
    dividing by the share of valid ones; labels, regions and the valid mask take the nearest pixel.

    Args:
        view: images and what moves along.
        maps: from output to input positions, both -1 to 1 over the image's area, x before y.
        size: height and width of the result.
    """
    images, valid, labels, regions = view.images, view.valid, view.labels, view.regions
    grid = _grid(torch.as_tensor(maps, dtype=images.dtype, device=images.device), size)
    labels = None if labels is None else _nearest(labels, grid)
    regions = None if regions is None else _nearest(regions, grid)
    if valid is None:
        return View(_sample(images, grid, "bilinear"), None, labels, regions)
    moved = _nearest(valid, grid)
    values = _sample(images, grid, "bilinear")
    partial = (~valid.flatten(1).all(dim=1)).nonzero().flatten()
    if len(partial):
        share = _sample(valid[partial].unsqueeze(1).to(images.dtype), grid[partial], "bilinear")
        # The nearest pixel has at least a quarter of the weight, so nothing valid is divided by 0.
        share = torch.where(share < _WHOLE, share.clamp_min(0.1), 1.0)
        weight = torch.ones_like(values[:, :1]).index_copy_(0, partial, share)
        values.div_(weight).masked_fill_(~moved.unsqueeze(1), 0.0)
    return View(values, moved, labels, regions)


def _grid(maps: Float[Tensor, "b 2 3"], size: tuple[int, int]) -> Float[Tensor, "b h w 2"]:
    """Return the input position of every output pixel; `F.affine_grid` takes ten times as long."""
    height, width = ((2 * torch.arange(n, device=maps.device) + 1) / n - 1 for n in size)
    along = maps[:, :, 0, None] * width + maps[:, :, 2, None]
    down = maps[:, :, 1, None] * height
    grid = maps.new_empty(len(maps), *size, 2)
    for axis in range(2):
        torch.add(along[:, axis, None, :], down[:, axis, :, None], out=grid[..., axis])
    return grid


def _sample(images: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


def _nearest(values: Tensor, grid: Tensor) -> Tensor:
    sampled = _sample(values.unsqueeze(1).to(grid.dtype), grid, "nearest")
    return sampled.squeeze(1).to(values.dtype)


def _recolour(
    images: Tensor, numbers: np.ndarray, config: AugmentConfig, zero: tuple[float, ...] | None
) -> Tensor:
    """Apply gains, offset and band dropout; returns the images themselves when there are none."""
    num_bands = images.shape[1]
    signed = 2 * numbers - 1
    columns = slice(_PER_BAND, _PER_BAND + num_bands), slice(_PER_BAND + num_bands, None)
    if config.gain or config.band_gain or config.offset:
        gain = 1 + config.gain * signed[:, _GAIN, None]
        gain = gain * (1 + config.band_gain * signed[:, columns[0]])
        fixed = np.zeros(num_bands) if zero is None else np.array(zero)
        # Around the input that stands for physical zero: darkness stays dark.
        summand = fixed * (1 - gain) + config.offset * signed[:, _OFFSET, None]
        images = torch.addcmul(_per_band(summand, images), images, _per_band(gain, images))
    if config.band_dropout:
        luck = numbers[:, columns[1]]
        dropped = luck < config.band_dropout
        dropped[np.arange(len(luck)), luck.argmax(axis=1)] = False
        images = images.masked_fill(_per_band(dropped, images).bool(), 0.0)
    return images


def _per_band(values: np.ndarray, images: Tensor) -> Tensor:
    made = torch.as_tensor(values, dtype=images.dtype, device=images.device)
    return made[:, :, None, None]
