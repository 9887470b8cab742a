"""Periodic schedules: warm restarts and cyclical rates."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from gradtx.core import Scalar
from gradtx.core.kinds import Count
from gradtx.schedules.curve import LAST_STEP, Curve, Fall, interpolate, interpolate_all, require


# ---------------------------------------------------------------- periodic
class _Restarts(Fall):
    growth: Count = 1

    def curve(self, step: Array) -> Array:
        if self.growth == 1:
            return super().curve(step % self.steps)
        begins, lengths = [0], [self.steps]
        while begins[-1] + lengths[-1] <= LAST_STEP:
            begins.append(begins[-1] + lengths[-1])
            lengths.append(lengths[-1] * self.growth)
        length = np.array(lengths, object)  # the last length may exceed int32
        table = np.minimum(length, LAST_STEP).astype(np.int32)
        i = jnp.searchsorted(jnp.array(begins, jnp.int32), step, side="right") - 1
        begin, steps, beyond = (
            jnp.array(x)[i] for x in (np.array(begins, np.int32), table, (length - table).astype(float))
        )
        return interpolate(self.way, self.peak, self.floor, step - begin, steps, beyond)


class cosine_restarts(_Restarts):
    """Cosine decay with warm restarts: SGDR (Loshchilov and Hutter, 2017).

    floor + (peak − floor)·(1 + cos(π·done))/2, where done = t/T, with t the step since the restart and T the period

    The rate is the peak again at each restart, and each period is `growth` times as long as the one before.

    Args:
      peak: The value at the start of each period: a number, an array of shape () or a schedule.
      steps: The length of the first period, an integer, 1 or more.
      floor: The value that each period approaches.
      growth: The factor by which each period is longer than the one before, an integer, 1 or more.

    Source: Loshchilov and Hutter 2017, arXiv 1608.03983 (SGDR).

    >>> import gradtx as gx
    >>> rate = gx.schedules.cosine_restarts(1.0, steps=2, growth=2)
    >>> [float(rate(step).round(3)) for step in (0, 1, 2, 4, 6)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """

    way = "cosine"


class linear_restarts(_Restarts):
    """Linear decay with warm restarts.

    peak·left + floor·done, where done = t/T and left = 1 − done, with t the step since the restart and T the period

    The rate is the peak again at each restart, and each period is `growth` times as long as the one before.

    Args:
      peak: The value at the start of each period: a number, an array of shape () or a schedule.
      steps: The length of the first period, an integer, 1 or more.
      floor: The value that each period approaches.
      growth: The factor by which each period is longer than the one before, an integer, 1 or more.

    >>> import gradtx as gx
    >>> rate = gx.schedules.linear_restarts(1.0, steps=2)
    >>> [float(rate(step)) for step in (0, 1, 2, 3)]
    [1.0, 0.5, 1.0, 0.5]
    """

    way = "linear"


class cyclic(Curve):
    """Cyclical rate: a triangle wave (Smith, 2017).

    low → high in `rise` steps, high → low in `fall` steps, repeated

    A triangle wave that shrinks is a sum and a product: with s = gx.schedules,
    `low + s.cyclic(0, high - low, n) * s.exponential(1, 0.5, 2 * n, staircase=True)`.

    Args:
      low: The lowest value, at step 0: a number, an array of shape () or a schedule.
      high: The highest value.
      rise: The steps from low to high, an integer, 1 or more.
      fall: The steps from high to low, an integer, 1 or more; None for as many as `rise`.

    Source: Smith 2017, arXiv 1506.01186.

    >>> import gradtx as gx
    >>> rate = gx.schedules.cyclic(0.0, 1.0, rise=2)
    >>> [float(rate(step)) for step in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
    """

    low: Scalar
    high: Scalar
    rise: Count
    fall: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, self._period() <= LAST_STEP, f"rise + fall must be at most 2³¹ − 1, got {self._period()}")

    def _period(self) -> int:
        return self.rise + (self.rise if self.fall is None else self.fall)

    def curve(self, step: Array) -> Any:
        period = self._period()
        return interpolate_all("linear", (self.low, self.high, self.low), step % period, (self.rise, period))
