"""Constant and decay schedules: constant, linear, polynomial, cosine, exponential and others."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gradtx.core import NonNegative, Positive, Scalar
from gradtx.core.kinds import Count, CountOrZero
from gradtx.schedules.curve import LAST_STEP, Curve, Fall, fractions, interpolate, periods, require


class constant(Curve):
    """Constant schedule: the same value at every step.

    value

    Args:
      value: The value: a number, an array of shape () or a schedule.

    >>> import gradtx as gx
    >>> gx.schedules.constant(0.1)(7)
    0.1
    """

    value: Scalar

    def curve(self, step: Array) -> Any:
        return self.value


class linear(Curve):
    """Linear schedule: a straight line from start to end.

    start·left + end·done, where done = t/steps and left = 1 − done, with t the step, at most `steps`

    Args:
      start: The value at step 0: a number, an array of shape () or a schedule.
      end: The value at step `steps` and after it.
      steps: The steps from start to end, an integer, 1 or more.

    >>> import gradtx as gx
    >>> rate = gx.schedules.linear(1.0, 0.0, steps=4)
    >>> [float(rate(step)) for step in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """

    start: Scalar
    end: Scalar
    steps: Count

    def curve(self, step: Array) -> Array:
        return interpolate("linear", self.start, self.end, step, self.steps)


class polynomial(Curve):
    """Polynomial schedule: a power of the remaining fraction of the steps.

    end + (start − end)·leftᵖ, where left = 1 − t/steps, with t the step, at most `steps`

    Args:
      start: The value at step 0: a number, an array of shape () or a schedule.
      end: The value at step `steps` and after it.
      steps: The steps from start to end, an integer, 1 or more.
      power: p, above 0. The default is a straight line.

    >>> import gradtx as gx
    >>> rate = gx.schedules.polynomial(1.0, 0.0, steps=4, power=2.0)
    >>> [float(rate(step)) for step in (0, 2, 4)]
    [1.0, 0.25, 0.0]
    """

    start: Scalar
    end: Scalar
    steps: Count
    power: Positive = 1.0

    def curve(self, step: Array) -> Array:
        _, left = fractions(step, self.steps)
        return self.end + (self.start - self.end) * left**self.power


class cosine(Fall):
    """Cosine decay: half a cosine from peak to floor (Loshchilov and Hutter, 2017).

    floor + (peak − floor)·(1 + cos(π·done))/2, where done = t/steps, with t the step, at most `steps`

    Args:
      peak: The value at step 0: a number, an array of shape () or a schedule.
      steps: The steps from peak to floor, an integer, 1 or more.
      floor: The value at step `steps` and after it.

    Source: Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5.

    >>> import gradtx as gx
    >>> rate = gx.schedules.cosine(1.0, steps=4)
    >>> [round(float(rate(step)), 3) for step in (0, 1, 2, 4)]
    [1.0, 0.854, 0.5, 0.0]
    """

    way = "cosine"


class rex(Fall):
    """REX, reflected exponential: slow decay at first, fast at the end (Chen, Wolfe and Kyrillidis, 2021).

    floor + (peak − floor)·left / (½ + ½·left), where left = 1 − t/steps, with t the step, at most `steps`

    Args:
      peak: The value at step 0: a number, an array of shape () or a schedule.
      steps: The steps from peak to floor, an integer, 1 or more.
      floor: The value at step `steps` and after it.

    Source: Chen, Wolfe and Kyrillidis 2021, arXiv 2107.04197.

    >>> import gradtx as gx
    >>> rate = gx.schedules.rex(1.0, steps=4)
    >>> [round(float(rate(step)), 3) for step in (0, 2, 4)]
    [1.0, 0.667, 0.0]
    """

    way = "rex"


# ---------------------------------------------------------------- without a last step
class exponential(Curve):
    """Exponential decay: multiply by a rate every `steps` steps.

    max(start·rate^(t/steps), floor)

    Args:
      start: The value at step 0, 0 or more: a number, an array of shape () or a schedule.
      rate: The factor per `steps` steps, above 0. float32 keeps (0.5, steps=10**6) better than (0.9999993, steps=1).
      steps: The time scale in steps, an integer, 1 or more.
      floor: The lowest value, 0 or more.
      staircase: If True, round t/steps down, so that the value changes once every `steps` steps.

    >>> import gradtx as gx
    >>> rate = gx.schedules.exponential(1.0, 0.25, steps=2)
    >>> [float(rate(step)) for step in (0, 1, 2, 4)]
    [1.0, 0.5, 0.25, 0.0625]
    """

    start: NonNegative
    rate: Positive
    steps: Count = 1
    floor: NonNegative = 0.0
    staircase: bool = False

    def curve(self, step: Array) -> Array:
        return jnp.maximum(self.start * self.rate ** periods(step, self.steps, self.staircase), self.floor)


class inverse_time(Curve):
    """Inverse time decay: the classic 1/t decay.

    start / (1 + rate·t/steps)ᵖ

    Args:
      start: The value at step 0: a number, an array of shape () or a schedule.
      rate: The amount that every `steps` steps add to the divisor, 0 or more.
      steps: The time scale in steps, an integer, 1 or more.
      staircase: If True, round t/steps down.
      power: p, 0 or more.

    >>> import gradtx as gx
    >>> rate = gx.schedules.inverse_time(1.0, 1.0)
    >>> [float(rate(step)) for step in (0, 1, 3)]
    [1.0, 0.5, 0.25]
    """

    start: Scalar
    rate: NonNegative
    steps: Count = 1
    staircase: bool = False
    power: NonNegative = 1.0

    def curve(self, step: Array) -> Array:
        return self.start / (1 + self.rate * periods(step, self.steps, self.staircase)) ** self.power


class inverse_sqrt(Curve):
    """Inverse square root decay after a linear warm-up (Vaswani et al., 2017).

    peak·min(t/w, 1)·√(w / max(t, w))

    With a cooldown, the last steps are a straight line from the current value to the floor.

    Args:
      peak: The value at the end of the warm-up: a number, an array of shape () or a schedule.
      warmup: w, the steps of the warm-up and the time scale of the decay, an integer, 1 or more.
      steps: The total number of steps, warm-up and cooldown included, an integer; None for no end.
      cooldown: The steps of the cooldown, an integer, 0 or more; 0 if `steps` is None.
      floor: The value at the end of the cooldown.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 5.3; the cooldown, Zhai et al. 2022, arXiv 2106.04560.

    >>> import gradtx as gx
    >>> rate = gx.schedules.inverse_sqrt(1.0, warmup=2, steps=10, cooldown=2)
    >>> [float(rate(step)) for step in (0, 1, 2, 8, 9, 10)]
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
        require(self, room, f"steps must have room for warmup and cooldown, {given}")

    def curve(self, step: Array) -> Array:
        begin = LAST_STEP if self.steps is None else self.steps - self.cooldown
        t, w = jnp.minimum(step, begin), self.warmup
        value = self.peak * fractions(t, w)[0] * jnp.sqrt(w / jnp.maximum(t, w).astype(float))
        return interpolate("linear", value, self.floor, step - begin, self.cooldown) if self.cooldown else value


class relative_step(Curve):
    """Adafactor's rate, relative to the RMS of the parameters (Shazeer and Stern, 2018).

    min(c, 1/√(t + 1))

    Args:
      most: c, the upper bound, above 0.

    Source: Shazeer and Stern 2018, arXiv 1804.04235, algorithm 6.

    >>> import gradtx as gx
    >>> rate = gx.schedules.relative_step(0.5)
    >>> [float(rate(step)) for step in (0, 3, 15)]
    [0.5, 0.5, 0.25]
    """

    most: Positive = 1e-2

    def curve(self, step: Array) -> Array:
        return jnp.minimum(self.most, 1 / jnp.sqrt(step.astype(float) + 1))
