"""How cases of published implementations are run with our methods: one function per method."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from . import masked_autoencoders
from .common import Case

ADAPTERS: dict[str, Callable[[Case], dict[str, Tensor]]] = {
    **masked_autoencoders.ADAPTERS,
}
