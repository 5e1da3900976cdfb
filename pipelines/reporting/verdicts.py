"""What to think of a run, in words, from its numbers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluate import Evaluation
from .blocks import Tone, Verdict
from .facts import RunFacts
from .probes import MODEL, against_random, in_words, line_of, others
from .reconstructions import Reconstructed

SLOW_DATA = 0.1
"""Share of waiting from which data are too slow."""

_FALLING = 0.99  # the last losses must be below this share of the first
_MANY_CONSTANT = 0.2  # share of patches without structure from which it is worth a word
_FEW_PLACES = 100  # labelled test places below which a score is a rough guess


def pretrain_verdict(
    facts: RunFacts,
    found: Evaluation | None,
    pictures: Reconstructed | None,
    untrained: Sequence[str] = (),
) -> Verdict:
    """Return the verdict on a pre-training run.

    Args:
        facts: what the folder says.
        found: probes, when they were measured.
        pictures: reconstructions, when there are any.
        untrained: objectives whose decoder still has its first weights.
    """
    problems = [*training_problems(facts), *_probe_problems(found)]
    problems += _picture_problems(pictures, untrained)
    findings = [_loss_in_words(facts), *_held_out(facts), *_probe_findings(found)]
    if found is not None and found.reconstruction is not None:
        score = found.reconstruction
        if not score.leaked_statistics:
            word = "closer than" if score.beats_interpolation else "no closer than"
            findings.append(
                f"hidden pixels are predicted {word} by interpolation from the visible ones "
                f"(squared error {score.model:.3f} against {score.biharmonic:.3f})"
            )
    notes = _picture_notes(pictures)
    return Verdict(
        _tone(facts, problems),
        f"{_state(facts)}; {_learned(found)}",
        tuple(text for text in (*findings, *notes) if text),
        tuple(problems),
    )


def finetune_verdict(facts: RunFacts) -> Verdict:
    """Return the verdict on a fine-tuning run."""
    scores = facts.scores or {}
    problems = training_problems(facts)
    findings = [_loss_in_words(facts)]
    headline = _state(facts)
    if "accuracy" in scores:
        headline += (
            f"; on the {scores['split']} split it finds {scores['balanced_accuracy']:.0%} of a "
            f"class on average, mean IoU {scores['miou']:.2f}"
        )
        findings += _score_findings(scores)
        problems += _score_problems(scores)
    elif facts.finished:
        problems.append(
            "no labelled sample was left for the test, so nothing is known about new places; "
            "curate with other --fractions or --cell-km"
        )
    findings.append(
        "started from random weights"
        if facts.recipe.get("scratch")
        else "started from a pre-trained encoder"
    )
    return Verdict(_tone(facts, problems), headline, tuple(filter(None, findings)), tuple(problems))


def training_problems(facts: RunFacts) -> list[str]:
    """Return what went wrong in training, each with what to do."""
    problems = []
    if facts.bad_step is not None and not facts.finished:
        rows = len(facts.bad_step.get("rows", ()))
        problems.append(
            f"stopped at step {facts.bad_step.get('step')}: loss or gradient was not finite; the "
            f"{rows} samples of the step are listed in {facts.path / 'nonfinite.json'}; look at "
            "them, or lower optim.base_lr or set optim.clip_grad"
        )
    waiting = facts.mean_over_time("data_wait")
    if waiting is not None and waiting > SLOW_DATA:
        problems.append(
            f"training waited for data {waiting:.0%} of the time; raise efficiency.loader_threads "
            "or efficiency.prefetch, or move the store to a faster disk"
        )
    ends = facts.ends("loss")
    if ends is not None and not ends[1] < _FALLING * ends[0]:
        problems.append(
            f"the loss does not fall ({ends[0]:.4g} at the start, {ends[1]:.4g} at the end); try "
            "another optim.base_lr, or train longer"
        )
    return problems


def _tone(facts: RunFacts, problems: Sequence[str]) -> Tone:
    if facts.bad_step is not None and not facts.finished:
        return "bad"
    return "warn" if problems or not facts.finished else "good"


def _state(facts: RunFacts) -> str:
    took = duration(facts.seconds)
    if facts.finished:
        return f"Finished: {facts.num_epochs} epochs, {facts.last_step} steps, {took}"
    share = facts.epochs_done / max(facts.num_epochs, 1)
    return (
        f"Not finished: {facts.epochs_done:.1f} of {facts.num_epochs} epochs ({share:.0%}) after "
        f"{took}; the command that started it continues it"
    )


def duration(seconds: float) -> str:
    """Return seconds in the unit that fits: "42 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _loss_in_words(facts: RunFacts) -> str:
    ends = facts.ends("loss")
    return "" if ends is None else f"training loss from {ends[0]:.4g} to {ends[1]:.4g}"


