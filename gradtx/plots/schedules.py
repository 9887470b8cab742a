"""Plots of schedules: the value against the step."""

import io
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradtx import schedules
from gradtx.core import Schedule, of_step
from gradtx.core.arguments import checked, function_of
from gradtx.plots.style import COLOURS, dress, entitle, new_axes


@checked
def schedule(
    schedule: Callable[[Any], Any], steps: int | None = None, axes: Axes | None = None, *, title: str = ""
) -> Axes:
    """Draw a schedule: its value against the step, from 0.

    Args:
      schedule: A schedule, or any function of the step.
      steps: The number of steps, 1 or more. None for all steps in which the schedule changes and a tenth more; three
        periods of a schedule that repeats; 100 where the schedule has no counts.
      axes: The Axes to draw on; None for a new figure, which is `axes.figure` of the result.
      title: The title; "" for the printed schedule or, where that is long, the names of its parts.

    Returns:
      The Axes.

    Raises:
      ValueError: `steps` is below 1.
      TypeError: `schedule` is not a function of the step.

    >>> import gradtx as gx
    >>> from gradtx import plots
    >>> axes = plots.schedule(gx.schedules.wsd(0.1, warmup=10, stable=60, decay=30))
    >>> [round(x) for x in axes.get_xlim()]
    [0, 110]
    """
    schedule = schedule if isinstance(schedule, Schedule) else of_step(function_of("schedule", schedule, "the step"))
    if steps is None:
        steps = -(-11 * horizon(schedule) // 10) or 100
    if steps < 1:
        raise ValueError(f"schedule: steps must be 1 or more, got {steps}")
    axes = new_axes(axes, 5.5, 2.6)
    shown = np.unique(np.linspace(0, min(steps, 2**31 - 1), 2001).astype(np.int32))
    values = jax.vmap(lambda step: jnp.asarray(schedule(step), float))(shown)
    axes.plot(shown, values, color=COLOURS[6], linewidth=1.8, solid_capstyle="round")
    dress(axes, title, "step", "value", xlim=(0, steps))
    axes.set_ylim(*((0, None) if axes.get_ylim()[0] > 0 else ()))  # from 0, so that heights are comparable
    if not title:
        entitle(axes, called(schedule).replace("$", r"\$"), fontsize=9)
    return axes


def called(schedule: Schedule) -> str:
    """Return the printed schedule or, where that is long, the names of its parts.

    >>> called(schedules.warmup(3e-4, steps=100, then=schedules.cosine(3e-4, steps=900)))
    'warmup(…, cosine(0.0003, steps=900, floor=0.0))'
    """
    if len(text := repr(schedule)) <= 72 and "\n" not in text:
        return text
    inner = jax.tree.leaves(schedule, is_leaf=lambda x: x is not schedule and isinstance(x, Schedule))
    parts = ", ".join(["…", *(called(x) for x in inner if isinstance(x, Schedule))])
    return f"{type(schedule).__name__}({parts if len(parts) <= 80 else '…'})"


def horizon(schedule: Any) -> int:
    """Return the number of steps in which a schedule changes, three periods if it repeats; 0 if it has no counts.

    >>> horizon(schedules.warmup(0.1, steps=10, then=schedules.cosine(0.1, steps=90)))
    100
    """
    match schedule:
        case schedules.warmup(steps=steps, then=then):
            return steps + horizon(then)
        case schedules.join(boundaries=boundaries, schedules=several):
            return max(boundaries, default=0) + horizon(several[-1])
        case schedules.cycle(steps=steps):
            own = 3 * steps
        case (
            schedules.cosine_restarts(steps=steps, growth=growth)
            | schedules.linear_restarts(steps=steps, growth=growth)
        ):
            own = steps * (1 + growth + growth**2)
        case schedules.cyclic(rise=rise, fall=fall):
            own = 3 * (rise + (fall or rise))
        case schedules.wsd(warmup=warmup, stable=stable, decay=decay):
            own = warmup + stable + decay
        case schedules.exponential(steps=steps) | schedules.inverse_time(steps=steps):  # without an end
            own = max(100, 5 * steps)
        case schedules.inverse_sqrt(warmup=warmup, steps=steps):
            own = steps or 10 * warmup
        case _:
            own = getattr(schedule, "steps", None) or max(getattr(schedule, "boundaries", ()), default=0)
    inner = jax.tree.leaves(schedule, is_leaf=lambda x: x is not schedule and isinstance(x, Schedule))
    return max([own, *(horizon(x) for x in inner if isinstance(x, Schedule))])


def svg(shown: Schedule) -> str:
    """Draw a schedule as an SVG string, for notebooks."""
    figure, picture = schedule(shown).get_figure(), io.StringIO()
    assert isinstance(figure, Figure)
    figure.savefig(picture, format="svg", metadata={"Date": None})
    return picture.getvalue()
