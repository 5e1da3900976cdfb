"""One line of what `mimkit doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "slow", "missing"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do about it.

    Attributes:
        topic: what was looked at, a few words.
        found: what is there, with numbers.
        state: "ok", "slow" for what works but holds work up, "missing" for what cannot be used.
        remedy: one sentence; empty when there is nothing to do.
        essential: nothing works without it.
    """

    topic: str
    found: str
    state: State = "ok"
    remedy: str = ""
    essential: bool = False

    @property
    def fatal(self) -> bool:
        """Whether nothing works because of this."""
        return self.essential and self.state == "missing"


def gigabytes(num_bytes: float) -> str:
    """Return a size in GB (10^9 bytes), or in MB where that reads better."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