def _held_out(facts: RunFacts) -> list[str]:
    values = [value for value in facts.look("loss")[1] if math.isfinite(value)]
    if len(values) < 2:
        return []
    return [f"held-out loss, always with the same masks, from {values[0]:.4g} to {values[-1]:.4g}"]


def _learned(found: Evaluation | None) -> str:
    signs = {} if found is None else against_random(found)
    if not signs:
        return "not probed"
    better = [probe for probe, sign in signs.items() if sign > 0]
    worse = [probe for probe, sign in signs.items() if sign < 0]
    if better and worse:
        how = f"better than one with random weights in the {_and(better)} probe and worse in the "
        return f"the encoder is {how}{_and(worse)} probe"
    if not better:
        word = "worse" if worse else "no better"
        return f"the encoder is {word} than one with random weights"
    where = "" if len(better) == len(signs) else f" in the {_and(better)} probe"
    return f"the encoder is better than one with random weights{where}"


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


def _probe_findings(found: Evaluation | None) -> list[str]:
    texts = []
    for probe in () if found is None else dict.fromkeys(p.probe for p in found.probes):
        assert found is not None
        model = line_of(found.probes, MODEL, probe)
        if model is not None:
            compared = "; ".join(in_words(model, other) for other in others(found, probe))
            score = f"balanced accuracy {model.balanced:.3f}"
            texts.append(f"{probe} probe on frozen features: {score}, {compared}")
    return texts


def _probe_problems(found: Evaluation | None) -> list[str]:
    signs = {} if found is None else against_random(found)
    if not signs or max(signs.values()) > 0:
        return []
    return [
        "pre-training has not made the features better for these labels: train longer or on more "
        "samples, or the task may need no more than colours (compare with band means)"
    ]


def _picture_problems(pictures: Reconstructed | None, untrained: Sequence[str]) -> list[str]:
    problems = [
        f"the decoder of {name!r} was never trained, so its reconstructions mean nothing; the "
        "encoder is not affected"
        for name in untrained
    ]
    if pictures is not None and pictures.constants_count and pictures.constant_share > 0:
        problems.append(
            f"{pictures.constant_share:.1%} of the patches are nearly constant and standardising "
            "them turns noise into the target; set the noise floor above 0"
        )
    return problems


def _picture_notes(pictures: Reconstructed | None) -> list[str]:
    if pictures is None:
        return []
    notes = []
    if pictures.leaked_statistics:
        notes.append(
            "reconstructions below borrow mean and contrast of every hidden patch from the truth, "
            "because targets are standardised per patch"
        )
    if pictures.constant_share > _MANY_CONSTANT and not pictures.constants_count:
        notes.append(
            f"{pictures.constant_share:.0%} of the patches (water, cloud tops, ...) are nearly "
            "constant and carry no weight in a standardised loss"
        )
    return notes


def _score_findings(scores: Mapping[str, Any]) -> list[str]:
    known = [
        (name, iou)
        for name, iou in zip(scores["classes"], scores["iou"], strict=True)
        if iou is not None
    ]
    if not known:
        return []
    worst, best = min(known, key=lambda p: p[1]), max(known, key=lambda p: p[1])
    places = "pixels" if scores["task"] == "segment" else "samples"
    total = sum(scores["count"])
    majority = max(scores["count"]) / max(total, 1)
    return [
        f"accuracy {scores['accuracy']:.3f} over {total:,} labelled {places} of "
        f"{scores['num_samples']} samples; always answering with the most frequent class would "
        f"give {majority:.3f}",
        f"best class {best[0]} (IoU {best[1]:.2f}), weakest {worst[0]} (IoU {worst[1]:.2f})",
    ]


def _score_problems(scores: Mapping[str, Any]) -> list[str]:
    counts = dict(zip(scores["classes"], scores["count"], strict=True))
    missing = [name for name, number in counts.items() if not number]
    problems = []
    if missing:
        problems.append(
            f"the test has no {', '.join(missing)}, so nothing is known about it; another split "
            "(--seed, --cell-km of `mimkit curate`) may have some"
        )
    if scores["task"] == "classify" and 0 < sum(counts.values()) < _FEW_PLACES:
        problems.append(
            f"only {sum(counts.values())} labelled samples were tested: a rough guess, no more"
        )
    if scores["accuracy"] <= max(counts.values()) / max(sum(counts.values()), 1):
        problems.append(
            "always answering with the most frequent class would score as well: train longer, or "
            "look at the labels"
        )
    return problems
