"""MTCNN: a cascade of three small networks that finds faces and five points.

Zhang, Zhang, Li and Qiao 2016, "Joint face detection and alignment using multitask cascaded
convolutional networks", section II: a proposal network runs over a pyramid of the picture, a
second one refines and rejects, a third one refines and finds the points. The code is our own; the
weights are those of the package facenet-pytorch (MIT), of which only the data files are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ...core.checkpoints.reading import read_tensors
from ...core.errors import UsageError, WeightsError
from .detect import Face, scaled

_CELL, _STRIDE = 12, 2  # pixels that a cell of the proposal map sees, and from cell to cell
_AREAS = (12, 24, 48)  # pixels a side that the three networks were trained on
_MAX_BOXES = 4096  # of one stage; a picture of noise must not fill the memory


def _stem(widths: tuple[int, ...], kernels: tuple[int, ...], pools: tuple[int, ...]) -> nn.Module:
    """Return convolutions with PReLU, each followed by maximum pooling unless its size is 0."""
    layers: list[tuple[str, nn.Module]] = []
    previous = 3
    for number, (width, kernel, pool) in enumerate(zip(widths, kernels, pools, strict=True), 1):
        layers.append((f"conv{number}", nn.Conv2d(previous, width, kernel)))
        layers.append((f"prelu{number}", nn.PReLU(width)))
        if pool:
            layers.append((f"pool{number}", nn.MaxPool2d(pool, 2, ceil_mode=True)))
        previous = width
    stem = nn.Sequential()
    for name, layer in layers:
        stem.add_module(name, layer)
    return stem


class _Proposals(nn.Module):
    """The first network, fully convolutional (figure 2 of the paper, P-Net)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _stem((10, 16, 32), (3, 3, 3), (2, 0, 0))
        self.face, self.shift = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        seen = self.stem(images)
        return self.face(seen).softmax(dim=1)[:, 1], self.shift(seen)


class _Refinement(nn.Module):
    """The second and third network (figure 2 of the paper, R-Net and O-Net)."""

    def __init__(self, stem: nn.Module, flat: int, width: int, num_points: int) -> None:
        super().__init__()
        self.stem = stem
        self.dense, self.prelu = nn.Linear(flat, width), nn.PReLU(width)
        self.face, self.shift = nn.Linear(width, 2), nn.Linear(width, 4)
        self.points = nn.Linear(width, 2 * num_points) if num_points else None

    def forward(self, crops: Float[Tensor, "n 3 s s"]) -> tuple[Tensor, Tensor, Tensor | None]:
        # The weights were trained on maps with columns before rows.
        seen = self.stem(crops).permute(0, 3, 2, 1).flatten(1)
        seen = self.prelu(self.dense(seen))
        points = None if self.points is None else self.points(seen)
        return self.face(seen).softmax(dim=1)[:, 1], self.shift(seen), points


_NAMES: dict[str, Mapping[str, str]] = {
    "pnet": {"conv4_1": "face", "conv4_2": "shift"},
    "rnet": {"dense4": "dense", "prelu4": "prelu", "dense5_1": "face", "dense5_2": "shift"},
    "onet": {
        "dense5": "dense",
        "prelu5": "prelu",
        "dense6_1": "face",
        "dense6_2": "shift",
        "dense6_3": "points",
    },
}
"""Layers beside the stem: their names in the files and in our modules."""


def _networks() -> dict[str, nn.Module]:
    refine = _stem((28, 48, 64), (3, 3, 2), (3, 3, 0))
    output = _stem((32, 64, 64, 128), (3, 3, 3, 2), (3, 3, 2, 0))
    return {
        "pnet": _Proposals(),
        "rnet": _Refinement(refine, 576, 128, 0),
        "onet": _Refinement(output, 1152, 256, 5),
    }


def weights_folder() -> Path:
    """Return the folder of the weights; the package that brings them is found, not imported.

    Raises:
        UsageError: when it is not installed.
    """
    spec = find_spec("facenet_pytorch")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise UsageError(
            "detector mtcnn",
            "needs weights that come with an extra",
            "install it with `pip install 'mimkit[faces]'`, or give boxes from another detector, "
            "or use --detector whole for pictures that are cropped already",
        )
    return Path(places[0]) / "data"


@lru_cache(maxsize=1)
def load_networks() -> dict[str, nn.Module]:
    """Return the three networks with their weights, in evaluation mode.

    Raises:
        UsageError: when the weights are not installed.
        WeightsError: when they are not what they should be.
    """
    folder, networks = weights_folder(), _networks()
    for name, network in networks.items():
        state = {}
        for key, value in read_tensors(folder / f"{name}.pt").items():
            layer, _, rest = key.partition(".")
            state[f"{_NAMES[name].get(layer, f'stem.{layer}')}.{rest}"] = value
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            reason = f"does not hold MTCNN ({' '.join(str(error).split())[:120]})"
            remedy = "install facenet-pytorch 2.5"
            raise WeightsError(folder / f"{name}.pt", reason, remedy) from error
        network.eval().requires_grad_(False)
    return networks


