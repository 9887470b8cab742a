"""Schedules of several phases: warm-up, warm-up–stable–decay, one-cycle."""

import itertools
from typing import Any

import jax.numpy as jnp
from jax import Array

from gradtx.core import Scalar, Schedule
from gradtx.schedules.curve import (
    _LAST,
    Count,
    CountOrZero,
    Shape,
    _Curve,
    _integer,
    _require,
    _value,
    _way,
    _ways,
)


class one_cycle(_Curve):
    """One rise and one fall, far below where it began.   start·peak → peak → end·peak,  or by way of start·peak again

    Args:
      rise: The steps of the rise, below `steps`; None: three tenths, rounded down, but one at least.
      back: The step at which it is back at start·peak, for a third phase; None: no such phase.
      start: The value at step 0, as a share of the peak.
      end: The value at the end, as a share of the peak.

    Source: Smith and Topin 2019, arXiv 1708.07120.

    >>> [round(float(one_cycle(1.0, steps=10)(step)), 4) for step in (0, 3, 10)]
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
        _require(self, all(a < b for a, b in itertools.pairwise(ends)), f"rise, back, steps must increase, got {ends}")

    def _boundaries(self) -> tuple[int, ...]:
        rise = max(3 * self.steps // 10, 1) if self.rise is None else self.rise
        return (rise, self.steps) if self.back is None else (rise, self.back, self.steps)

    def curve(self, step: Array) -> Any:
        low = self.start * self.peak
        between = () if self.back is None else (low,)
        return _ways(self.shape, (low, self.peak, *between, self.end * self.peak), step, self._boundaries())


class wsd(_Curve):
    """Warm-up, stable, decay: a line from 0 to the peak, the peak, then down to the floor on a line or another shape.

    Args:
      warmup, stable, decay: The steps of each phase.

    Source: Hu et al. 2024, arXiv 2404.06395; `shape="1-sqrt"`, Hägele et al. 2024, arXiv 2405.18392.

    >>> [float(wsd(1.0, warmup=2, stable=5, decay=4)(step)) for step in (0, 1, 2, 7, 8, 11)]
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
        _require(self, total <= _LAST, f"warmup + stable + decay must be at most 2³¹ − 1, got {total}")

    def curve(self, step: Array) -> Array:
        rising = _way("linear", 0.0, self.peak, step, max(self.warmup, 1))
        falling = _way(self.shape, self.peak, self.floor, step - self.warmup - self.stable, self.decay)
        return jnp.where(step < self.warmup, rising, falling)


# ---------------------------------------------------------------- made of other schedules
class warmup(Schedule):
    """A line from start to peak, in front of any other schedule, which then begins at its own step 0.

    Args:
      steps: The steps of the line; with 0 there is none.
      then: A schedule, a function of the step, or a number; None: the peak.
      start: The value at step 0.

    >>> rate = warmup(1.0, steps=2, then=linear(1.0, 0.0, steps=4))
    >>> [float(rate(step)) for step in (0, 1, 2, 3, 6)]
    [0.0, 0.5, 1.0, 0.75, 0.0]
    """

    peak: Scalar
    steps: CountOrZero
    then: Scalar | None = None
    start: Scalar = 0.0

    def __call__(self, step: Any) -> Any:
        step = _integer(step)
        start, peak = _value(self.start, step), _value(self.peak, step)
        then = peak if self.then is None else _value(self.then, jnp.maximum(step - self.steps, 0))
        return jnp.where(step < self.steps, _way("linear", start, peak, step, max(self.steps, 1)), then)
