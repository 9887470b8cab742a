"""Plots of training loss curves."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradtx.core.arguments import checked
from gradtx.core.errors import said
from gradtx.plots.style import Style, coincide, dress, label_ends, new_axes, over, styles, wrapped
from gradtx.training import Fit

Log = Literal["", "x", "y", "xy"]


class Line(NamedTuple):
    """Curve of one optimizer: median and quartiles, each of shape (points,)."""

    x: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray
    seeds: int


@checked
def curves(
    losses: Mapping[str, Any],
    x: Any = None,
    axes: Axes | None = None,
    *,
    points: int | None = None,
    log: Log = "y",
    labels: Mapping[str, str] | None = None,
    title: str = "Training loss",
    xlabel: str | None = None,
    ylabel: str = "training loss",
) -> Axes:
    """Draw training losses against the step or against time.

    Losses of several seeds are drawn as their median, with a band between the quartiles. Each optimizer has the same
    colour in every picture. A curve ends where its loss stops being finite, and the axes cut off a run that grows far
    beyond its start; a seed that diverged counts as an infinite loss.

    Args:
      losses: A dict from names to arrays of shape (steps,) or (seeds, steps), or to the results of `gx.fit` and
        `gx.fit_seeds`.
      x: The values of the horizontal axis: an array of shape (steps,), or a dict with one for each name; None for the
        steps, from 1.
      axes: The Axes to draw on; None for a new figure, which is `axes.figure` of the result.
      points: The number of averages over intervals of steps to draw in place of every loss, 1 or more, for the noisy
        losses of small batches; the intervals are equally long on the axis. None for every loss.
      log: The logarithmic axes: `"x"`, `"y"`, `"xy"`, or `""` for none.
      labels: A dict from names to the labels beside the curves; None for the names.
      title: The title.
      xlabel: The label of the horizontal axis, with its unit, such as `"time (s)"`; None for "step", or "x" if `x` is
        given.
      ylabel: The label of the vertical axis.

    Returns:
      The Axes.

    Raises:
      TypeError: `losses` is not a dict.
      ValueError: `losses` is empty, an array has another shape, or `points` or `log` is out of range.

    >>> import numpy as np
    >>> from gradtx import plots
    >>> seeds = np.geomspace(1, [0.01, 0.02, 0.04], 50).T
    >>> axes = plots.curves({"adam": seeds, "sgd": 2 * seeds})
    >>> [float(line.get_ydata()[-1]) for line in axes.lines]
    [0.02, 0.04]
    """
    lines = prepared("curves", losses, x, points, log)
    axes = new_axes(axes, 8.5, 4.2)
    look = styles(lines)
    axes.set(**limits(list(lines.values()), log))
    draw(axes, lines, look, labels or {})
    seeds = max(line.seeds for line in lines.values())
    note = f"  (median of {seeds} seeds; band: quartiles)" if seeds > 1 else ""
    dress(axes, title, (xlabel or ("step" if x is None else "x")) + note, ylabel)
    return axes


@checked
def panels(
    groups: Mapping[str, Mapping[str, Any]],
    x: Any = None,
    *,
    points: int | None = None,
    log: Log = "xy",
    labels: Mapping[str, str] | None = None,
    title: str = "",
    xlabel: str | None = None,
    ylabel: str = "training loss",
) -> np.ndarray:
    """Draw training losses in several panels of a new figure, one below the other.

    Each panel shows the curves of the other panels in grey. Losses of several seeds are drawn as their median, with a
    band between the quartiles.

    Args:
      groups: A dict from panel titles to losses, each a dict from names to arrays of shape (steps,) or (seeds, steps),
        or to the results of `gx.fit` and `gx.fit_seeds`.
      x: The values of the horizontal axis: an array of shape (steps,), or a dict with one for each name; None for the
        steps, from 1.
      points: The number of averages over intervals of steps to draw in place of every loss, 1 or more; None for every
        loss.
      log: The logarithmic axes: `"x"`, `"y"`, `"xy"`, or `""` for none.
      labels: A dict from names to the labels beside the curves; None for the names.
      title: The title of the figure.
      xlabel: The label of the horizontal axis, with its unit; None for "step", or "x" if `x` is given.
      ylabel: The label of the vertical axes.

    Returns:
      The Axes, an array of shape (panels,); their figure is `axes[0].figure`.

    Raises:
      TypeError: `groups` or the losses of a panel are not a dict.
      ValueError: `groups` is empty, an array has another shape, or `points` or `log` is out of range.

    >>> import numpy as np
    >>> from gradtx import plots
    >>> axes = plots.panels({"momentum": {"nesterov": np.ones(9)}, "size": {"adagrad": np.ones(9)}})
    >>> [one.get_title(loc="left") for one in axes]
    ['momentum', 'size']
    """
    if not isinstance(groups, Mapping):
        raise TypeError(f"panels: groups must be a dict from titles to losses, got {said(groups)}")
    if not groups:
        raise ValueError("panels needs one group or more, got none")
    lines = {panel: prepared("panels", losses, x, points, log) for panel, losses in groups.items()}
    every = [line for group in lines.values() for line in group.values()]
    look = styles([name for group in lines.values() for name in group])
    figure = Figure(figsize=(8.5, 0.9 + 3.1 * len(lines)), dpi=120, layout="constrained")
    figure.suptitle(wrapped(title, 7.0, 13), fontsize=13, fontweight="bold")
    grid = figure.subplots(len(lines), sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (panel, own) in zip(grid, lines.items()):
        axes.set(**limits(every, log))
        for other in (line for name, group in lines.items() if name != panel for line in group.values()):
            axes.plot(other.x, other.middle, color="0.85", linewidth=1, zorder=1)
        draw(axes, own, look, labels or {})
        dress(axes, panel, "", ylabel)
    grid[-1].set_xlabel(xlabel or ("step" if x is None else "x"), fontsize=11)
    return grid


def prepared(function: str, losses: Any, x: Any, points: int | None, log: str) -> dict[str, Line]:
    """Check the losses and compute the curve of each name, restricted to the values that the axes can show."""
    if not isinstance(losses, Mapping):
        raise TypeError(f"{function}: losses must be a dict from names to arrays, got {type(losses).__name__}")
    if not losses:
        raise ValueError(f"{function} needs the losses of one optimizer or more, got none")
    if log not in ("", "x", "y", "xy"):
        raise ValueError(f"{function}: log must be '', 'x', 'y' or 'xy', got {said(log)}")
    if points is not None and points < 1:
        raise ValueError(f"{function}: points must be 1 or more, got {points}")
    lines = {}
    for name, several in losses.items():
        if isinstance(several, Fit):
            several = several.history["loss"]
        several = np.asarray(several, float)
        if several.ndim not in (1, 2) or not several.size:
            raise ValueError(
                f"{function}: the losses of {name!r} must be of shape (steps,) or (seeds, steps), or a Fit; "
                f"got {several.shape}"
            )
        several = np.atleast_2d(several)
        at = x[name] if isinstance(x, Mapping) and name in x else x
        at = np.arange(1, several.shape[1] + 1) if at is None else np.asarray(at, float)
        if at.shape != several.shape[1:]:
            raise ValueError(
                f"{function}: x of {name!r} must be of shape {several.shape[1:]}, as its losses, got {at.shape}"
            )
        if points is not None:
            ends, several = smooth(several, points, "x" in log)
            at = at[ends - 1]
        # Diverged losses become a large finite number, so that quantiles between them and others are defined.
        low, middle, high = np.quantile(np.nan_to_num(several, nan=1e300, posinf=1e300), (0.25, 0.5, 0.75), axis=0)
        keep = (abs(middle) < 1e280) & ((middle > 0) | ("y" not in log)) & ((at > 0) | ("x" not in log))
        lines[name] = Line(at[keep], low[keep], middle[keep], high[keep], len(several))
    return lines


def smooth(losses: np.ndarray, points: int = 40, log: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Average the losses over intervals of steps; return the last step of each interval, and the averages.

    The intervals are equally long on the axis, which is logarithmic with `log`.

    >>> smooth(np.array([8.0, 4.0, 3.0, 1.0]), points=2)
    (array([1, 4]), array([8.        , 2.66666667]))
    """
    steps = losses.shape[-1]
    ends = np.geomspace(1, steps, points) if log else np.linspace(0, steps, points + 1)[1:]
    ends = np.unique(ends.round().astype(int))
    ends = ends[ends > 0]
    starts = np.r_[0, ends[:-1]]
    return ends, np.add.reduceat(losses.astype(float), starts, axis=-1) / (ends - starts)


