"""An encoder with a head that answers a question: its configuration, composition and storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..batch import Batch, Progress
from ..checkpoints.model_dir import CONFIG_FILE, LoadedModel, check_fit, load_model
from ..config_tree import from_plain
from ..context import make_context
from ..encoders.contract import Encoder, Features
from ..errors import UsageError, WeightsError
from ..grid import Grid
from ..noise import Noise
from ..objectives.labels import IGNORED
from .classify import ClassificationHead, Pool
from .hierarchical import HierarchicalHead
from .segmentation import SegmentationHead, default_taps, doubling_scales
from .unetr import UnetrHead

Task = Literal["segment", "classify"]
DenseHead = Literal["simple", "unetr", "hierarchical"]
HEAD_PART = "head"


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What a fine-tuned model answers; stored with it."""

    task: Task
    """`segment`: a class for every pixel; `classify`: one for the image."""
    classes: tuple[str, ...]
    """Names in the order of the class numbers."""
    image_size: tuple[int, ...]
    """Pixels per axis that it was trained on."""
    taps: tuple[int, ...] = (-1,)
    """Encoder blocks that a segmentation head reads, -1 for the final output."""
    head: DenseHead = "simple"
    """Kind of a segmentation head."""
    dim: int = 64
    """Width of a simple or hierarchical head at the token grid."""
    stem_dim: int = 16
    """Width of a segmentation head at full resolution (UNETR's feature size)."""
    deep_supervision: bool = False
    """A segmentation head also scores coarser levels in training."""
    pool: Pool = "mean"
    """What a classification head pools."""
    min_valid: float = 0.5
    """A token with a smaller share of valid pixels is absent."""

    def build(self, grid: Grid, embed_dim: int) -> nn.Module:
        """Return a new head for an encoder.

        Raises:
            UsageError: when the task has more classes than a map can hold, or no two; or for
                deep supervision of a head with one level.
        """
        if len(self.classes) > IGNORED:
            raise UsageError(
                f"{len(self.classes)} classes", f"are more than {IGNORED}", "merge some of them"
            )
        if self.task == "classify":
            return ClassificationHead(embed_dim, len(self.classes), self.pool)
        given = grid, embed_dim, len(self.classes), self.taps
        if self.head == "unetr":
            return UnetrHead(*given, self.stem_dim, self.deep_supervision)
        if self.head == "hierarchical":
            return HierarchicalHead(*given, self.dim, self.stem_dim, self.deep_supervision)
        if self.deep_supervision:
            remedy = "use head 'unetr' or 'hierarchical', or leave it out"
            raise UsageError("deep_supervision", "needs a head with levels", remedy)
        return SegmentationHead(*given, self.dim, self.stem_dim)


def usual_taps(
    head: DenseHead, depth: int, patch: Sequence[int], read: Sequence[int] = ()
) -> tuple[int, ...]:
    """Return the encoder blocks that a segmentation head reads when nothing else is asked for.

    Args:
        head: kind of head.
        depth: blocks of the encoder.
        patch: pixels per token and axis.
        read: blocks that pre-training's decoder read. Where it read several, heads with levels read
            the same ones, which were made to hold detail (hi-end-mae.md, "Gotchas").
    """
    if head == "simple":
        return default_taps(depth)
    between = sorted(tap for tap in read if 0 <= tap < depth - 1)
    if len(between) < 2:
        num_skips = min(len(doubling_scales(patch)) - 2, depth - 1)
        between = [depth * i // (num_skips + 1) for i in range(1, num_skips + 1)]
    return (*between, -1)


@runtime_checkable
class DeeplySupervised(Protocol):
    """A head that can also score coarser levels."""

    def all_scores(
        self, features: Features, images: Float[Tensor, "b c *s"]
    ) -> tuple[Float[Tensor, "b k *_"], ...]:
        """Return scores in the images' resolution, then those of coarser levels, finest first."""
        ...


class TaskModel(nn.Module):
    """Encoder and head.

    Args:
        encoder: a (pre-trained) encoder.
        config: the task.
        head: a trained head; a new one when None.
    """

    def __init__(self, encoder: Encoder, config: TaskConfig, head: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        self.head = config.build(encoder.grid, encoder.embed_dim) if head is None else head

    def forward(self, batch: Batch) -> Float[Tensor, "b k *s"]:
        """Return float32 scores: (b, k) for an image task, (b, k, *s) for a dense one."""
        features, images = self._read(batch)
        return self.head(features, images).float()

    def all_scores(self, batch: Batch) -> tuple[Float[Tensor, "b k *_"], ...]:
        """Return the same, and with deep supervision those of coarser levels, finest first."""
        features, images = self._read(batch)
        if not isinstance(self.head, DeeplySupervised):
            return (self.head(features, images).float(),)
        return tuple(scores.float() for scores in self.head.all_scores(features, images))

    def _read(self, batch: Batch) -> tuple[Features, Float[Tensor, "b c *s"]]:
        """Return the encoder's features, and the images without what is not valid."""
        grid = Grid.of(batch.images, self.encoder.grid.patch)
        context = make_context(
            batch, grid, Progress(0.0, 0), Noise(), self.encoder.embed, self.config.min_valid
        )
        taps = tuple(tap for tap in self.config.taps if tap >= 0)
        features = self.encoder.encode(context.images, taps=taps, absent=context.absent)
        return features, context.images

    @torch.inference_mode()
    def probabilities(self, batch: Batch) -> Float[Tensor, "b k *s"]:
        """Return class probabilities without gradient."""
        return self(batch).softmax(dim=1)


@dataclass(frozen=True)
class LoadedTask:
    """A fine-tuned model directory in memory.

    Args:
        model: encoder and head, in evaluation mode.
        config: the task.
        loaded: the whole model directory.
    """

    model: TaskModel
    config: TaskConfig
    loaded: LoadedModel

    @property
    def normaliser(self) -> dict[str, Any]:
        """How pixels became numbers, as the domain wrote it."""
        return self.loaded.normaliser


def load_task(directory: str | Path, *, device: torch.device | str = "cpu") -> LoadedTask:
    """Read a fine-tuned model directory.

    Raises:
        UsageError: when the model was pre-trained only and answers no question yet.
        WeightsError: when the directory is incomplete or of another architecture.
    """
    loaded = load_model(directory, device=device)
    stored: Mapping[str, Any] = loaded.extra
    if "task" not in stored or f"{HEAD_PART}.safetensors" not in loaded.tensors:
        raise UsageError(
            directory,
            "is a pre-trained encoder without a task head, so it has no classes to predict",
            f"run `mimkit finetune --model {directory} --data STORE --out RUN` first",
        )
    try:
        config: TaskConfig = from_plain(TaskConfig, stored["task"], "config.json extra.task")
    except UsageError as error:
        raise WeightsError(
            Path(directory) / CONFIG_FILE, f"describes no task ({error})", "fine-tune again"
        ) from error
    model = TaskModel(loaded.method.encoder, config)
    state = loaded.tensors[f"{HEAD_PART}.safetensors"]
    check_fit(state, model.head.state_dict(), directory)
    model.head.load_state_dict(state)
    return LoadedTask(model.to(device).eval(), config, loaded)
