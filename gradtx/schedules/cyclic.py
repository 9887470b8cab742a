"""Schedules that repeat: restarts and cyclical rates."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from gradtx.core import Scalar
from gradtx.schedules.curve import _LAST, Count, _Curve, _Fall, _require, _way, _ways


# ---------------------------------------------------------------- again and again
class _Restarts(_Fall):
    growth: Count = 1

    def curve(self, step: Array) -> Array:
        if self.growth == 1:
            return super().curve(step % self.steps)
        begins, lengths = [0], [self.steps]
        while begins[-1] + lengths[-1] <= _LAST:
            begins.append(begins[-1] + lengths[-1])
            lengths.append(lengths[-1] * self.growth)
        length = np.array(lengths, object)  # the last may be too large for int32
        table = np.minimum(length, _LAST).astype(np.int32)
        i = jnp.searchsorted(jnp.array(begins, jnp.int32), step, side="right") - 1
        begin, steps, beyond = (
            jnp.array(x)[i] for x in (np.array(begins, np.int32), table, (length - table).astype(float))
        )
        return _way(self.way, self.peak, self.floor, step - begin, steps, beyond)


class cosine_restarts(_Restarts):
    """`cosine(peak, steps, floor)` again and again, each time `growth` times as long; at a restart, the peak.

    Source: Loshchilov and Hutter 2017, arXiv 1608.03983 (SGDR).

    >>> [float(cosine_restarts(1.0, steps=2, growth=2)(step).round(3)) for step in (0, 1, 2, 4, 6)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """

    way = "cosine"


class linear_restarts(_Restarts):
    """A line from the peak to the floor again and again, each time `growth` times as long; at a restart, the peak.

    >>> [float(linear_restarts(1.0, steps=2)(step)) for step in (0, 1, 2, 3)]
    [1.0, 0.5, 1.0, 0.5]
    """

    way = "linear"


class cyclic(_Curve):
    """A triangle again and again: from low to high in `rise` steps, and back in `fall`.

    A triangle that shrinks is a product: `low + cyclic(0, high - low, n) * exponential(1, 0.5, 2 * n, staircase=True)`.

    Args:
      fall: The steps of the way back; None: as many as of the rise.

    Source: Smith 2017, arXiv 1506.01186.

    >>> [float(cyclic(0.0, 1.0, rise=2)(step)) for step in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
    """

    low: Scalar
    high: Scalar
    rise: Count
    fall: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, self._period() <= _LAST, f"rise + fall must be at most 2³¹ − 1, got {self._period()}")

    def _period(self) -> int:
        return self.rise + (self.rise if self.fall is None else self.fall)

    def curve(self, step: Array) -> Any:
        period = self._period()
        return _ways("linear", (self.low, self.high, self.low), step % period, (self.rise, period))