def limits(lines: Sequence[Line], log: str) -> dict[str, Any]:
    """Scales and limits of the axes: they show all curves, but cut off runs that grow far beyond their start."""
    lines = [line for line in lines if len(line.x)]
    x = np.concatenate([line.x for line in lines]) if lines else np.ones(1)
    y = np.concatenate([line.middle for line in lines]) if lines else np.ones(1)
    left, right, first = x.min(), x.max(), max((line.middle[0] for line in lines), default=1.0)
    if "y" in log:
        low, high = y.min() / 1.5, min(1.5 * y.max(), 3 * first)
    else:
        margin = 0.04 * (first - y.min()) or 0.04 * abs(first) or 1.0
        low, high = y.min() - margin, min(y.max() + margin, first + 12 * margin)
    if left == right:
        right = 2 * left if left > 0 else left + 1
    return {
        "xscale": "log" if "x" in log else "linear",
        "yscale": "log" if "y" in log else "linear",
        "xlim": (left, right),
        "ylim": (low, high),
    }


def draw(axes: Axes, lines: Mapping[str, Line], look: Mapping[str, Style], labels: Mapping[str, str]) -> None:
    """Draw curves with their bands and labels on axes whose limits are set."""
    (left, _), (low, high) = axes.get_xlim(), axes.get_ylim()
    several = list(lines.items())
    for i, (name, line) in enumerate(several):
        style = look[name]
        above = sum(coincide((line.x, line.middle), (other.x, other.middle)) for _, other in several[i + 1 :])
        if np.any(line.high > line.low):
            bottom = np.maximum(line.low, low) if axes.get_yscale() == "log" else line.low
            axes.fill_between(
                line.x, bottom, np.minimum(line.high, 1e3 * abs(high)), color=style.color, alpha=0.18, lw=0
            )
        axes.plot(
            line.x,
            line.middle,
            label=name,
            **over(style, above),
        )
    ends = [_end(line, left, high) for line in lines.values()]
    label_ends(axes, ends, [labels.get(name, name) for name in lines], [look[name] for name in lines])


def _end(line: Line, left: float, high: float) -> tuple[float, float]:
    """The point where a curve ends, or leaves the picture for good."""
    inside = np.flatnonzero(line.middle <= high)
    if not len(inside):
        return left, high
    last = min(inside[-1] + 1, len(line.x) - 1)
    return float(line.x[last]), min(float(line.middle[last]), high)
