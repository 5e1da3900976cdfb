"""Diagrams of a run: curves of the log, and maps of embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, UInt8

from .blocks import Picture
from .facts import RunFacts
from .pictures import figure_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Middle tones: they can be read on white and on black paper alike.
INK = "#84848c"
SERIES = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#eab308")
_SMALL = (3.7, 2.3)  # inches
_WIDE = (9.4, 3.1)
_NUM_TICKS = 5
_MANY = 60  # points from which a line is smoothed

_NOISY = ("grad_norm", "images_per_s")
_RANK = "effective_rank"
_SPOKEN = {
    "balanced_accuracy": "balanced accuracy",
    "miou": "mean IoU",
    "linear_probe": "linear probe, balanced accuracy",
    "knn_probe": "kNN probe, balanced accuracy",
    "spread": "spread of features",
}

Points = tuple[Sequence[float], Sequence[float]]


def curves(facts: RunFacts) -> tuple[Picture, ...]:
    """Return the diagrams of a run's log; the loss is the first and widest."""
    if not facts.steps:
        return ()
    shares = {
        _SPOKEN.get(name, name): facts.look(name)
        for name in _look_names(facts)
        if not name.startswith("loss") and name != _RANK
    }
    rank = facts.look(_RANK)
    made = [_loss(facts)]
    if shares:
        made.append(line_chart("held-out samples", shares, "share", marked=True))
    if rank[0]:
        title = "features: effective rank"
        made.append(line_chart(title, {title: rank}, "directions", marked=True, from_zero=True))
    wanted = (
        ("lr", "learning rate", "", 1.0, False),
        ("grad_norm", "gradient norm", "", 1.0, True),
        ("images_per_s", "speed", "images/s", 1.0, True),
        ("data_wait", "waiting for data", "% of the time", 100.0, True),
        ("memory_mb", "memory, peak so far", "MB", 1.0, True),
    )
    for name, title, unit, factor, from_zero in wanted:
        steps, values = facts.series(name)
        if any(map(math.isfinite, values)):
            scaled = [value * factor for value in values]
            line, noisy = {title: (steps, scaled)}, name in _NOISY
            made.append(line_chart(title, line, unit, from_zero=from_zero, noisy=noisy))
    return tuple(made)


def _look_names(facts: RunFacts) -> list[str]:
    return list(dict.fromkeys(name for line in facts.looks for name in line["val"]))


def _loss(facts: RunFacts) -> Picture:
    lines: dict[str, Points] = {}
    if len(facts.terms) != 1:
        lines["loss"] = facts.series("loss")
    lines |= {f"training, {n.replace('_', ' ')}": facts.term(n) for n in facts.terms}
    held_out = facts.look("loss")
    points = {"held-out": held_out} if held_out[0] else {}
    return line_chart("loss", lines, "", points=points, wide=True, noisy=True)


def line_chart(
    title: str,
    lines: Mapping[str, Points],
    unit: str,
    *,
    points: Mapping[str, Points] | None = None,
    marked: bool = False,
    wide: bool = False,
    from_zero: bool = False,
    noisy: bool = False,
) -> Picture:
    """Return curves over steps.

    Args:
        title: of the diagram.
        lines: steps and values by name.
        unit: of the values.
        points: further curves, drawn with marks.
        marked: draw marks on the lines too.
        wide: use the whole width of the page.
        from_zero: let the vertical axis begin at zero.
        noisy: show the trend of long lines.
    """
    figure, axes = canvas(_WIDE if wide else _SMALL)
    everything = [*lines.items(), *(points or {}).items()]
    for number, (name, (steps, values)) in enumerate(everything):
        style = "o-" if marked or number >= len(lines) else "-"
        colour = SERIES[number % len(SERIES)]
        if (
            noisy and style == "-" and len(values) >= _MANY
        ):  # noise stays visible, the trend is in front
            axes.plot(steps, values, style, color=colour, lw=0.8, alpha=0.35)
            values = smoothed(values)
        axes.plot(steps, values, style, color=colour, lw=1.7, ms=3, label=name)
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylabel(unit, fontsize=8)
    axes.locator_params(axis="y", nbins=_NUM_TICKS)
    axes.margins(x=0.01)
    if from_zero:
        axes.set_ylim(0, 1.08 * axes.dataLim.y1 or 1.0)
    if len(everything) > 1:
        axes.legend(frameon=False, fontsize=8 if wide else 7, labelcolor=INK, ncols=1 + wide)
    what = f"{title} over training steps"
    return Picture(figure_uri(figure), _described(what, lines), wide=wide)


def smoothed(values: Sequence[float]) -> Float[np.ndarray, " n"]:
    """Return the mean around each value over a twentieth of the series; NaN counts for nothing."""
    numbers = np.asarray(values, np.float64)
    window = np.ones(max(3, len(numbers) // 20) | 1)
    known = np.isfinite(numbers)
    total = np.convolve(np.where(known, numbers, 0.0), window, "same")
    return total / np.maximum(np.convolve(known, window, "same"), 1.0)


def _described(what: str, lines: Mapping[str, Points]) -> str:
    ends = [
        f"{name} from {values[0]:.4g} to {values[-1]:.4g}" for name, (_, values) in lines.items()
    ]
    return f"{what}: {', '.join(ends)}"


def scatter(
    title: str,
    places: Float[np.ndarray, "n 2"],
    colours: UInt8[np.ndarray, "n 3"],
    legend: Mapping[str, str],
    caption: str,
) -> Picture:
    """Return points in a plane.

    Args:
        title: of the diagram.
        places: of the points; the axes have no units.
        colours: of the points.
        legend: colour ("#rrggbb") by name; left out when there is none.
        caption: line below the picture.
    """
    figure, axes = canvas((4.6, 4.0))
    axes.scatter(*places.T, c=colours / 255.0, s=13, linewidths=0, alpha=0.9)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    for name, colour in legend.items():
        axes.scatter([], [], c=colour, s=22, linewidths=0, label=name)
    if legend:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=2, handletextpad=0.1)
    return Picture(figure_uri(figure), f"{title}, {len(places)} points", caption)


def place_colours(
    lon: Float[np.ndarray, " n"], lat: Float[np.ndarray, " n"]
) -> UInt8[np.ndarray, "n 3"]:
    """Return colours that change smoothly over the ground: red to the east, blue to the north."""
    return np.stack([_rank(lon), np.full(len(lon), 110), _rank(lat)], axis=1).astype(np.uint8)


def _rank(values: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Return numbers as 40 to 240 by their rank, so that outliers do not decide the colours."""
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return (40 + 200 * order / max(len(values) - 1, 1)).round().astype(np.int64)


def canvas(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return an empty diagram without frame, in colours for light and dark pages."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")  # not of pyplot, which keeps global state
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(True, color=INK, alpha=0.22, lw=0.6)
    axes.set_axisbelow(True)
    return figure, axes
