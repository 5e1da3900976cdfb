"""What `mimkit evaluate faces` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ...core.errors import UsageError
from ...core.heads.pool import Pooling
from .judge import DEMOGRAPHIC

Asked = Literal["deepfake", "synthetic", "antispoof", "attributes", "identity"]


@dataclass(frozen=True, kw_only=True)
class EvaluateFacesConfig:
    """Judge a detector of fakes or presentation attacks, or probe what an encoder knows of faces.

    deepfake: learn from the stores --train, judge on their test parts and on every collection of
    --test. synthetic: leave one generator out at a time. antispoof: leave one collection out at a
    time. attributes, identity: probes with a few labelled images.

    A pre-trained encoder stays frozen and gets a linear detector per fold, beside random
    initialisations and 16x16 pixels; a fine-tuned model (deepfake only) gives its own
    probabilities. People, videos or images on both sides are an error that lists them.
    """

    protocol: Asked = "deepfake"
    """What is asked."""
    model: Path | None = None
    """Model directory, pre-trained or fine-tuned."""
    train: tuple[Path, ...] = ()
    """Curated stores to learn from; of a fine-tuned model those it was trained on."""
    test: tuple[Path, ...] = ()
    """Further stores: judged only (deepfake), or one more to leave out (antispoof)."""
    scores: Path | None = None
    """Judge these scores instead of a model: CSV with file, score (larger: fake), label, and any of
    identity, video, method, collection, split (val chooses the threshold)."""
    out: Path
    """Folder for evaluation.json, results.csv, scores.csv, evaluation.md and report.html."""
    simulate_attacks: bool = False
    """Add simulated prints, screens and reflections of all genuine faces: for trying things out, no
    substitute for filmed attacks."""
    fact: str = "label"
    """What `attributes` asks: label, or a fact of the manifest such as hair_colour."""
    shots: tuple[int, ...] = (3,)
    """Labelled images a class for `attributes` and `identity`."""
    draws: int = 5
    """Draws of these images."""
    breakdown: tuple[str, ...] = DEMOGRAPHIC
    """Facts by which results are divided where faces have them."""
    intervals: int = 500
    """Draws behind a confidence interval (of people, or videos); 0 leaves intervals out."""
    robustness: int = 0
    """Faces of a test set that are degraded to draw AUC over JPEG quality, size, blur, noise and
    brightness; 0 leaves it out."""
    errors: int = 6
    """Worst errors of each kind that the report shows."""
    random_seeds: int = 3
    """Random initialisations that a frozen encoder is compared with."""
    pooling: Annotated[Pooling, tyro.conf.OmitArgPrefixes] = field(default_factory=Pooling)
    """How tokens become one vector."""
    batch_size: int = 64
    """Faces per forward pass; changes no result."""
    seed: int = 0
    """Of draws."""
    device: str = "auto"
    """`cpu`, `cuda` or `auto` (cuda when there is one)."""
    num_threads: int | None = None
    """CPU threads; torch's own choice when not given."""

    def __post_init__(self) -> None:
        """Check that the numbers make sense.

        Raises:
            UsageError: naming field, value and fix.
        """
        least = {"draws": 1, "random_seeds": 0, "intervals": 0, "robustness": 0, "errors": 0}
        least |= {"batch_size": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                value = f"{name} {getattr(self, name)}"
                raise UsageError(value, "is too small", f"use {smallest} or more")
        if not self.shots or min(self.shots) < 1:
            raise UsageError(f"shots {self.shots}", "are no numbers of images", "use 1 or more")
        if self.scores is None and (self.model is None or not self.train):
            missing = "--model" if self.model is None else "--train"
            raise UsageError(missing, "is not given", "name a model and stores, or give --scores")
