"""How features of faces are read is chosen on other people, and the choice follows the numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mimkit.core.batch import Batch
from mimkit.core.grid import Grid
from mimkit.core.masking.facial import FACE
from mimkit.core.methods import DecoderConfig, EncoderConfig, MAEConfig
from mimkit.pipelines.faces.rows import Face
from mimkit.pipelines.features import random_method
from mimkit.pipelines.study import faces_identity
from mimkit.pipelines.study.faces_data import JUDGED, REAL
from mimkit.pipelines.study.faces_identity import IDENTITY, KINDS, LOOKS, Look
from mimkit.pipelines.study.units import Numbers, Study

WIDTH = 12


def numbers(linear: float, nearest: float) -> Numbers:
    return dict(zip(IDENTITY.values(), (linear, nearest), strict=True))


def test_looks_are_told_apart_and_have_the_sizes_they_say() -> None:
    assert len({look.name for look in LOOKS}) == len(LOOKS)
    encoder = EncoderConfig(embed_dim=WIDTH, depth=3, num_heads=2, patch_size=8)
    config = MAEConfig(encoder=encoder, decoder=DecoderConfig(dim=8, depth=1, num_heads=2))
    network = random_method(config, Grid.for_image((64, 64), 8, channels=1), 0).encoder
    maps = torch.zeros(2, 64, 64, dtype=torch.int8)
    maps[:, 16:48, 16:48] = 1
    batch = Batch(torch.randn(2, 1, 64, 64), None, torch.arange(2), regions=maps)
    sizes = {
        "mean and deviation": 2 * WIDTH,
        "class token": WIDTH,
        "regions": len(FACE.regions) * WIDTH,
        "cells": 16 * WIDTH,
        "tokens": 64 * WIDTH,
    }
    for look in LOOKS:
        assert look.extract(network, batch).shape == (2, sizes[look.take]), look.name
    regions = Look("regions").extract(network, batch).unflatten(1, (len(FACE.regions), WIDTH))
    tokens = Look("tokens").extract(network, batch).unflatten(1, (8, 8, WIDTH))
    named = {region.name: place for place, region in enumerate(FACE.regions)}
    skin = tokens[:, 2:6, 2:6].flatten(1, 2).mean(dim=1)
    assert torch.allclose(regions[:, named["skin"]], skin, atol=1e-5)
    assert not regions[:, named["nose"]].any()  # is not seen


def test_whitening_makes_directions_alike_and_uses_the_reference_alone() -> None:
    random = torch.Generator().manual_seed(0)
    scales = torch.tensor([3.0, 2.0, 1.0])
    reference = 5 + torch.randn(4000, 3, generator=random) * scales
    made = faces_identity.whitened(reference, reference)
    found = made.var(dim=0, correction=0)
    assert found.max() / found.min() < 1.5 < 9 / 1  # variances were 9 to 1
    assert torch.allclose(made.mean(dim=0), torch.zeros(3), atol=1e-4)
    one = faces_identity.whitened(reference[:1], reference)
    assert torch.allclose(one, made[:1], atol=1e-4)


def test_each_kind_is_judged_once_as_was_best_for_it_on_other_people(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, str, int]] = []
    favourite = {"FSFM": LOOKS[3].name, "MAE": LOOKS[-1].name, "random": LOOKS[0].name}

    def answer(units: list, study: Study, label: str) -> dict[str, Numbers]:
        found = {}
        for unit in units:
            kind, store = unit.arguments["kind"], unit.arguments["store"]
            looks = [Look(**look) for look in unit.arguments["looks"]]
            asked.append((kind, store, len(looks)))
            names = ["16x16 pixels"] if kind == "pixels" else [look.name for look in looks]
            found[unit.name] = {
                name: numbers(0.9 if favourite.get(kind) == name else 0.5, 0.5) for name in names
            }
        return found

    monkeypatch.setattr(faces_identity, "run_units", answer)
    study = Study(tmp_path, tmp_path, seeds=2, workers=1)
    recipes = {(kind, seed): {"seed": seed} for kind in KINDS for seed in range(2)}
    text = faces_identity.subsection(study, recipes, {kind: f"kind {kind}" for kind in KINDS})
    assert asked[:8] == [(k, REAL, len(LOOKS)) for k in KINDS for _ in range(2)]
    assert asked[8:] == [(k, JUDGED, 1) for k in KINDS for _ in range(2)]
    for kind, name in favourite.items():
        assert f"| kind {kind}: {name} | 0.900 ± 0.000 | 0.500 ± 0.000 |" in text
    assert "| kind pixels: 16x16 pixels | 0.500 ± 0.000 |" in text
    assert text.count("each read as chosen: **met**") == 6


def test_people_of_other_collections_are_not_asked_for() -> None:
    def face(row: int, collection: str) -> Face:
        who = f"{collection}-{row // 5}"
        name = f"{collection}-{row}"
        return Face(
            id=name, uri=name, label="real", collection=collection, identities=(who,), row=row
        )

    faces = [face(row, collection) for collection in ("orl", "caltech") for row in range(10)]
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    features[:5] += 20
    found = faces_identity.identify(faces, features, seed=0)
    assert set(found) == set(IDENTITY.values())
    assert min(found.values()) == 1.0
