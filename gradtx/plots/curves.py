"""Curves of the training loss against the step."""

from collections.abc import Sequence
from itertools import cycle
from os import PathLike
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

# Dark enough for text on white; neighbours differ in hue, and no two of the eighteen are alike.
COLOURS = (
    *("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#e08214", "#17a2a8"),
    *("#8c2d04", "#e377c2", "#6b8e23", "#3b3b98", "#b8860b", "#008b5a"),
    *("#7b1fa2", "#c2185b", "#00639c", "#5d8a00", "#f4511e", "#546e7a"),
)


class Curve(NamedTuple):
    """The losses of one training run."""

    label: str
    panel: str
    """The title of the panel that it is drawn in."""
    losses: np.ndarray
    """Shape (steps,); above 0 where they are to show on the logarithmic axis."""


def smooth(losses: np.ndarray, points: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Means of the losses over stretches of steps, of equal length on a logarithmic axis, and each one's last step.

    >>> smooth(np.array([8.0, 4.0, 3.0, 1.0]), points=2)
    (array([1, 4]), array([8.        , 2.66666667]))
    """
    ends = np.unique(np.geomspace(1, len(losses), points).round().astype(int))
    starts = np.r_[0, ends[:-1]]
    return ends, np.add.reduceat(losses.astype(float), starts) / (ends - starts)


def spread(heights: Sequence[float], gap: float) -> np.ndarray:
    """Heights from 0 to 1, moved apart in their order until neighbours are at least `gap` from each other.

    >>> spread([0.5, 0.5, 1.0], gap=0.25)
    array([0.375, 0.625, 1.   ])
    """
    order = np.argsort(heights, kind="stable")
    room = gap * np.arange(len(order))
    # With every height less its room, keeping apart is keeping in order: rising from below, or falling from above.
    free = np.clip(np.asarray(heights, float)[order], 0, 1) - room
    middle = (np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1]) / 2
    apart = np.clip(middle, 0, 1 - room[-1:]) + room
    return apart[np.argsort(order, kind="stable")]


def plot_losses(curves: Sequence[Curve], path: str | PathLike[str], title: str = "") -> None:
    """Saves a picture of training losses against the step, both axes logarithmic; `path` ends as its format, in `.png`.

    One panel below the other; a colour and a label a curve, and behind them the other panels' curves in grey. Losses
    are smoothed (`smooth`); a curve ends where its loss stops being finite. Matplotlib's global state is left alone.
    """
    lines = [(curve, colour, *_finite(*smooth(curve.losses))) for curve, colour in zip(curves, cycle(COLOURS))]
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    shown = np.concatenate([losses for *_, losses in lines])
    # A diverging run leaves the picture instead of squeezing the others.
    highest = 3 * max((losses[0] for *_, losses in lines if len(losses)), default=1.0)
    low, high = (shown.min() / 1.5, min(1.5 * shown.max(), highest)) if len(shown) else (0.1, 1.0)

    figure = Figure(figsize=(8.5, 0.9 + 3.1 * len(panels)), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    grid = figure.subplots(len(panels), sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, panel in zip(grid, panels):
        own = [line for line in lines if line[0].panel == panel]
        axes.set(xscale="log", yscale="log", xlim=(1, max(2, *(len(c.losses) for c in curves))), ylim=(low, high))
        axes.set_title(panel, loc="left", fontsize=12)
        axes.set_ylabel("training loss", fontsize=11)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        for curve, _, steps, losses in lines:
            if curve.panel != panel:
                axes.plot(steps, losses, color="0.85", linewidth=1, zorder=1)
        ends = [(steps[-1], min(losses[-1], high)) if len(losses) else (1, high) for *_, steps, losses in own]
        heights = spread([np.log(loss / low) / np.log(high / low) for _, loss in ends], gap=min(0.125, 1 / len(own)))
        for i, ((curve, colour, steps, losses), end, height) in enumerate(zip(own, ends, heights)):
            # A curve under others that coincide with it is wider than they are, so that each shows.
            above = sum(np.array_equal(steps, s) and np.allclose(losses, y, rtol=0.05) for *_, s, y in own[i + 1 :])
            axes.plot(steps, losses, color=colour, linewidth=1.8 + 1.8 * above, solid_capstyle="round")
            axes.annotate(
                curve.label,
                end,
                (1.04, height),
                textcoords="axes fraction",
                color=colour,
                fontsize=11,
                fontweight="bold",
                verticalalignment="center",
                annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "linestyle": ":", "relpos": (0, 0.5)},
            )
    grid[-1].set_xlabel("step", fontsize=11)
    figure.savefig(path)


def _finite(steps: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Only the points that a logarithmic axis can show."""
    keep = np.isfinite(losses) & (losses > 0)
    return steps[keep], losses[keep]
