"""All randomness of a step comes in here, so that a test can replace it and a run can repeat it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


class Noise:
    """Named uniform draws from one generator.

    Args:
        seed: seed of the generator; a run derives one per step from (seed, step).
        device: where the numbers are drawn.
    """

    def __init__(self, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator(device=device)
        self.generator.manual_seed(seed)

    def uniform(self, name: str, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
        """Return U[0, 1) of the given shape; `name` says what for."""
        del name
        return torch.rand(shape, generator=self.generator, device=self.generator.device)

    def state(self) -> Tensor:
        """Return the generator's state, as bytes."""
        return self.generator.get_state()

    def load(self, state: Tensor) -> None:
        """Continue from a state returned by `state`."""
        self.generator.set_state(state)


class FixedNoise(Noise):
    """Noise with given draws by name, for tests and for comparison with published code.

    Args:
        draws: tensors by name; one that is larger than asked for gives its leading part.
        seed: seed for every other name.
    """

    def __init__(self, draws: Mapping[str, Tensor], seed: int = 0) -> None:
        super().__init__(seed)
        self.draws = dict(draws)

    def uniform(self, name: str, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
        """Return the given draw of that name, or a fresh one."""
        if name not in self.draws:
            return super().uniform(name, shape)
        given = self.draws[name]
        return given[tuple(slice(n) for n in shape)] if given.shape != shape else given
