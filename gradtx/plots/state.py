"""Plots of optimizer states and of update-to-parameter ratios."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from gradtx.core import State, leaves_by_path, path_of
from gradtx.core.arguments import checked
from gradtx.core.trees import flatten_with_path
from gradtx.plots.style import COLOURS, GREY, dress, entitle, label_ends, new_axes, new_row, style_at


@checked
def state(state: Any, params: Any = None, axes: Any = None, *, bins: int | None = None) -> np.ndarray:
    """Draw a histogram of each slot of a state: a panel for each slot, a colour for each parameter.

    Values that are all 0 or more are drawn on a logarithmic axis; its label counts the zeros and the non-finite values.
    Scalar slots are left out.

    Args:
      state: The `State` of an optimizer.
      params: The parameters of the optimizer, which group all leaves of a slot in one panel; None for one panel a leaf.
      axes: As many Axes as slots; None for a new figure with two in a row.
      bins: The number of bars; None for about twice the square root of the number of entries, at most 60.

    Returns:
      The Axes, an array of shape (slots,); their figure is `axes[0].figure`.

    Raises:
      ValueError: The state has no arrays, or `axes` has another number of Axes.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> from gradtx import plots
    >>> tx, params = gx.adam(), {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    >>> _, after = tx.update(params, tx.init(params), params)
    >>> [one.get_title(loc="left") for one in plots.state(after, params)]
    ['by/scale_by_ema/mean', 'direction/scale_by_ema/mean']
    """
    slots = slots_of(state.slots if isinstance(state, State) else state, params)
    if not slots:
        raise ValueError("state: this state keeps no arrays, so there is nothing to draw")
    several = new_row("state", axes, len(slots), 8.5, 2.8, columns=min(2, len(slots)))
    for one, (slot, leaves) in zip(several, slots.items()):
        _histogram(one, slot, leaves, bins)
    return several


def slots_of(tree: Any, params: Any = None) -> dict[str, dict[str, np.ndarray]]:
    """Return the arrays of each slot by parameter path; slots have the shortest names that are unambiguous."""
    shape = jax.tree.structure(params)
    nodes = flatten_with_path(tree, is_leaf=lambda x: params is not None and jax.tree.structure(x) == shape)[0]
    slots = {}
    for path, node in nodes:
        leaves = {at: np.ravel(np.asarray(x)) for at, x in leaves_by_path(node).items() if np.ndim(x)}
        leaves = {at: x for at, x in leaves.items() if x.size and np.issubdtype(x.dtype, np.floating)}
        if leaves:
            slots[path_of(path)] = leaves
    parts = [name.split("/") for name in slots]
    common = 0
    while parts and all(len(p) > common + 2 and p[common] == parts[0][common] for p in parts):
        common += 1
    return {"/".join(p[common:]): leaves for p, leaves in zip(parts, slots.values())}


def _histogram(axes: Axes, slot: str, leaves: dict[str, np.ndarray], bins: int | None) -> None:
    if len(leaves) > 6:  # too many colours to distinguish
        leaves = {f"all {len(leaves)} parameters": np.concatenate(list(leaves.values()))}
    every = np.concatenate(list(leaves.values())).astype(float)
    finite = every[np.isfinite(every)]
    log = bool(len(finite) and finite.min() >= 0 and finite.max() > 0)
    shown = finite[finite > 0] if log else finite
    notes = [f"{np.mean(finite == 0):.0%} are 0"] if log and len(shown) < len(finite) else []
    notes += [f"{len(every) - len(finite)} not finite"] if len(finite) < len(every) else []
    bins = bins or int(np.clip(2 * np.sqrt(len(shown)), 10, 60))
    low, high = (shown.min(), shown.max()) if len(shown) else (-1.0, 1.0)
    if log:
        low, high = (low, high) if high > 1.01 * low else (low / 2, high * 2)
        edges = np.geomspace(low, high, bins + 1)
    else:
        edge = max(abs(low), abs(high)) or 1.0
        edges = np.linspace(-edge, edge, bins + 1) if low < 0 else np.linspace(low, high + (high == low), bins + 1)
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)  # so that rounding excludes no entry
    for i, (name, values) in enumerate(leaves.items()):
        colour = COLOURS[(6 - i) % len(COLOURS)]
        counts, _ = np.histogram(values[np.isfinite(values)], edges)
        axes.stairs(counts, edges, color=colour, linewidth=1.6, label=name or "parameters")
        axes.stairs(counts, edges, color=colour, alpha=0.15, fill=True)
    label = f"value ({', '.join(notes)})" if notes else "value"
    dress(axes, "", label, "entries", xscale="log" if log else "linear", yscale="log")
    entitle(axes, slot, fontsize=10)
    if not log:
        axes.locator_params(axis="x", nbins=5)  # so that the numbers of half a row do not touch
    axes.set_ylim(0.7, max(15, 1.5 * axes.get_ylim()[1]))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if len(leaves) > 1 or next(iter(leaves)):
        axes.legend(framealpha=0.7, edgecolor="none", fontsize=9, handlelength=1.2, borderpad=0.1)


@checked
def ratios(
    history: Any,
    axes: Axes | None = None,
    *,
    healthy: float | None = 1e-3,
    title: str = "How far each step goes",
    ylabel: str = "norm of update / norm of parameters",
) -> Axes:
    """Draw update-to-parameter ratios over time, on a logarithmic axis, with a line at a healthy ratio.

    Args:
      history: An array of shape (steps,), or a dict from names to such arrays, as `gx.monitor` with `gx.norm_ratio`
        measures them and `jax.lax.scan` collects them.
      axes: The Axes to draw on; None for a new figure, which is `axes.figure` of the result.
      healthy: The height of the line; None for no line. About 1e-3 is a rule of thumb for plain gradient descent.
      title: The title.
      ylabel: The label of the vertical axis.

    Returns:
      The Axes.

    Raises:
      ValueError: `history` is empty, or an array has another shape.

    >>> import jax.numpy as jnp
    >>> from gradtx import plots
    >>> axes = plots.ratios({"weights": jnp.geomspace(1e-2, 1e-4, 100)})
    >>> axes.get_yscale()
    'log'
    """
    rows = dict(history) if isinstance(history, Mapping) else {"": history}
    rows = {str(name): np.asarray(values, float) for name, values in rows.items()}
    if not rows:
        raise ValueError("ratios needs one array or more, got none")
    for name, values in rows.items():
        if values.ndim != 1 or not values.size:
            raise ValueError(f"ratios: {name!r} must be an array of shape (steps,), got {values.shape}")
    axes = new_axes(axes, 8.5, 3.6)
    ends, look = [], []
    for i, (name, values) in enumerate(rows.items()):
        style = style_at((6 - i) % 8 + 8 * (i // 8))
        values = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        at = np.arange(1, len(values) + 1)
        axes.plot(at, values, color=style.color, linestyle=style.linestyle, linewidth=1.6, label=name)
        last = np.flatnonzero(np.isfinite(values))[-1:]
        ends.append((at[last[0]], values[last[0]]) if len(last) else (1, 1.0))
        look.append(style)
    steps = max(map(len, rows.values()))
    dress(axes, title, "step", ylabel, yscale="log", xlim=(1, max(2, steps)))
    if healthy is not None:
        axes.axhline(healthy, color=GREY, linewidth=1.5, linestyle=(0, (4, 3)), zorder=1)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, healthy / 2), max(high, healthy * 2))
        axes.annotate(
            f"rule of thumb: {healthy:g}",
            (1, healthy),
            (-4, 3),
            xycoords=("axes fraction", "data"),
            ha="right",
            textcoords="offset points",
            fontsize=9,
            color=GREY,
        )
    if any(rows):
        label_ends(axes, ends, list(rows), look)
    return axes
