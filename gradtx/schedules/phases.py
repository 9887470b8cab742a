"""Schedules of several phases: warm-up, warm-up–stable–decay, one-cycle."""

import itertools
from typing import Any

import jax.numpy as jnp
from jax import Array

from gradtx.core import Scalar, Schedule
from gradtx.core.arguments import checked
from gradtx.core.kinds import Count, CountOrZero
from gradtx.schedules.curve import (
    LAST_STEP,
    Curve,
    Shape,
    integer_step,
    interpolate,
    interpolate_all,
    require,
    value_at,
)


class one_cycle(Curve):
    """One-cycle policy: warm up to the peak, then anneal far below the initial value (Smith and Topin, 2019).

    start·peak → peak → end·peak, or with three phases start·peak → peak → start·peak → end·peak

    Args:
      peak: The highest value: a number, an array of shape () or a schedule.
      steps: The total number of steps, an integer.
      rise: The steps of the rise, below `steps`; None for three tenths of `steps`, rounded down, but at least one.
      back: The step at which the value is start·peak again, between `rise` and `steps`; None for two phases.
      start: The value at step 0, as a fraction of the peak.
      end: The value at the last step, as a fraction of the peak.
      shape: The curve of each phase: "linear", "cosine" (half a cosine), "1-sqrt" (the square root of the elapsed
        fraction) or "rex" (reflected exponential).

    Source: Smith and Topin 2019, arXiv 1708.07120.

    >>> import gradtx as gx
    >>> rate = gx.schedules.one_cycle(1.0, steps=10)
    >>> [round(float(rate(step)), 4) for step in (0, 3, 10)]
    [0.04, 1.0, 0.0]
    """

    peak: Scalar
    steps: Count
    rise: Count | None = None
    back: Count | None = None
    start: Scalar = 1 / 25
    end: Scalar = 1 / 25e4
    shape: Shape = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = self._boundaries()
        require(self, all(a < b for a, b in itertools.pairwise(ends)), f"rise, back, steps must increase, got {ends}")

    def _boundaries(self) -> tuple[int, ...]:
        rise = max(3 * self.steps // 10, 1) if self.rise is None else self.rise
        return (rise, self.steps) if self.back is None else (rise, self.back, self.steps)

    def curve(self, step: Array) -> Any:
        low = self.start * self.peak
        between = () if self.back is None else (low,)
        return interpolate_all(self.shape, (low, self.peak, *between, self.end * self.peak), step, self._boundaries())


class wsd(Curve):
    """WSD, warm-up–stable–decay (Hu et al., 2024).

    0 → peak on a line, then the peak, then peak → floor on a line or a curve of another shape

    Args:
      peak: The value of the stable phase: a number, an array of shape () or a schedule.
      warmup: The steps of the warm-up, an integer, 0 or more.
      stable: The steps of the stable phase, an integer, 0 or more.
      decay: The steps of the decay, an integer, 1 or more.
      floor: The value at the end of the decay and after it.
      shape: The curve of the decay: "linear", "cosine" (half a cosine), "1-sqrt" (the square root of the elapsed
        fraction) or "rex" (reflected exponential).

    Source: Hu et al. 2024, arXiv 2404.06395; `shape="1-sqrt"`, Hägele et al. 2024, arXiv 2405.18392.

    >>> import gradtx as gx
    >>> rate = gx.schedules.wsd(1.0, warmup=2, stable=5, decay=4)
    >>> [float(rate(step)) for step in (0, 1, 2, 7, 8, 11)]
    [0.0, 0.5, 1.0, 1.0, 0.75, 0.0]
    """

    peak: Scalar
    warmup: CountOrZero
    stable: CountOrZero
    decay: Count
    floor: Scalar = 0.0
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        total = self.warmup + self.stable + self.decay
        require(self, total <= LAST_STEP, f"warmup + stable + decay must be at most 2³¹ − 1, got {total}")

    def curve(self, step: Array) -> Array:
        rising = interpolate("linear", 0.0, self.peak, step, max(self.warmup, 1))
        falling = interpolate(self.shape, self.peak, self.floor, step - self.warmup - self.stable, self.decay)
        return jnp.where(step < self.warmup, rising, falling)


class warmup_cosine(Curve):
    """Linear warm-up, then half a cosine down to the floor: the usual schedule of language models.

    start → peak on a line in `warmup` steps, then peak → floor on half a cosine, which ends at step `steps`

    `steps` counts all steps, the warm-up included, as `decay_steps` of Optax's `warmup_cosine_decay_schedule` does.

    Args:
      peak: The value at the end of the warm-up: a number, an array of shape () or a schedule.
      warmup: The steps of the warm-up, an integer, 0 or more, below `steps`.
      steps: The total number of steps, the warm-up included, an integer.
      floor: The value at step `steps` and after it.
      start: The value at step 0.

    Raises:
      ValueError: `steps` is not above `warmup`.

    >>> import gradtx as gx
    >>> rate = gx.schedules.warmup_cosine(1.0, warmup=2, steps=6)
    >>> [round(float(rate(step)), 3) for step in (0, 1, 2, 4, 6, 7)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    peak: Scalar
    warmup: CountOrZero
    steps: Count
    floor: Scalar = 0.0
    start: Scalar = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        fix = "steps counts all steps, the warm-up included"
        given = f"got steps={self.steps}, warmup={self.warmup}"
        require(self, self.warmup < self.steps, f"steps must be above warmup, {given}: {fix}")

    def curve(self, step: Array) -> Array:
        rising = interpolate("linear", self.start, self.peak, step, max(self.warmup, 1))
        falling = interpolate("cosine", self.peak, self.floor, step - self.warmup, self.steps - self.warmup)
        return jnp.where(step < self.warmup, rising, falling)


# ---------------------------------------------------------------- before another schedule
class warmup(Schedule):
    """Linear warm-up before any other schedule.

    start + (peak − start)·t/steps, and from step `steps` on then(t − steps)

    The other schedule begins at its own step 0, so its steps do not count the warm-up; those of `warmup_cosine` do.

    Args:
      peak: The value at the end of the warm-up: a number, an array of shape () or a schedule.
      steps: The steps of the warm-up, an integer; 0 for none.
      then: The schedule after the warm-up: a schedule, a function of the step or a number; None for the peak.
      start: The value at step 0.

    >>> import gradtx as gx
    >>> rate = gx.schedules.warmup(1.0, steps=2, then=gx.schedules.linear(1.0, 0.0, steps=4))
    >>> [float(rate(step)) for step in (0, 1, 2, 3, 6)]
    [0.0, 0.5, 1.0, 0.75, 0.0]
    """

    peak: Scalar
    steps: CountOrZero
    then: Scalar | None = None
    start: Scalar = 0.0

    @checked
    def __call__(self, step: Any) -> Any:
        step = integer_step(step)
        start, peak = value_at(self.start, step), value_at(self.peak, step)
        then = peak if self.then is None else value_at(self.then, jnp.maximum(step - self.steps, 0))
        return jnp.where(step < self.steps, interpolate("linear", start, peak, step, max(self.steps, 1)), then)
