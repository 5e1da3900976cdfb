"""Small pictures for a results page: bars with their spread, rows of images."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .page import Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 90


def bars(label: str, columns: Sequence[str], rows: Rows) -> bytes:
    """Return grouped bars as PNG: a group per column, a bar per row, whiskers over seeds.

    Args:
        label: of the value axis.
        columns: names of the groups.
        rows: name of a bar and the values of all seeds in each group.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for place, (name, cells) in enumerate(rows):
        means = [statistics.fmean(cell) for cell in cells]
        whiskers = [statistics.stdev(cell) if len(cell) > 1 else 0.0 for cell in cells]
        where = np.arange(len(columns)) + (place - (len(rows) - 1) / 2) * width
        axes.bar(where, means, 0.9 * width, yerr=whiskers, capsize=2, label=name)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize="small")
    return _png(figure)


def curves(across: str, label: str, lines: Mapping[str, tuple[Sequence[float], ...]]) -> bytes:
    """Return measured points and fitted curves on logarithmic axes as PNG.

    Args:
        across: label of the horizontal axis.
        label: of the vertical axis.
        lines: horizontal values, measured and fitted ones by name.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, (places, measured, fitted) in lines.items():
        (drawn,) = axes.plot(places, measured, "o", ms=4, label=name)
        axes.plot(places, fitted, "-", lw=1, color=drawn.get_color())
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize="small")
    return _png(figure)


def panels(titles: Sequence[str], rows: Sequence[Sequence[np.ndarray]]) -> bytes:
    """Return rows of small images (h, w, 3) uint8 as PNG, one title per column."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 * len(titles), 1.5 * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, images in zip(grid, rows, strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_axis_off()
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize="small")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()
