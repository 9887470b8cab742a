"""Schedules that fall from their first value: constant, linear, polynomial, cosine, exponential and others."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gradtx.core import NonNegative, Positive, Scalar
from gradtx.schedules.curve import _LAST, Count, CountOrZero, _Curve, _Fall, _laps, _require, _shares, _way


class constant(_Curve):
    """The same value at every step.

    >>> constant(0.1)(7)
    0.1
    """

    value: Scalar

    def curve(self, step: Array) -> Any:
        return self.value


class linear(_Curve):
    """A straight line.   start·left + end·done

    >>> [float(linear(1.0, 0.0, steps=4)(step)) for step in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """

    start: Scalar
    end: Scalar
    steps: Count

    def curve(self, step: Array) -> Array:
        return _way("linear", self.start, self.end, step, self.steps)


class polynomial(_Curve):
    """A power of what is left.   end + (start − end)·leftᵖ

    Args:
      power: p, above 0.

    >>> [float(polynomial(1.0, 0.0, steps=4, power=2.0)(step)) for step in (0, 2, 4)]
    [1.0, 0.25, 0.0]
    """

    start: Scalar
    end: Scalar
    steps: Count
    power: Positive = 1.0

    def curve(self, step: Array) -> Array:
        _, left = _shares(step, self.steps)
        return self.end + (self.start - self.end) * left**self.power


class cosine(_Fall):
    """Half a cosine, from its peak to its floor.   floor + (peak − floor)·(1 + cos(π·done))/2

    Source: Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5.

    >>> [round(float(cosine(1.0, steps=4)(step)), 3) for step in (0, 1, 2, 4)]
    [1.0, 0.854, 0.5, 0.0]
    """

    way = "cosine"


class rex(_Fall):
    """Reflected exponential: slow at first, fast at the end.   floor + (peak − floor)·left / (½ + ½·left)

    Source: Chen, Wolfe and Kyrillidis 2021, arXiv 2107.04197.

    >>> [round(float(rex(1.0, steps=4)(step)), 3) for step in (0, 2, 4)]
    [1.0, 0.667, 0.0]
    """

    way = "rex"


# ---------------------------------------------------------------- without an end
class exponential(_Curve):
    """Multiplied by a rate every so many steps.   max(start·rate^(t/steps), floor)

    Args:
      rate: What `steps` steps multiply by, above 0. float32 keeps (0.5, steps=10**6) better than (0.9999993, steps=1).
      staircase: Whether t/steps is rounded down, so that the value falls once every `steps`.

    >>> [float(exponential(1.0, 0.25, steps=2)(step)) for step in (0, 1, 2, 4)]
    [1.0, 0.5, 0.25, 0.0625]
    """

    start: NonNegative
    rate: Positive
    steps: Count = 1
    floor: NonNegative = 0.0
    staircase: bool = False

    def curve(self, step: Array) -> Array:
        return jnp.maximum(self.start * self.rate ** _laps(step, self.steps, self.staircase), self.floor)


class inverse_time(_Curve):
    """The textbook's 1/t decay.   start / (1 + rate·t/steps)ᵖ

    Args:
      rate: What `steps` steps add to the divisor, 0 or more.
      staircase: Whether t/steps is rounded down.
      power: p, 0 or more.

    >>> [float(inverse_time(1.0, 1.0)(step)) for step in (0, 1, 3)]
    [1.0, 0.5, 0.25]
    """

    start: Scalar
    rate: NonNegative
    steps: Count = 1
    staircase: bool = False
    power: NonNegative = 1.0

    def curve(self, step: Array) -> Array:
        return self.start / (1 + self.rate * _laps(step, self.steps, self.staircase)) ** self.power


class inverse_sqrt(_Curve):
    """A linear warm-up, then the inverse square root of the step.   peak·min(t/w, 1)·√(w / max(t, w))

    With a cooldown, the last steps are a straight line from what it then is to the floor.

    Args:
      warmup: w, the steps of the warm-up, and the time scale of what follows.
      steps: All steps, warm-up and cooldown included; None: without an end.
      cooldown: How many of them are the cooldown.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 5.3; the cooldown, Zhai et al. 2022, arXiv 2106.04560.

    >>> [float(inverse_sqrt(1.0, warmup=2, steps=10, cooldown=2)(step)) for step in (0, 1, 2, 8, 9, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.25, 0.0]
    """

    peak: Scalar
    warmup: Count
    steps: Count | None = None
    cooldown: CountOrZero = 0
    floor: Scalar = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        given = f"got steps={self.steps}, warmup={self.warmup}, cooldown={self.cooldown}"
        room = self.cooldown == 0 if self.steps is None else self.steps >= self.warmup + self.cooldown
        _require(self, room, f"steps must have room for warmup and cooldown, {given}")

    def curve(self, step: Array) -> Array:
        begin = _LAST if self.steps is None else self.steps - self.cooldown
        t, w = jnp.minimum(step, begin), self.warmup
        value = self.peak * _shares(t, w)[0] * jnp.sqrt(w / jnp.maximum(t, w).astype(float))
        return _way("linear", value, self.floor, step - begin, self.cooldown) if self.cooldown else value


class relative_step(_Curve):
    """Adafactor's rate, as a share of the parameters.   min(c, 1/√(t + 1))

    Args:
      most: c, above 0.

    Source: Shazeer and Stern 2018, arXiv 1804.04235, algorithm 6.

    >>> [float(relative_step(0.5)(step)) for step in (0, 3, 15)]
    [0.5, 0.5, 0.25]
    """

    most: Positive = 1e-2

    def curve(self, step: Array) -> Array:
        return jnp.minimum(self.most, 1 / jnp.sqrt(step.astype(float) + 1))
