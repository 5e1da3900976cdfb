"""One process at a time works in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import UsageError


@contextmanager
def locked(path: Path, folder: Path, what: str) -> Iterator[None]:
    """Hold a lock file; the system releases it when the process ends, however that happens.

    Args:
        path: lock file, made when it is missing.
        folder: what is protected, for messages.
        what: who else may be at work, for messages.

    Raises:
        UsageError: when another process holds it.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            remedy = "wait until it ends, or choose another --out"
            raise UsageError(folder, f"another {what} is at work here", remedy) from None
        yield
    finally:
        os.close(descriptor)
