"""How cases of published implementations are run with our methods: one function per method."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from . import beit, fsfm, masked_autoencoders, multi_scale, pyramid, swin, teachers
from .common import Case

ADAPTERS: dict[str, Callable[[Case], dict[str, Tensor]]] = {
    **beit.ADAPTERS,
    **fsfm.ADAPTERS,
    **masked_autoencoders.ADAPTERS,
    **multi_scale.ADAPTERS,
    **pyramid.ADAPTERS,
    **swin.ADAPTERS,
    **teachers.ADAPTERS,
}