@dataclass(frozen=True, kw_only=True)
class Mtcnn:
    """The detector with its thresholds (those of the paper's release).

    Args:
        min_face: smallest side of a face that is looked for, in pixels of the picture.
        max_side: pictures with a longer side are made smaller first; 0 never does.
        thresholds: least scores of the three networks.
        factor: from one level of the pyramid to the next.
    """

    min_face: int = 20
    max_side: int = 1024
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    factor: float = 0.709
    networks: Mapping[str, nn.Module] = field(
        default_factory=load_networks, repr=False, compare=False
    )

    @property
    def name(self) -> str:
        """Name for manifests."""
        return f"mtcnn-min{self.min_face}-side{self.max_side}"

    @torch.inference_mode()
    def __call__(self, image: UInt8[np.ndarray, "h w 3"], uri: str = "") -> list[Face]:
        """Return the faces of a picture, best first."""
        del uri
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        shrink = 1.0
        if self.max_side and max(image.shape[:2]) > self.max_side:
            shrink = max(image.shape[:2]) / self.max_side
            size = [max(1, round(side / shrink)) for side in image.shape[:2]]
            pixels = F.interpolate(pixels, size=size, mode="area")
        pixels = (pixels - 127.5) / 128
        boxes = self._propose(pixels, max(self.min_face / shrink, float(_CELL)))
        boxes, _ = self._refine(pixels, boxes, "rnet", _AREAS[1], self.thresholds[1])
        boxes, points = self._refine(pixels, boxes, "onet", _AREAS[2], self.thresholds[2])
        if points is None:
            return []
        keep = suppress(boxes, 0.7, smaller=True)
        faces = [
            Face(tuple(box[:4].tolist()), float(box[4]), tuple(map(tuple, five.tolist())))
            for box, five in zip(boxes[keep], points[keep], strict=True)
        ]
        return [scaled(face, shrink) for face in faces]

    def _propose(self, pixels: Tensor, min_face: float) -> Float[Tensor, "n 5"]:
        height, width = pixels.shape[-2:]
        scale, found = _CELL / min_face, [pixels.new_zeros(0, 9)]
        while min(height, width) * scale >= _CELL:
            size = [int(np.ceil(side * scale)) for side in (height, width)]
            score, shift = self.networks["pnet"](F.interpolate(pixels, size=size, mode="area"))
            rows, columns = (score[0] >= self.thresholds[0]).nonzero(as_tuple=True)
            corner = torch.stack([columns, rows], dim=1) * _STRIDE
            boxes = torch.cat([corner / scale, (corner + _CELL) / scale], dim=1)
            parts = [boxes, score[0, rows, columns, None], shift[0, :, rows, columns].T]
            boxes = torch.cat(parts, dim=1)
            found.append(boxes[suppress(boxes, 0.5)])
            scale *= self.factor
        boxes = torch.cat(found)
        # Cells are compared before they are shifted: shifted ones coincide, and too few would stay.
        boxes = boxes[suppress(boxes, 0.7)]
        return torch.cat([shifted(boxes[:, :4], boxes[:, 5:]), boxes[:, 4:5]], dim=1)

    def _refine(
        self, pixels: Tensor, boxes: Tensor, network: str, area: int, threshold: float
    ) -> tuple[Float[Tensor, "n 5"], Float[Tensor, "n 5 2"] | None]:
        if not len(boxes):
            return boxes, None
        square = squared(boxes[:, :4])
        score, shift, points = self.networks[network](cut(pixels, square, area))
        keep = score >= threshold
        square, score = square[keep], score[keep, None]
        moved = torch.cat([shifted(square, shift[keep]), score], dim=1)
        five = None
        if points is not None:
            sides = (square[:, 2:] - square[:, :2])[:, None]
            five = points[keep].view(-1, 2, 5).transpose(1, 2) * sides + square[:, None, :2]
            return moved, five
        return moved[suppress(torch.cat([square, score], dim=1), 0.7)], None


def shifted(boxes: Float[Tensor, "n 4"], shift: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Move the sides of boxes by shares of width and height."""
    return boxes + shift * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


def squared(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Return squares around the same centres with the longer sides."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1, keepdim=True) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def cut(
    pixels: Float[Tensor, "1 3 h w"], boxes: Float[Tensor, "n 4"], area: int
) -> Float[Tensor, "n 3 area area"]:
    """Return squares of a picture, averaged down to `area` pixels a side; 0 outside."""
    height, width = pixels.shape[-2:]
    crops = []
    for left, top, right, bottom in boxes.round().long().tolist():
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        inside = pixels[..., max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        beyond = (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0))
        if inside.numel():
            crop = F.interpolate(F.pad(inside, beyond), size=(area, area), mode="area")
        else:
            crop = pixels.new_zeros(1, 3, area, area)
        crops.append(crop)
    return torch.cat(crops)


def suppress(boxes: Float[Tensor, "n k"], limit: float, *, smaller: bool = False) -> Tensor:
    """Return which boxes stay, best first, when those that overlap a better one are left out.

    Args:
        boxes: left, top, right, bottom, score, and what else belongs to a box.
        limit: largest overlap of two boxes that both stay.
        smaller: divide the intersection by the smaller area instead of by the union.
    """
    order = boxes[:, 4].argsort(descending=True, stable=True)[:_MAX_BOXES]
    corners = boxes[order, :4].numpy()
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    alive, keep = np.ones(len(order), bool), []
    for i in range(len(order)):
        if not alive[i]:
            continue
        keep.append(i)
        low = np.maximum(corners[i, :2], corners[i + 1 :, :2])
        high = np.minimum(corners[i, 2:], corners[i + 1 :, 2:])
        both = np.prod(np.clip(high - low, 0, None), axis=1)
        whole = (
            np.minimum(areas[i], areas[i + 1 :]) if smaller else areas[i] + areas[i + 1 :] - both
        )
        alive[i + 1 :] &= both <= limit * np.maximum(whole, 1e-9)
    return order[keep]
