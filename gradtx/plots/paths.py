"""Plots and animations of optimizer paths over the contours of a loss of two parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from gradtx.core.arguments import checked
from gradtx.core.errors import said
from gradtx.core.programs import program_of
from gradtx.lab import Surface, descend
from gradtx.plots.style import dress, entitle, named, new_axes, styles

GROUND = LinearSegmentedColormap.from_list("ground", ["#ffffff", "#dae2eb"])  # paler than any path
STARS = {"minimum": "#ffd21f", "local minimum": "white"}


@checked
def paths(
    surface: Surface,
    optimizers: Mapping[str, Any],
    steps: int = 100,
    axes: Axes | None = None,
    *,
    start: Any = None,
    key: Array | None = None,
    legend: bool = True,
) -> Axes:
    """Draw the paths of optimizers over the contours of a surface.

    Each dot is a step and the larger dot the last step. A filled star marks the lowest minimum, an empty star another
    minimum. The contour levels are logarithmic above the minimum, four in a decade, and labelled with the loss once a
    decade. The legend shows the final losses.

    Args:
      surface: One of `gradtx.lab.SURFACES`, or a custom `Surface`.
      optimizers: A dict from names to optimizers.
      steps: The number of updates, 1 or more.
      axes: The Axes to draw on; None for a new figure, which is `axes.figure` of the result.
      start: The initial parameters, two numbers; None for the start of the surface.
      key: The random key of the gradient noise, the same for every optimizer; None for `jax.random.key(0)`.
      legend: If True, draw a legend to the right.

    Returns:
      The Axes.

    Raises:
      ValueError: `optimizers` is empty, an optimizer needs an extra argument that a surface does not give, `start` is
        not two numbers, or `steps` is below 1.
      TypeError: `surface` is not a `Surface`, or `optimizers` is not a dict of optimizers.

    >>> import gradtx as gx
    >>> from gradtx import plots
    >>> from gradtx.lab import SURFACES
    >>> axes = plots.paths(SURFACES["bowl"], {"sgd": gx.sgd(0.5), "momentum": gx.heavy_ball(0.1)}, steps=20)
    >>> axes.get_title(loc="left")
    'Quadratic bowl: 20 steps'
    """
    return _drawn("paths", surface, optimizers, steps, axes, start, key, legend)[0]


@checked
def animate(
    surface: Surface,
    optimizers: Mapping[str, Any],
    steps: int = 100,
    axes: Axes | None = None,
    *,
    start: Any = None,
    key: Array | None = None,
    legend: bool = True,
    frames: int = 100,
    seconds: float = 8.0,
) -> FuncAnimation:
    """Animate the paths of optimizers over the contours of a surface.

    Save the animation with `.save("paths.gif")`, or show it in a notebook with `HTML(….to_jshtml())`.

    Args:
      surface: One of `gradtx.lab.SURFACES`, or a custom `Surface`.
      optimizers: A dict from names to optimizers.
      steps: The number of updates, 1 or more.
      axes: The Axes to draw on; None for a new figure.
      start: The initial parameters, two numbers; None for the start of the surface.
      key: The random key of the gradient noise, the same for every optimizer; None for `jax.random.key(0)`.
      legend: If True, draw a legend to the right.
      frames: The largest number of frames, 2 or more; the first shows the start, the last all steps.
      seconds: The duration in seconds.

    Returns:
      The matplotlib `FuncAnimation`.

    Raises:
      ValueError: `frames` is below 2, `optimizers` is empty, an optimizer needs an extra argument that a surface does
        not give, `start` is not two numbers, or `steps` is below 1.
      TypeError: `surface` is not a `Surface`, or `optimizers` is not a dict of optimizers.

    >>> import gradtx as gx
    >>> from gradtx import plots
    >>> from gradtx.lab import SURFACES
    >>> moving = plots.animate(SURFACES["bowl"], {"sgd": gx.sgd(0.5)}, steps=3)
    >>> moving.to_jshtml().count("data:image/png")
    4
    """
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 2:
        raise ValueError(f"animate: frames must be an integer, 2 or more, got {said(frames)}")
    axes, drawn = _drawn("animate", surface, optimizers, steps, axes, start, key, legend)
    shown = np.unique(np.linspace(0, steps, min(frames, steps + 1)).round().astype(int))
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)

    def show(done):
        for path, line, head in drawn:
            line.set_data(*path[: done + 1].T)
            head.set_data(*path[done : done + 1].T)
        entitle(axes, f"{surface.title}: step {done} of {steps}")
        return []

    return FuncAnimation(figure, show, shown.tolist(), interval=round(1e3 * seconds / len(shown)))


def _drawn(
    function: str,
    surface: Surface,
    optimizers: Any,
    steps: int,
    axes: Axes | None,
    start: Any,
    key: Array | None,
    legend: bool,
) -> tuple[Axes, list[tuple[np.ndarray, Line2D, Line2D]]]:
    """Draw the paths; return the Axes, and for each optimizer its path, its line and the marker at its end."""
    txs = named(function, optimizers)
    walked = {name: descend(surface, tx, steps, start, key) for name, tx in txs.items()}
    axes = new_axes(axes, 8.5, 5.0)
    ground(axes, surface)
    drawn = []
    for name, style in styles(walked).items():
        path = np.where(np.abs(walked[name]) < 1e6, walked[name], np.nan)  # diverged points cannot be drawn
        own = {"color": style.color, "marker": style.marker, "clip_on": True, "zorder": 3}
        (line,) = axes.plot(*path.T, linestyle=style.linestyle, linewidth=1.6, markersize=2.8, label=name, **own)
        last = np.flatnonzero(np.isfinite(path).all(axis=1))[-1:]
        (head,) = axes.plot(*path[last].T, linestyle="", markersize=8, markeredgecolor="white", **own)
        drawn.append((path, line, head))
    begin = next(iter(walked.values()))[0]
    axes.plot(*begin[:, None], "o", color="white", markeredgecolor="black", markersize=9, zorder=4)
    halo = [withStroke(linewidth=3, foreground="white")]
    text = {"ha": "center", "fontsize": 10, "fontweight": "bold", "path_effects": halo, "zorder": 5}
    axes.annotate("start", tuple(begin), (0, 9), textcoords="offset points", **text)
    dress(axes, f"{surface.title}: {steps} steps", "parameter w₁", "parameter w₂", xlim=surface.xlim, ylim=surface.ylim)
    axes.grid(False)
    if legend:
        _legend(axes, surface, walked)
    return axes, drawn


def ground(axes: Axes, surface: Surface) -> None:
    """Draw the contours of a surface and its minima."""
    x, y = np.linspace(*surface.xlim, 201), np.linspace(*surface.ylim, 201)
    points = np.stack(np.meshgrid(x, y), axis=-1)
    minima = np.asarray(surface.minima, float).reshape(-1, 2)
    every = _losses(surface, np.concatenate([points.reshape(-1, 2), minima]))
    lowest = np.nanmin(every)
    every -= lowest
    heights, at_minima = every[: points.size // 2].reshape(points.shape[:2]), every[points.size // 2 :]
    top = int(np.ceil(4 * np.log10(heights.max())))
    levels = 10 ** (np.arange(top - 16, top + 1) / 4)  # four in a decade
    axes.contourf(x, y, np.log10(np.maximum(heights, levels[0] / 10)), np.log10([levels[0] / 10, *levels]), cmap=GROUND)
    lines = axes.contour(x, y, heights, levels, colors="#9aa7b5", linewidths=0.7)
    whole = levels[-1 - top % 4 :: -4]  # the powers of ten
    labels = {level: f"{level + lowest:.3g}" if level < 999 else f"{level + lowest:.0f}" for level in whole}
    axes.clabel(lines, sorted(labels), fmt=labels, fontsize=8, colors="#66727f")
    for w, height in zip(minima, at_minima):
        label = "minimum" if height <= at_minima.min() + 1e-3 * heights.max() else "local minimum"
        axes.plot(*w, "*", color=STARS[label], markeredgecolor="black", markersize=17, label=label, zorder=2.5)
        axes.plot(*w, "*", markerfacecolor="none", markeredgecolor="black", markersize=17, zorder=3.5)  # over paths


def _losses(surface: Surface, points: np.ndarray) -> np.ndarray:
    """Compute the loss at each of the points, of shape (points, 2)."""
    program = program_of(surface.function, "losses", lambda of: jax.jit(lambda points: jax.vmap(of())(points)))
    return np.asarray(program(jnp.asarray(points, float)), float)


def _legend(axes: Axes, surface: Surface, walked: Mapping[str, np.ndarray]) -> None:
    entries = []
    losses = _losses(surface, np.stack([path[-1] for path in walked.values()]))
    for loss, (name, style) in zip(losses, styles(walked).items()):
        text = f"{name}  {loss:.2g}" if np.isfinite(loss) else f"{name}  diverged"
        entries.append(
            Line2D([], [], color=style.color, linestyle=style.linestyle, marker=style.marker, linewidth=1.6, label=text)
        )
    stars = {star.get_label(): star for star in axes.lines if star.get_label() in STARS}
    axes.legend(
        handles=[*entries, *stars.values()],
        title="loss at the end",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=10,
        title_fontsize=10,
        alignment="left",
        handlelength=2.6,
    )
