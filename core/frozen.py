"""A frozen teacher: a model that is trained already, asked about whole images and never changed."""

from __future__ import annotations

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
        gain: images are multiplied by this first.
        offset: and this is added.
    """

    def __init__(self, encoder: Encoder, gain: float = 1.0, offset: float = 0.0) -> None:
        super().__init__({}, momentum=lambda _: 1.0)
        self.encoder, self.gain, self.offset = encoder, gain, offset
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
