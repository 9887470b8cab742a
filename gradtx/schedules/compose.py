"""Schedules made of values or of other schedules: piecewise, joined, repeated."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gradtx.core import Scalar, Schedule
from gradtx.schedules.curve import (
    Boundaries,
    Count,
    Scalars,
    Shape,
    _Curve,
    _integer,
    _one_more,
    _select,
    _value,
    _ways,
)


# ---------------------------------------------------------------- in phases
class _Piecewise(_Curve):
    values: Scalars
    boundaries: Boundaries

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_more(self, "values", self.values, self.boundaries)


class piecewise_constant(_Piecewise):
    """One value after another: values[0], and from boundaries[i] on values[i + 1].

    >>> [float(piecewise_constant((1.0, 0.5), boundaries=(100,))(step)) for step in (99, 100)]
    [1.0, 0.5]
    """

    def curve(self, step: Array) -> Any:
        return _select(step, self.values, self.boundaries)


class piecewise_interpolated(_Piecewise):
    """Through values[0] at step 0 and values[i + 1] at boundaries[i], on lines or another shape.

    >>> [float(piecewise_interpolated((0.0, 1.0, 0.5), boundaries=(2, 4))(step)) for step in (0, 1, 2, 3, 4)]
    [0.0, 0.5, 1.0, 0.75, 0.5]
    """

    shape: Shape = "linear"

    def curve(self, step: Array) -> Any:
        return _ways(self.shape, self.values, step, self.boundaries)


class join(Schedule):
    """One schedule after another: from boundaries[i] on schedules[i + 1], which begins there at its own step 0.

    >>> rate = join((0.5, linear(1.0, 0.0, steps=4)), boundaries=(10,))
    >>> [float(rate(step)) for step in (9, 10, 11)]
    [0.5, 1.0, 0.75]
    """

    schedules: Scalars
    boundaries: Boundaries

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_more(self, "schedules", self.schedules, self.boundaries)

    def __call__(self, step: Any) -> Any:
        step = _integer(step)
        begins = (0, *self.boundaries)
        return _select(step, (_value(s, jnp.maximum(step - b, 0)) for s, b in zip(self.schedules, begins)), begins[1:])


class cycle(Schedule):
    """The first steps of a schedule, again and again.   schedule(t mod steps)

    >>> [float(cycle(linear(1.0, 0.0, steps=4), steps=3)(step)) for step in range(5)]
    [1.0, 0.75, 0.5, 1.0, 0.75]
    """

    schedule: Scalar
    steps: Count

    def __call__(self, step: Any) -> Any:
        return _value(self.schedule, _integer(step) % self.steps)
