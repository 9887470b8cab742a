"""Curves of the training loss."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradtx.core.arguments import checked
from gradtx.core.errors import said
from gradtx.plots.style import Style, coincide, dress, label_ends, new_axes, over, styles

Log = Literal["", "x", "y", "xy"]


class Line(NamedTuple):
    """What is drawn of one optimizer, each of shape (points,)."""

    x: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray


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
    """Draws losses against the step, or against time: of several seeds the median, and a band between the quartiles.

    Each optimizer has the same colour in every picture. A curve ends where its loss stops being finite, and a run that
    grows far beyond its start leaves the picture; a seed that diverged counts as an infinite loss.

    Args:
      losses: For each name an array of shape (steps,), or (seeds, steps).
      x: Where: an array of shape (steps,), or one for each name; None for the steps, from 1.
      axes: What to draw on; None for those of a new figure, which is `axes.figure`.
      points: How many means over stretches of steps are drawn in place of every loss, for losses of small batches;
        the stretches are equally long on the axis.
      log: Which axes are logarithmic: `"x"`, `"y"`, `"xy"` or none, `""`.
      labels: What is written beside each curve, in place of its name.
      title: The title.
      xlabel: What x is, with its unit: `"time (s)"`; "step" by default.
      ylabel: What the losses are.

    Raises `ValueError` or `TypeError` for arrays of other shapes.

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
    dress(axes, title, xlabel or ("step" if x is None else "x"), ylabel)
    if seeds := max((np.shape(several)[0] for several in losses.values() if np.ndim(several) == 2), default=0):
        axes.set_title(f"median of {seeds} seeds; band: quartiles", loc="right", fontsize=9)
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
    """Draws `curves` in several panels of a new figure, one below the other, with the other panels' curves in grey.

    Args:
      groups: For each panel's title its losses, as of `curves`; the other arguments are of `curves` too.
      x: As of `curves`.
      points: As of `curves`.
      log: As of `curves`.
      labels: As of `curves`.
      title: That of the figure.
      xlabel: As of `curves`.
      ylabel: As of `curves`.

    Returns:
      The Axes, shape (panels,); their figure is `axes[0].figure`.

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
    figure.suptitle(title, fontsize=13, fontweight="bold")
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
    """What is drawn of the losses of each name: only what the axes can show."""
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
        several = np.asarray(several, float)
        if several.ndim not in (1, 2) or not several.size:
            raise ValueError(
                f"{function}: the losses of {name!r} must be of shape (steps,) or (seeds, steps), got {several.shape}"
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
        # What has diverged is infinite: a finite number, so that quantiles between it and others are defined.
        low, middle, high = np.quantile(np.nan_to_num(several, nan=1e300, posinf=1e300), (0.25, 0.5, 0.75), axis=0)
        keep = (abs(middle) < 1e280) & ((middle > 0) | ("y" not in log)) & ((at > 0) | ("x" not in log))
        lines[name] = Line(at[keep], low[keep], middle[keep], high[keep])
    return lines


def smooth(losses: np.ndarray, points: int = 40, log: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Means of the losses over stretches of steps, of equal length on a logarithmic axis, and each one's last step.

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
    """The scales of the axes and their limits, which hold all curves but runs that grow far beyond their start."""
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
    """Draws curves with their bands and labels on axes whose limits are set."""
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
    label_ends(axes, ends, [labels.get(name, name) for name in lines], [look[name].color for name in lines])


def _end(line: Line, left: float, high: float) -> tuple[float, float]:
    """Where a curve ends, or leaves the picture for good."""
    inside = np.flatnonzero(line.middle <= high)
    if not len(inside):
        return left, high
    last = min(inside[-1] + 1, len(line.x) - 1)
    return float(line.x[last]), min(float(line.middle[last]), high)
