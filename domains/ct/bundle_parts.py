"""What a MONAI bundle of a CT model needs beside MONAI: the body, and the loop over volumes.

This file and `body.py` are copied into bundles as they are, so they need torch, MONAI, numpy and
scipy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform
from torch import Tensor, nn

from .body import find_body


class AddBodyd(MapTransform):
    """Round an image to whole Hounsfield units, and add the mask of the body under another key.

    Args:
        keys: images (1, d, h, w), depth towards the head.
        body_key: gets a float mask of the same shape.
        padding: HU at and below which nothing was measured.
    """

    def __init__(
        self, keys: str | Sequence[str], body_key: str = "body", padding: float = -2000.0
    ) -> None:
        super().__init__(keys)
        self.body_key, self.padding = body_key, padding

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with whole HU and the mask."""
        item = dict(data)
        for key in self.key_iterator(item):
            image: MetaTensor = item[key]
            item[key] = image.round().clamp(-32768, 32767)
            voxels = item[key].as_tensor().cpu().numpy()[0]
            spacing = [float(step) for step in image.pixdim]
            body = find_body(voxels, spacing) & (voxels > self.padding)
            mask = torch.from_numpy(body[None]).to(image.dtype)
            item[self.body_key] = MetaTensor(mask, meta=dict(image.meta))
        return item


class Evaluator:
    """Segment volumes one after the other: windows, then what comes after them.

    Args:
        dataset: items with the network's input, (2, d, h, w), under "image".
        network: from windows to scores.
        inferer: MONAI's, from input and network to scores of the whole volume.
        postprocessing: gets the item with its scores under "pred".
        device: where windows are computed; scores are gathered in memory of the CPU.
    """

    def __init__(
        self,
        dataset: Iterable[dict[str, Any]],
        network: nn.Module,
        inferer: Callable[[Tensor, nn.Module], Tensor],
        postprocessing: Callable[[dict[str, Any]], Any],
        device: torch.device,
    ) -> None:
        self.dataset, self.network, self.inferer = dataset, network, inferer
        self.postprocessing, self.device = postprocessing, device

    def run(self) -> list[Any]:
        """Segment all volumes and return what became of them."""
        return [self.segment(item) for item in self.dataset]

    def segment(self, item: dict[str, Any]) -> Any:
        """Segment one volume."""
        image = item["image"]
        with torch.no_grad():
            scores = self.inferer(image.as_tensor()[None], self.network.to(self.device))
        return self.postprocessing({**item, "pred": MetaTensor(scores[0], meta=dict(image.meta))})
