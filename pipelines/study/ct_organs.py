"""The organ probe of the CT study: which organ is at the centre of a patch.

Regions, not positions, are divided: a block of the volume is judged by probes that were taught
with positions at least 48 mm from all that are judged, along some axis. So patches of up to 48 mm
share no voxel with them, and larger ones do not hold the centre of one. (With no voxel in common
patches of 96 mm leave too little of a body of 36 cm: what remains for teaching holds hardly any of
the organs that are asked for, and raw voxels are then below chance.) Left and right are one class,
and so are all ribs and all vertebrae: otherwise a class would be in one region only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...core.batch import Batch
from ...core.encoders.contract import Encoder
from ...core.heads.knn import knn_scores
from ...core.heads.pool import Pooling, image_features, token_features
from ...core.heads.probe import balanced_accuracy, fit_probe
from ...domains.ct.curate.scan import ScanParams, scan_sources
from ...domains.ct.curate.volumes import Loaded, ReadParams, load
from ...domains.ct.hounsfield import WINDOW
from ...domains.ct.normalise import Normaliser
from ..features import Extract, thumbnail
from .ct_data import ABDOMEN, SPACING
from .ct_tumours import TAPS
from .units import Numbers

SIZES = {"96 mm": (24, 32, 32), "48 mm": (8, 16, 16)}
"""Voxels of patches, at 4 x 3 x 3 mm: 32^3 voxels of the file, and eight tokens (32 x 48 x 48)."""

GAP = (12, 16, 16)
"""Voxels between the centre of a patch that teaches and any that is judged, along some axis."""

PROBES = ("linear", "kNN")
MOST, LEAST = 40, 8  # positions of a class; what is needed to teach and to judge it
BLOCKS = (3, 2, 2)
"""Parts of the volume along depth, height and width; each is judged by the others."""

_APART = 2  # voxels between positions
_VOTERS, _BATCH = 20, 64


@dataclass(frozen=True)
class Places:
    """Centres of patches and the organs there.

    Args:
        centres: voxels along depth, height, width.
        organs: place in `classes`.
        blocks: which part of the volume.
        classes: names.
    """

    centres: Int[np.ndarray, "n 3"]
    organs: Int[np.ndarray, " n"]
    blocks: Int[np.ndarray, " n"]
    classes: tuple[str, ...]


def merged(name: str) -> str:
    """Return the class of a structure: no side, no number of a rib or vertebra."""
    name = re.sub(r"_(left|right)(?=_|$)", "", name)
    return re.sub(r"^(rib|vertebrae)_.*", r"\1", name)


def read_abdomen(samples: Path) -> Loaded:
    """Return the volume with its organs, on the grid that the encoders were trained on."""
    folder = samples / "ct" / ABDOMEN
    params = ScanParams(pattern=None, exclude=(), masks=(), labels=True)
    ref = scan_sources([folder], params).refs[0]
    read = ReadParams(
        spacing=SPACING,
        window=WINDOW,
        size=(1, 1, 1),
        max_spacing=max(SPACING),
        allow_identified=False,
        segments=(),
        names=(),
    )
    return load(ref, read)


def draw_places(loaded: Loaded, seed: int) -> Places:
    """Return at most `MOST` positions of every organ, drawn by a seed."""
    assert loaded.labels is not None  # the folder holds labels
    labels = loaded.labels[::_APART, ::_APART, ::_APART]
    numbers: dict[str, list[int]] = {}
    for number, name in loaded.names:
        numbers.setdefault(merged(name), []).append(number)
    random = np.random.default_rng(seed)
    classes, centres = [], []
    for name, members in sorted(numbers.items()):
        found = np.argwhere(np.isin(labels, members)) * _APART
        if len(found) >= 2 * LEAST:
            classes.append(name)
            centres.append(random.permutation(found)[:MOST])
    organs = np.repeat(np.arange(len(classes)), [len(part) for part in centres])
    joined = np.concatenate(centres)
    parts = joined * np.array(BLOCKS) // np.array(loaded.voxels.shape)
    blocks = parts @ np.array([BLOCKS[1] * BLOCKS[2], BLOCKS[2], 1])
    return Places(joined, organs, blocks, tuple(classes))


def batches(
    loaded: Loaded, places: Places, normaliser: Normaliser, sizes: Sequence[int]
) -> Iterator[Batch]:
    """Yield the patches around positions; what is beyond the volume is absent, as air is."""
    sides = [(size // 2, size) for size in sizes]
    voxels = torch.from_numpy(np.pad(loaded.voxels, sides))
    body = torch.from_numpy(np.pad(loaded.body, sides))
    for start in range(0, len(places.centres), _BATCH):
        some = places.centres[start : start + _BATCH].tolist()
        # Padding moves everything by half a patch, so a centre is where its patch begins.
        boxes = [tuple(slice(a, a + s) for a, s in zip(c, sizes, strict=True)) for c in some]
        valid = torch.stack([body[box] for box in boxes])
        stored = torch.stack([voxels[box] for box in boxes])[:, None]
        yield Batch(normaliser(stored, valid), valid, torch.arange(len(some)))


def encoder_features(encoder: Encoder) -> Extract:
    """Return mean and deviation of a patch's tokens, and the mean of the eight at its centre."""
    pooling = Pooling(taps=TAPS)

    def extract(batch: Batch) -> Float[Tensor, "b f"]:
        sides = zip(batch.images.shape[2:], encoder.grid.patch, strict=True)
        shape = [size // side for size, side in sides]
        middle = (slice(n // 2 - 1, n // 2 + 1) for n in shape)
        tokens = token_features(encoder, batch, pooling).unflatten(1, shape)
        centre = tokens[(slice(None), *middle)].mean(dim=(1, 2, 3))
        return torch.cat([image_features(encoder, batch, pooling), centre], dim=1)

    return extract


def three_numbers(batch: Batch) -> Float[Tensor, "b 3"]:
    """Return mean, deviation and centre value of a patch, within the window."""
    flat = batch.images.flatten(1)
    middle = (size // 2 for size in batch.images.shape[2:])
    centre = batch.images[(slice(None), 0, *middle)]
    return torch.stack([flat.mean(dim=1), flat.std(dim=1), centre], dim=1)


def raw_patch(batch: Batch) -> Float[Tensor, "b 512"]:
    """Return a patch averaged to 8 x 8 x 8 values."""
    return thumbnail(batch, side=8)


def apart(one: Int[np.ndarray, "n 3"], other: Int[np.ndarray, "m 3"]) -> Bool[np.ndarray, " n"]:
    """Return which positions of the first keep the gap to all of the second."""
    wide: Bool[np.ndarray, "n m 3"] = np.abs(one[:, None] - other[None]) >= np.array(GAP)
    return np.all(np.any(wide, axis=2), axis=1)


def judge(samples: Path, seed: int, *sources: tuple[str, Extract]) -> Numbers:
    """Return the balanced accuracy of both probes for each kind of features and size of patches.

    Args:
        samples: folder of the samples.
        seed: of the positions, and of the rows that choose a penalty.
        sources: name and function from patches to features.
    """
    loaded = read_abdomen(samples)
    places = draw_places(loaded, seed)
    normaliser = Normaliser(scale=(1.0,), offset=(0.0,), window=WINDOW, spacing=SPACING)
    judged = judged_rows(places)
    classes = sorted({places.classes[place] for place in places.organs[judged]})
    found: Numbers = {
        "positions": len(judged),
        "judged": int(judged.sum()),
        "chance": 1 / len(classes),
        "classes": classes,
    }
    for name, extract in sources:
        found[name] = {}
        for size, voxels in SIZES.items():
            rows = [extract(batch) for batch in batches(loaded, places, normaliser, voxels)]
            for kind, share in probe(torch.cat(rows), places, seed).items():
                found[name][column(size, kind)] = share
    return found


def column(size: str, kind: str) -> str:
    """Return the name of a number: "96 mm, linear"."""
    return f"{size}, {kind}"


def folds(
    places: Places,
) -> Iterator[tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]]:
    """Yield for every block the rows that teach and those that are judged.

    A class that has too few positions to teach it in a fold is not judged there.
    """
    for block in np.unique(places.blocks):
        inside = places.blocks == block
        teach = ~inside & apart(places.centres, places.centres[inside])
        counts = np.bincount(places.organs[teach], minlength=len(places.classes))
        yield teach, inside & (counts[places.organs] >= LEAST)


def judged_rows(places: Places) -> Bool[np.ndarray, " n"]:
    """Return which positions are judged, of classes that have enough of them."""
    judged = np.any([rows for _, rows in folds(places)], axis=0)
    counts = np.bincount(places.organs[judged], minlength=len(places.classes))
    return judged & (counts[places.organs] >= LEAST)


def probe(features: Float[Tensor, "n f"], places: Places, seed: int) -> dict[str, float]:
    """Return the balanced accuracy of both probes over all blocks."""
    organs, blocks = torch.from_numpy(places.organs), torch.from_numpy(places.blocks)
    guesses = {name: torch.full((len(organs),), -1) for name in PROBES}
    num = len(places.classes)
    for teach, rows in folds(places):
        if not rows.any():
            continue
        known, wanted = torch.from_numpy(teach), torch.from_numpy(rows)
        own, labels = features[known], organs[known]
        fit = fit_probe(own, labels, num, seed=seed, groups=blocks[known])
        guesses["linear"][wanted] = fit.scores(features[wanted]).argmax(dim=1)
        voters = max(1, min(_VOTERS, int(labels.bincount().max()) // 2))
        near = knn_scores(own, labels, features[wanted], num, num_neighbours=voters)
        guesses["kNN"][wanted] = near.argmax(dim=1)
    counted = torch.from_numpy(judged_rows(places))
    return {
        name: balanced_accuracy(guess[counted], organs[counted]) for name, guess in guesses.items()
    }


def kinds(encoder: Encoder | None) -> list[tuple[str, Extract]]:
    """Return the features of an encoder, or the yardsticks without one."""
    if encoder is None:
        return [("three numbers", three_numbers), ("raw patch", raw_patch)]
    return [("encoder", encoder_features(encoder))]
