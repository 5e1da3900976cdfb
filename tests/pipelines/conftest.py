"""Stores and a pre-trained model that many tests of pipelines read; none of them is changed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import inspected
import pytest
from inspected import Look, Refused
from tiny_store import curate_tiny, pretrain_tiny


@pytest.fixture(scope="session")
def dense_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with a class per pixel."""
    return curate_tiny(tmp_path_factory.mktemp("dense"), masks=True)


@pytest.fixture(scope="session")
def class_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with a class per sample."""
    return curate_tiny(tmp_path_factory.mktemp("classes"), classes=True)


@pytest.fixture(scope="session")
def pretrained(dense_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished pre-training run on `dense_store`."""
    return pretrain_tiny(dense_store, tmp_path_factory.mktemp("pretrained") / "run")


@pytest.fixture
def look(capsys: pytest.CaptureFixture[str]) -> Look:
    """Return what inspects a path."""
    return partial(inspected.look, capsys)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return what inspects a path that must be refused, and gives what was said."""
    return partial(inspected.refused, capsys)
