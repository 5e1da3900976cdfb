"""What an encoder is, and what it gives to heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import UsageError
from ..grid import Grid, patchify
from ..layers import Reading
from ..masking.plan import MaskPlan
from ..tokens import membership

EMBEDDED = -2
"""Tap of a plain ViT with a corruption: embedded tokens in front of positions, no prefix."""
Corrupt = Callable[[int, Tensor, Tensor], Tensor]
"""What happens to hidden tokens: (layer, tokens (b, n, d), hidden (b, n)) -> tokens."""
Rule = Callable[[int, Tensor], Reading]
"""How tokens read each other in a block: (block, its input, prefix in front) -> reading."""
Neck = Callable[[Tensor, Mapping[int, Tensor]], Tensor]
"""What is normalised last: (output of the last block, kept taps) -> sequence of the same shape."""


@dataclass(frozen=True)
class Features:
    """Represented tokens.

    Args:
        sequence: final-normed tokens, prefix tokens in front.
        num_prefix: class and register tokens among them (may be 0).
        taps: raw output of requested blocks by zero-based index, prefix tokens in front; early
            blocks of hierarchical encoders have another width.
        readable: true where a token (prefix included) may be read; None when all may.
        trunk: what the method's trunk made of it, for predictors that share that; None without.
    """

    sequence: Float[Tensor, "b t d"]
    num_prefix: int
    taps: dict[int, Float[Tensor, "b _ _"]] = field(default_factory=dict)
    readable: Bool[Tensor, "b t"] | None = None
    trunk: Float[Tensor, "b n w"] | None = None

    @property
    def last(self) -> Float[Tensor, "b v d"]:
        """Final-normed tokens without the prefix."""
        return self.sequence[:, self.num_prefix :]

    @property
    def prefix(self) -> Float[Tensor, "b r d"]:
        """Final-normed class and register tokens."""
        return self.sequence[:, : self.num_prefix]

    def context(self, tap: int) -> Float[Tensor, "b t d"]:
        """Return the final sequence for tap -1, what was kept under another tap otherwise."""
        return self.sequence if tap == -1 else self.taps[tap]


@dataclass(frozen=True)
class Pass:
    """What one pass through an encoder is to compute.

    Args:
        shape: grid of the patches.
        index: tokens to compute, gathered before embedding; None for all, in raster order.
        readable: true for computed tokens that hold data; None when all do.
        hidden: true where `corrupt` acts; None without.
        taps: blocks whose raw output is wanted, zero-based.
        corrupt: changes hidden tokens; see `Encoder.encode_patches`.
        neck: see `Encoder.encode_patches`.
        rule: see `Encoder.encode_patches`.
    """

    shape: tuple[int, ...]
    index: Int[Tensor, "b v"] | None = None
    readable: Bool[Tensor, "b v"] | None = None
    hidden: Bool[Tensor, "b n"] | None = None
    taps: tuple[int, ...] = ()
    corrupt: Corrupt | None = None
    neck: Neck | None = None
    rule: Rule | None = None

    def corrupted(self, layer: int, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Return all tokens of the grid after the corruption of a layer, if there is one."""
        if self.corrupt is None or self.hidden is None:
            return tokens
        return self.corrupt(layer, tokens, self.hidden)

    def corrupted_map(
        self, layer: int, x: Float[Tensor, "b *s d"], hidden: Bool[Tensor, "b *s"] | None
    ) -> Float[Tensor, "b *s d"]:
        """Do the same with a map whose cells are not the tokens; `hidden` says which are."""
        if hidden is None:
            return x
        changed = replace(self, hidden=hidden.flatten(1)).corrupted(layer, x.flatten(1, -2))
        return changed.unflatten(1, x.shape[1:-1])


