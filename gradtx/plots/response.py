"""Plots of the response of transformations to simple signals."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradtx.core import Transformation, walk
from gradtx.core.arguments import checked
from gradtx.core.errors import said
from gradtx.plots.style import coincide, dress, named, new_row, over, styles


@checked
def response(
    transformations: Mapping[str, Any],
    steps: int = 60,
    axes: Any = None,
    *,
    at: int = 1,
    period: float = 30.0,
    noise: float = 0.5,
    key: Array | None = None,
) -> np.ndarray:
    """Draw the response of transformations to an impulse, a step, and a sine with noise, with the inputs in grey.

    Each transformation receives the signal as the gradient of one parameter, which stays at 0. An optimizer emits its
    update, −η times a direction; a piece, such as `gx.momentum(0.9)`, emits the transformed gradient.

    Args:
      transformations: A dict from names to pieces, compositions or optimizers.
      steps: The number of updates, 1 or more.
      axes: Three Axes to draw on; None for a new figure with one below the other.
      at: The update of the impulse, and the first update of the step, from 1 to `steps`.
      period: The period of the sine, in steps.
      noise: The standard deviation of the noise added to the sine, whose amplitude is 1.
      key: The random key of the noise; None for `jax.random.key(0)`.

    Returns:
      The three Axes, an array; their figure is `axes[0].figure`.

    Raises:
      ValueError: A piece needs a loss, `transformations` is empty, or `steps` or `at` is out of range.
      TypeError: `transformations` is not a dict of transformations.

    >>> import gradtx as gx
    >>> from gradtx import plots
    >>> axes = plots.response({"ema": gx.scale_by_ema(0.5), "momentum": gx.momentum(0.5)}, steps=4)
    >>> {line.get_label(): line.get_ydata().tolist() for line in axes[1].lines[:3]}
    {'input': [0.0, 1.0, 1.0, 1.0, 1.0], 'ema': [0.0, 0.5, 0.75, 0.875, 0.9375], 'momentum': [0.0, 1.0, 1.0, 1.0, 1.0]}
    """
    txs = named("response", transformations)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"response: steps must be an integer, 1 or more, got {said(steps)}")
    if not 1 <= at <= steps:
        raise ValueError(f"response: at must be from 1 to the {steps} steps, got {at}")
    for name, tx in txs.items():
        for piece in walk(tx):
            if missing := [need for need in piece.needs if need not in ("params", "key", "**")]:
                raise ValueError(
                    f"response: {type(piece).__name__}, of {name!r}, needs {missing[0]!r}, and a signal has no loss"
                )
    time = np.arange(1, steps + 1)
    key = jax.random.key(0) if key is None else key
    disturbed = np.sin(2 * np.pi * time / period) + noise * np.asarray(jax.random.normal(key, (steps,)))
    signals = {
        f"Impulse at step {at}": (time == at) * 1.0,
        f"Step from step {at} on": (time >= at) * 1.0,
        f"Sine of period {period:g} steps, with noise": disturbed,
    }
    inputs = jnp.asarray(np.stack(list(signals.values())), float)
    emitted = {name: np.asarray(_emitted(tx, inputs, key), float) for name, tx in txs.items()}
    several = new_row("response", axes, 3, 8.5, 2.5, columns=1)
    look = styles(emitted)
    for i, (one, (title, signal)) in enumerate(zip(several, signals.items())):
        from_zero = np.r_[0, time]  # all signals are 0 before the first update
        one.plot(from_zero, np.r_[0, signal], color="0.72", linewidth=2.4, drawstyle="steps-mid", label="input")
        shown = [(name, (from_zero, np.r_[0, rows[i]])) for name, rows in emitted.items()]
        for j, (name, line) in enumerate(shown):
            above = sum(coincide(line, other) for _, other in shown[j + 1 :])
            one.plot(*line, label=name, **over(look[name], above))
        dress(one, title, "", "update", xlim=(0, steps))
        one.axhline(0, color="black", linewidth=0.6, zorder=1)
    several[0].legend(loc="upper left", bbox_to_anchor=(1.01, 1.05), frameon=False, fontsize=10)
    several[-1].set_xlabel("step", fontsize=11)
    return several


@jax.jit
def _emitted(tx: Transformation, signals: Array, key: Array) -> Array:
    """Compute the updates emitted for each signal, of shape (signals, steps)."""
    needs = {name for piece in walk(tx) for name in piece.needs}
    extra = {"key": key} if {"key", "**"} & needs else {}
    still = jnp.zeros(())

    def emitted(signal):
        def step(state, g):
            update, state = tx.update(g, state, still, **extra)
            return state, update

        return jax.lax.scan(step, tx.init(still), signal)[1]

    return jax.vmap(emitted)(signals)
