"""What the suite knows about a method: the row that each method's file adds to the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from ..method import Method
from .config import EncoderConfig

VIT_NAMES = {
    name: f"encoder.{name}" for name in ("cls_token", "pos_embed", "patch_embed", "blocks", "norm")
}
"""Published names of a plain ViT, which are ours."""


def translated(published: str, names: Mapping[str, str]) -> str | None:
    """Return our name of a published tensor by the longest leading part that fits, or None."""
    words = published.split(".")
    for length in range(len(words), 0, -1):
        head = ".".join(words[:length])
        if head in names:
            return ".".join([names[head], *words[length:]])
    return None


@dataclass(frozen=True)
class MethodSpec:
    """A row of the table of methods.

    Args:
        config: class of its configuration.
        compose: function of (configuration, grid) that returns the method.
        source: where it was published.
        names: leading part of a published parameter name -> that of ours; the longest one that
            fits counts. Parts are whole words between dots.
        ignored: leading parts of published tensors that the published forward never reads.
        prepare: turns published tensors into ones that `names` can translate, for files that store
            something in another layout.
        infer: reads the configuration from published tensors where the plain ViT's rule does not
            do; called as infer(state, num_heads=..., decoder_heads=...).
        refine: adds to the configuration of a plain ViT what else published tensors tell; called as
            refine(config, state) with tensors as `prepare` returns them.
        encoder_heads: attention heads of published widths, where they are not those of MAE.
        ranks: numbers of spatial axes that the method works on.
        indifferent: parameters on which the loss does not depend by its nature, such as a bias
            in front of a loss that compares; their gradient is zero up to rounding.
        flat_patches: patches without contrast are learnt from, because targets keep a patch's own
            level (raw pixels) and nothing is divided by a tiny deviation.
        hides: what no prediction may depend on: pixels of hidden tokens, or, where the encoder is
            shown a sketch of all tokens, what the sketch does not keep of them.
        learned_positions: the encoder's position table is a trained parameter, as published.
    """

    config: type
    compose: Callable[..., Method]
    source: str
    names: Mapping[str, str]
    ignored: Sequence[str] = ()
    prepare: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    infer: Callable[..., Any] | None = field(default=None, repr=False)
    refine: Callable[[Any, Mapping[str, Tensor]], Any] | None = field(default=None, repr=False)
    encoder_heads: Mapping[int, int] = field(default_factory=dict)
    ranks: tuple[int, ...] = (1, 2, 3)
    indifferent: Sequence[str] = ()
    flat_patches: bool = False
    learned_positions: bool = False
    hides: Literal["tokens", "complement"] = "tokens"

    @property
    def name(self) -> str:
        """The method's name, the default of its configuration."""
        return self.config().name

    @property
    def reads_shapes(self) -> bool:
        """Whether shapes of published tensors tell the configuration."""
        return self.infer is not None or self.plain

    @property
    def plain(self) -> bool:
        """Whether the configuration is that of a plain ViT."""
        return isinstance(getattr(self.config(), "encoder", None), EncoderConfig)

    def translate(self, published: str) -> str | None:
        """Return our name of a published tensor; None when it has no place in the method."""
        return translated(published, self.names)

    def is_ignored(self, published: str) -> bool:
        """Return whether a published tensor is a left-over that nothing reads."""
        return any(published == head or published.startswith(f"{head}.") for head in self.ignored)
