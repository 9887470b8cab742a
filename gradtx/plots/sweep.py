"""Plots of sweeps: the result against the hyperparameters."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Rectangle

from gradtx.core.arguments import checked
from gradtx.plots.style import COLOURS, GREY, dress, new_axes
from gradtx.training.sweep import Sweep

BEST = COLOURS[5]


@checked
def sweep(
    found: Sweep,
    axes: Axes | None = None,
    *,
    by: Callable[[Any], Any] = lambda result: result,
    title: str = "",
    ylabel: str = "final loss",
) -> Axes:
    """Draw the results of a sweep, a line over one hyperparameter or a map over two, and mark the lowest.

    Axes are logarithmic where positive values span a factor of ten; a result of 0 is then drawn at the lower edge.
    Results that are not finite are drawn at the upper edge or as grey cells, and results far above the others lie
    outside the picture. Two hyperparameters that do not form a grid are drawn as points.

    Args:
      found: The `Sweep` that `gx.sweep` returned.
      axes: The Axes to draw on; None for a new figure, which is `axes.figure` of the result.
      by: A function from the results to one number for each optimizer; needed where `train` returned a tree.
      title: The title; "" for the lowest result and its hyperparameters.
      ylabel: The label of the results.

    Returns:
      The Axes.

    Raises:
      TypeError: `found` is not a `Sweep`.
      ValueError: The sweep has no hyperparameter that varies, or more than two, or the results are not one number for
        each optimizer.

    >>> import gradtx as gx
    >>> from gradtx import plots
    >>> found = gx.sweep(lambda tx: (tx.factor - 0.1) ** 2, gx.grid(gx.scale, factor=[0.01, 0.1, 1.0]))
    >>> axes = plots.sweep(found)
    >>> axes.get_title(loc="left"), axes.get_xlabel(), axes.get_xscale()
    ('lowest: 0 at factor = 0.1', 'factor', 'log')
    """
    if not isinstance(found, Sweep):
        raise TypeError(f"sweep: found must be what gx.sweep returns, got {type(found).__name__}")
    names = list(found.hyperparameters)
    if len(names) not in (1, 2):
        which = f": {', '.join(names)}" if names else ""
        raise ValueError(f"sweep draws one hyperparameter or two, this sweep has {len(names)}{which}")
    result = by(found.results)
    values = (
        np.asarray(result, float)
        if len(jax.tree.leaves(result)) == 1 and not isinstance(result, (dict, tuple))
        else None
    )
    if values is None or values.shape != found.hyperparameters[names[0]].shape:
        have = "a tree" if values is None else f"an array of shape {values.shape}"
        raise ValueError(
            f"sweep draws one number for each of {len(found.hyperparameters[names[0]])} optimizers, got {have}; "
            "choose one with by=…"
        )
    values = np.where(np.isfinite(values), values, np.nan)
    columns = [np.asarray(found.hyperparameters[name], float) for name in names]
    if len(names) == 2 and spans(columns[1]) and not spans(columns[0]):  # the logarithmic axis is the longer one
        names, columns = names[::-1], columns[::-1]
    best = None if np.isnan(values).all() else int(np.nanargmin(values))
    if not title and best is not None:
        place = ", ".join(f"{name} = {column[best]:.3g}" for name, column in zip(names, columns))
        title = f"lowest: {values[best]:.3g} at {place}"
    axes = new_axes(axes, 8.5, 4.2)
    if len(names) == 1:
        _line(axes, columns[0], values, best)
        dress(axes, title, names[0], ylabel)
    else:
        _map(axes, columns, values, best, ylabel)
        dress(axes, title, names[0], names[1])
        axes.grid(False)
    return axes


def spans(values: np.ndarray) -> bool:
    """Whether values are positive and differ by a factor of ten or more."""
    values = values[np.isfinite(values)]
    return bool(len(values) and values.min() > 0 and values.max() >= 9.99 * values.min())


def above_zero(values: np.ndarray) -> np.ndarray:
    """Return the results above 0, for a logarithmic axis, if all finite results are 0 or more; none otherwise."""
    values = values[np.isfinite(values)]
    return values[values > 0] if len(values) and values.min() >= 0 else values[:0]


def _line(axes: Axes, x: np.ndarray, values: np.ndarray, best: int | None) -> None:
    order = np.argsort(x, kind="stable")
    x, values, best = x[order], values[order], None if best is None else int(np.argsort(order)[best])
    known, positive = np.isfinite(values), above_zero(values)
    axes.set_xscale("log" if spans(x) else "linear")
    axes.set_yscale("log" if spans(positive) else "linear")
    if spans(positive):  # results far above the others lie outside the picture
        low, high = positive.min(), min(positive.max(), 1e3 * np.median(positive))
        low, high = low / (high / low) ** 0.08, high * (high / low) ** 0.15
        axes.set_ylim(low, high)
        values = np.where(values == 0, low, values)
    axes.plot(x[known], values[known], color=COLOURS[6], linewidth=1.8, marker="o", markersize=5, label="result")
    if not known.all():
        above = axes.get_xaxis_transform()
        axes.plot(x[~known], np.full((~known).sum(), 0.96), "x", color=GREY, transform=above, mew=2, ms=8)
        axes.annotate(
            "diverged",
            (x[~known][0], 0.96),
            (0, -9),
            xycoords=above,
            textcoords="offset points",
            ha="center",
            va="top",
            color=GREY,
            fontsize=10,
        )
    if best is not None:
        axes.plot(
            x[best], values[best], "*", color=BEST, mec="white", markersize=18, label="lowest", zorder=3, clip_on=False
        )


def _map(axes: Axes, columns: list[np.ndarray], values: np.ndarray, best: int | None, label: str) -> None:
    (x, i), (y, j) = (np.unique(column, return_inverse=True) for column in columns)
    shown = values[np.isfinite(values)]
    low, high = (shown.min(), shown.max()) if len(shown) else (0.0, 1.0)
    if spans(positive := above_zero(values)):  # extremes do not compress the colours of the rest
        low = max(positive.min(), 1e-4 * np.median(positive))
        high = min(high, 1e2 * np.median(positive))
        scale = LogNorm(low, high)
    else:
        scale = Normalize(low, high if high > low else low + 1)
    coloured = np.where(values == 0, low, values) if len(positive) else values
    colours = colormaps["cividis"]
    if len(x) * len(y) == len(values) == len(set(zip(i.tolist(), j.tolist()))):
        cells = np.full((len(y), len(x)), np.nan)
        cells[j, i] = coloured
        axes.set_facecolor("#e8e8e8")
        image = axes.imshow(np.ma.masked_invalid(cells), cmap=colours, norm=scale, origin="lower", aspect="auto")
        axes.set(xticks=range(len(x)), yticks=range(len(y)))
        axes.set_xticklabels([f"{value:.3g}" for value in x])
        axes.set_yticklabels([f"{value:.3g}" for value in y])
        for a, b, value, colour in zip(i, j, values, coloured):
            text = f"{value:.2g}" if np.isfinite(value) else "diverged"
            dark = np.isfinite(value) and sum(colours(scale(colour))[:3]) < 1.4
            if len(values) <= 80:
                axes.text(a, b, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
        if best is not None:
            frame = Rectangle(
                (i[best] - 0.5, j[best] - 0.5), 1, 1, fill=False, edgecolor=BEST, linewidth=3, label="lowest"
            )
            frame.set_clip_on(False)
            axes.add_patch(frame)
    else:
        bad = ~np.isfinite(values)
        image = axes.scatter(
            *(c[~bad] for c in columns), c=coloured[~bad], cmap=colours, norm=scale, s=70, edgecolor="0.3"
        )
        axes.scatter(*(c[bad] for c in columns), marker="x", color=GREY, s=60, label="diverged")
        axes.set_xscale("log" if spans(columns[0]) else "linear")
        axes.set_yscale("log" if spans(columns[1]) else "linear")
        if best is not None:
            axes.plot(columns[0][best], columns[1][best], "*", color=BEST, mec="white", markersize=17, label="lowest")
    figure = axes.get_figure(root=True)
    if figure:
        bar = figure.colorbar(
            image,
            ax=axes,
            extend=("neither", "min", "max", "both")[(shown.min() < low) + 2 * (shown.max() > high)]
            if len(shown)
            else "neither",
        )
        bar.set_label(label, fontsize=11)
        bar.ax.tick_params(labelsize=10)
