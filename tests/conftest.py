"""What all tests share: one thread per worker, the folder of real sample files, GPU skipping."""

from __future__ import annotations

import os

# Before torch or numpy are imported: workers run side by side, each with one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise it asks the network on import

from pathlib import Path

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Shared machines stall now and then, and a failure must be the same failure on the next run.
hypothesis.settings.register_profile("mimkit", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("mimkit")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def samples() -> Path:
    """Return the folder with real files of every domain; skip without it, fail in CI."""
    folder = Path(os.environ.get("MIMKIT_SAMPLES", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "satellite").is_dir():
        message = f"no sample data in {folder}: set MIMKIT_SAMPLES to the folder that holds it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need a GPU where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
