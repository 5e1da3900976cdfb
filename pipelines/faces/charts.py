"""Diagrams of detectors: ROC, DET, reliability, robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ...core.heads.curves import Reliability, Roc
from ..reporting.blocks import Picture
from ..reporting.charts import INK, SERIES, canvas
from ..reporting.pictures import figure_uri
from .robustness import RobustnessCurve

_SIZE = (3.7, 3.3)  # inches
_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95)  # rates that a DET axis names


def roc_chart(curves: Mapping[str, Roc]) -> Picture:
    """Return ROC curves by test set."""
    figure, axes = canvas(_SIZE)
    for colour, (name, curve) in zip(_colours(len(curves)), curves.items(), strict=True):
        axes.step(curve.fpr, curve.tpr, where="post", color=colour, lw=1.6, label=name)
    axes.plot([0, 1], [0, 1], ":", color=INK, lw=0.9)
    _title(axes, "ROC", "false positive rate", "true positive rate")
    axes.legend(frameon=False, fontsize=7, labelcolor=INK, loc="lower right")
    return Picture(figure_uri(figure), f"ROC curves of {', '.join(curves)}")


def det_chart(curves: Mapping[str, Roc]) -> Picture:
    """Return DET curves by test set: both errors on normal-deviate axes (Martin et al. 1997)."""
    figure, axes = canvas(_SIZE)
    for colour, (name, curve) in zip(_colours(len(curves)), curves.items(), strict=True):
        axes.plot(*curve.det(), color=colour, lw=1.6, label=name)
    places = torch.special.ndtri(torch.tensor(_TICKS, dtype=torch.float64)).tolist()
    names = [f"{100 * rate:g} %" for rate in _TICKS]
    axes.set_xticks(places, names, fontsize=6)
    axes.set_yticks(places, names, fontsize=6)
    axes.set_xlim(places[0] - 0.3, places[-1])
    axes.set_ylim(places[0] - 0.3, places[-1])
    _title(axes, "DET", "genuine refused (BPCER)", "fakes accepted (APCER)")
    axes.legend(frameon=False, fontsize=7, labelcolor=INK, loc="upper right")
    return Picture(figure_uri(figure), f"DET curves of {', '.join(curves)}")


def reliability_chart(found: Mapping[str, Reliability]) -> Picture:
    """Return stated against observed shares of fakes by test set."""
    figure, axes = canvas(_SIZE)
    for colour, (name, one) in zip(_colours(len(found)), found.items(), strict=True):
        label = f"{name}, ECE {one.ece:.3f}"
        axes.plot(one.stated, one.observed, "o-", color=colour, lw=1.4, ms=3, label=label)
    axes.plot([0, 1], [0, 1], ":", color=INK, lw=0.9)
    _title(axes, "Reliability", "stated probability", "observed share of fakes")
    axes.legend(frameon=False, fontsize=7, labelcolor=INK)
    return Picture(figure_uri(figure), f"reliability of {', '.join(found)}")


def robustness_chart(degradation: str, curves: Sequence[RobustnessCurve]) -> Picture:
    """Return AUC over the strength of one degradation, a line per detector."""
    figure, axes = canvas(_SIZE)
    for colour, curve in zip(_colours(len(curves)), curves, strict=True):
        order = np.argsort(curve.strengths)
        values = np.array(curve.auc)[order]
        x = np.array(curve.strengths)[order]
        axes.plot(x, values, "o-", color=colour, lw=1.6, ms=3, label=curve.features)
    axes.axhline(0.5, ls=":", color=INK, lw=0.9)
    axes.set_ylim(min(0.45, *(min(curve.auc) for curve in curves)) - 0.03, 1.02)
    _title(axes, degradation, curves[0].unit, "AUC")
    axes.legend(frameon=False, fontsize=7, labelcolor=INK)
    return Picture(figure_uri(figure), f"AUC over {degradation}")


def _colours(num: int) -> list[str]:
    return [SERIES[place % len(SERIES)] for place in range(num)]


def _title(axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(up, fontsize=8)