class Encoder(nn.Module, ABC):
    """Represents the tokens of a grid, or only those that a plan shows.

    A token is what a mask hides as a whole. Encoders with smaller patches inside (hierarchical,
    convolutional) cut it themselves, so that masks, heads and targets know one grid.

    Attributes:
        grid: geometry of the tokens that the encoder was made for.
        embed_dim: width of the final tokens.
        depth: blocks whose output can be tapped.
        num_prefix_tokens: class and register tokens.
        follows_rules: whether its attention can be replaced.
    """

    grid: Grid
    embed_dim: int
    depth: int
    num_prefix_tokens: int = 0
    follows_rules: bool = False

    @abstractmethod
    def embed(
        self,
        patches: Float[Tensor, "b n p"],
        index: Int[Tensor, "b v"] | None = None,
        shape: Sequence[int] | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Embed tokens with their positions; only those at `index`, gathered before embedding."""

    @abstractmethod
    def run(self, patches: Float[Tensor, "b n p"], wanted: Pass) -> Features:
        """Encode tokens; all encoders differ in this and share the rest."""

    def encode_patches(
        self,
        patches: Float[Tensor, "b n p"],
        plan: MaskPlan | None = None,
        *,
        taps: Sequence[int] = (),
        absent: Bool[Tensor, "b n"] | None = None,
        shape: Sequence[int] | None = None,
        corrupt: Corrupt | None = None,
        neck: Neck | None = None,
        rule: Rule | None = None,
    ) -> Features:
        """Encode the visible tokens of a plan, or all tokens.

        Args:
            patches: tokens in `patchify`'s order.
            plan: what is visible; None for everything, as at inference.
            taps: blocks whose raw output is wanted, zero-based.
            absent: tokens without data when there is no plan.
            shape: grid of the patches where it differs from the encoder's own.
            corrupt: with a plan, work on all tokens in raster order and let this change hidden
                ones: called with layer 0 after embedding (before positions) and with layer k
                before block k - 1.
            neck: called with the last block's output and the taps before the final norm.
            rule: with a corruption, how tokens read each other instead of plain attention.

        Raises:
            UsageError: for a rule that this encoder cannot follow.
        """
        if rule is not None and not self.follows_rules:
            raise UsageError(
                f"encoder {type(self).__name__}",
                "has an attention of its own, which cannot be replaced",
                "use a plain ViT",
            )
        grid = tuple(self.grid.shape if shape is None else shape)
        if plan is None:
            readable = None if absent is None else ~absent
            return self.run(patches, Pass(grid, None, readable, None, tuple(taps), None, neck))
        if corrupt is None:
            seen = Pass(grid, plan.visible, plan.readable, None, tuple(taps), None, neck)
            return self.run(patches, seen)
        hidden = ~membership(plan.visible, patches.shape[1])
        readable = None if plan.absent is None else ~plan.absent
        return self.run(
            patches, Pass(grid, None, readable, hidden, tuple(taps), corrupt, neck, rule)
        )

    @abstractmethod
    def embed_flops(self, num_tokens: int) -> int:
        """Return the FLOP of embedding tokens of one sample."""

    @abstractmethod
    def forward_flops(self, num_tokens: int) -> int:
        """Return the FLOP of encoding tokens of one sample, embedding included."""

    def map_shape(self, shape: Sequence[int], tap: int = -1) -> tuple[int, ...]:
        """Return the cells per axis of what a tap gives for a grid of tokens (-1: the final ones).

        Args:
            shape: tokens per axis.
            tap: block, zero-based; hierarchical encoders give coarser or finer maps.
        """
        del tap
        return tuple(shape)

    def parts_in_order(self) -> list[tuple[str, ...]]:
        """Return the names of parts in the order in which an image passes them.

        The first entry makes tokens; each other one is a block and what leads to the next. Anything
        else, such as the last norm, comes behind them. Layer-wise learning rates count along this
        list (mae.md, "Layer decay").
        """
        num = len(list(self.get_submodule("blocks").children()))
        blocks = [(f"blocks.{number}",) for number in range(num)]
        return [("cls_token", "pos_embed", "patch_embed"), *blocks]

    def layer_of(self, name: str) -> int:
        """Return the place of a parameter in `parts_in_order`, their number for all others.

        Args:
            name: of the parameter, relative to the encoder.
        """
        order = self.parts_in_order()
        for number, parts in enumerate(order):
            if any(name == part or name.startswith(f"{part}.") for part in parts):
                return number
        return len(order)

    def visible_flops(self, num_visible: int) -> int:
        """Return the FLOP of encoding visible tokens of one sample while all others are dropped.

        By default as many tokens of a whole grid cost the same.
        """
        return self.forward_flops(num_visible)

    def encode(
        self,
        images: Float[Tensor, "b c *s"],
        plan: MaskPlan | None = None,
        *,
        taps: Sequence[int] = (),
        absent: Bool[Tensor, "b n"] | None = None,
    ) -> Features:
        """Encode images of any size that the patch divides; positions are interpolated.

        Raises:
            UsageError: for another number of channels or a size the patch does not divide.
        """
        grid = Grid.of(images, self.grid.patch)
        if grid.channels != self.grid.channels:
            raise UsageError(
                f"image with {grid.channels} channels",
                f"does not fit an encoder made for {self.grid.channels}",
                "choose the encoder's bands, in its order, or train one for these",
            )
        patches = patchify(images, self.grid.patch)
        return self.encode_patches(patches, plan, taps=taps, absent=absent, shape=grid.shape)

    def forward(self, images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b t d"]:
        """Return the final-normed sequence, prefix tokens in front, as timm's forward_features."""
        return self.encode(images).sequence
