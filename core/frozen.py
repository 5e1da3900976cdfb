"""A frozen teacher: a model that is trained already, asked about whole images and never changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .encoders.contract import Encoder
from .errors import UsageError
from .grid import patchify
from .teacher import Teacher


class FrozenTeacher(Teacher):
    """An encoder whose final tokens are what a student learns.

    Images are scaled to the teacher's own normalisation and, where its patches have another size,
    resized so that it has one token for each of the student's.

    Args:
        encoder: the teacher, made for a grid of the student's shape.
        gain: images are multiplied by this first; one number, or one per channel.
        offset: and this is added; the same.

    Raises:
        UsageError: for another number of gains or offsets.
    """

    gain: Tensor
    offset: Tensor

    def __init__(
        self, encoder: Encoder, gain: Sequence[float] = (1.0,), offset: Sequence[float] = (0.0,)
    ) -> None:
        super().__init__({}, momentum=lambda _: 1.0)
        self.encoder = encoder
        for name, values in (("gain", gain), ("offset", offset)):
            if len(values) not in (1, encoder.grid.channels):
                raise UsageError(
                    f"teacher_{name} {tuple(values)}",
                    f"is neither one number nor one for each of {encoder.grid.channels} channels",
                    "give as many numbers as the images have channels",
                )
            numbers = torch.tensor(values).reshape(-1, *(1,) * encoder.grid.ndim)
            self.register_buffer(name, numbers, persistent=False)
        self.requires_grad_(False)
        self.train(False)

    @torch.no_grad()
    def tokens(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b n f"]:
        """Return the final tokens of images, prefix tokens left out.

        Raises:
            UsageError: for images with other channels than the teacher's.
        """
        grid = self.encoder.grid
        if images.shape[1] != grid.channels:
            raise UsageError(
                f"images with {images.shape[1]} channels",
                f"do not fit a teacher made for {grid.channels}",
                "choose the teacher's bands, or give the batch its features",
            )
        images = images * self.gain + self.offset
        if tuple(images.shape[2:]) != grid.image_size:
            mode = {1: "linear", 2: "bicubic", 3: "trilinear"}[grid.ndim]
            images = functional.interpolate(images, grid.image_size, mode=mode)
        return self.encoder.encode_patches(patchify(images, grid.patch)).last.float()

    def tokens_flops(self) -> int:
        """Return the FLOP that `tokens` spends on one image."""
        return self.encoder.forward_flops(self.encoder.grid.num_tokens)
