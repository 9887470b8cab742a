"""Piecewise, joined and repeated schedules."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gradtx.core import Scalar, Schedule
from gradtx.core.arguments import checked
from gradtx.core.kinds import Count
from gradtx.schedules.curve import (
    Boundaries,
    Curve,
    Scalars,
    Shape,
    integer_step,
    interpolate_all,
    require_one_more,
    select,
    value_at,
)


# ---------------------------------------------------------------- piecewise
class _Piecewise(Curve):
    values: Scalars
    boundaries: Boundaries

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_more(self, "values", self.values, self.boundaries)


class piecewise_constant(_Piecewise):
    """Piecewise constant schedule.

    values[0], and from step boundaries[i] on values[i + 1]

    Args:
      values: The values in order, one more than `boundaries`: numbers, arrays of shape () or schedules.
      boundaries: The steps at which the next value begins: increasing integers, 1 or more.

    >>> import gradtx as gx
    >>> rate = gx.schedules.piecewise_constant((1.0, 0.5), boundaries=(100,))
    >>> [float(rate(step)) for step in (99, 100)]
    [1.0, 0.5]
    """

    def curve(self, step: Array) -> Any:
        return select(step, self.values, self.boundaries)


class piecewise_interpolated(_Piecewise):
    """Piecewise interpolation, along lines or curves of another shape.

    values[0] at step 0, values[i + 1] at step boundaries[i], and a curve of the given shape between them

    Args:
      values: The values in order, one more than `boundaries`: numbers, arrays of shape () or schedules.
      boundaries: The steps at which values[1], values[2], … are reached: increasing integers, 1 or more.
      shape: The curve between two values: "linear", "cosine" (half a cosine), "1-sqrt" (the square root of the elapsed
        fraction) or "rex" (reflected exponential).

    >>> import gradtx as gx
    >>> rate = gx.schedules.piecewise_interpolated((0.0, 1.0, 0.5), boundaries=(2, 4))
    >>> [float(rate(step)) for step in (0, 1, 2, 3, 4)]
    [0.0, 0.5, 1.0, 0.75, 0.5]
    """

    shape: Shape = "linear"

    def curve(self, step: Array) -> Any:
        return interpolate_all(self.shape, self.values, step, self.boundaries)


class join(Schedule):
    """Run one schedule after another.

    schedules[0](t), and from step boundaries[i] on schedules[i + 1](t − boundaries[i])

    Each schedule begins at its own step 0.

    Args:
      schedules: The schedules in order, one more than `boundaries`: schedules, functions of the step or numbers.
      boundaries: The steps at which the next schedule begins: increasing integers, 1 or more.

    >>> import gradtx as gx
    >>> rate = gx.schedules.join((0.5, gx.schedules.linear(1.0, 0.0, steps=4)), boundaries=(10,))
    >>> [float(rate(step)) for step in (9, 10, 11)]
    [0.5, 1.0, 0.75]
    """

    schedules: Scalars
    boundaries: Boundaries

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_more(self, "schedules", self.schedules, self.boundaries)

    @checked
    def __call__(self, step: Any) -> Any:
        step = integer_step(step)
        begins = (0, *self.boundaries)
        return select(step, (value_at(s, jnp.maximum(step - b, 0)) for s, b in zip(self.schedules, begins)), begins[1:])


class cycle(Schedule):
    """Repeat the first steps of a schedule.

    schedule(t mod steps)

    Args:
      schedule: The schedule to repeat: a schedule, a function of the step or a number.
      steps: The period, an integer, 1 or more.

    >>> import gradtx as gx
    >>> rate = gx.schedules.cycle(gx.schedules.linear(1.0, 0.0, steps=4), steps=3)
    >>> [float(rate(step)) for step in range(5)]
    [1.0, 0.75, 0.5, 1.0, 0.75]
    """

    schedule: Scalar
    steps: Count

    @checked
    def __call__(self, step: Any) -> Any:
        return value_at(self.schedule, integer_step(step) % self.steps)
