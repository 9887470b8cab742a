"""Scale the updates down when a value stops falling."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, Decay, NonNegative, Slots, Transformation, working_dtype
from gradtx.core.kinds import Count, CountOrZero
from gradtx.core.root import counted
from gradtx.pieces.extra import value_of


class reduce_on_plateau(Transformation):
    """Multiply the updates by a factor that is reduced when a value stops falling (ReduceLROnPlateau).

    u = c·g;  c ← max(factor·c, floor) at a reduction

    A value is better if it is below best − threshold·|best| (with `absolute`, below best − threshold); it then becomes
    the best. A reduction follows more than `patience` values in a row that are not better, and the next `cooldown`
    values are not counted. A NaN changes nothing. To monitor a value that should rise, pass its negative.

    PyTorch counts in the same way. Optax reduces at the value whose number is `patience`: its `patience=5` is 4 here.
    In both libraries the relative threshold of a negative best is above that best; Optax applies `rtol` and `atol`
    together.

    Every update needs the extra argument `value`, which counts for that update: `update(g, state, value=loss)`.

    Args:
      factor: The factor of c at a reduction, in [0, 1).
      patience: The number of values in a row that may be no better, an integer, 0 or more.
      threshold: The improvement that counts as better, 0 or more: a fraction of |best|, or with `absolute` in units of
        the value.
      cooldown: The number of values after a reduction that are not counted, an integer, 0 or more.
      floor: The smallest c, in [0, 1).
      every_k: k, an integer, 1 or more. k values are judged together, by their mean; use more than 1 for the loss of a
        minibatch.
      absolute: If True, the threshold is in units of the value.

    Raises:
      ValueError: `update` lacks `value`, or `value` is an array of several numbers, or complex.
      TypeError: `value` is not a number.

    Source: lecture notes on optimizers, the threshold rule; torch.optim.lr_scheduler.ReduceLROnPlateau.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.reduce_on_plateau(factor=0.5, patience=1)
    >>> state = tx.init(jnp.zeros(()))
    >>> for loss in (3.0, 2.0, 2.0, float("nan"), 2.0, 1.0):
    ...     update, state = tx.update(jnp.array(1.0), state, value=loss)
    ...     print(update)
    1.0
    1.0
    1.0
    1.0
    0.5
    0.5
    """

    factor: Decay = 0.1
    patience: CountOrZero = 10
    threshold: NonNegative = 1e-4
    cooldown: CountOrZero = 0
    floor: Decay = 0.0
    every_k: Count = 1
    absolute: bool = False

    elementwise = True
    formula = "u = c * g"
    needs = ("value",)

    def init_tree(self, params: Any) -> Slots:
        dtype = working_dtype(params)
        return {
            "scale": jnp.ones((), dtype),
            "best": jnp.full((), jnp.finfo(dtype).max, dtype),  # finite: jax_debug_infs raises at an infinity
            "mean": jnp.zeros((), dtype),  # of the values that are judged together next
            "seen": jnp.zeros((), jnp.int32),  # the number of these values
            "worse": jnp.zeros((), jnp.int32),  # the number of values in a row that were not better
            "wait": jnp.zeros((), jnp.int32),  # the number of values not to count
        }

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        value = value_of(self, context, slots["best"].dtype)
        seen = counted(slots["seen"])
        mean = slots["mean"] + (value - slots["mean"]) / seen.astype(value.dtype)
        gathered = slots | {"mean": mean, "seen": seen}
        judged = self._judge(slots, mean)
        new = {n: jnp.where(seen < self.every_k, gathered[n], judged[n]) for n in slots}
        new = {n: jnp.where(jnp.isnan(value), slots[n], new[n]) for n in slots}
        return jax.tree.map(lambda g: new["scale"] * g, updates), new

    def _judge(self, slots: Slots, value: Array) -> Slots:
        scale, best, wait = slots["scale"], slots["best"], slots["wait"]
        some = best < jnp.finfo(best.dtype).max  # not the initial value
        size = 1 if self.absolute else jnp.where(some, jnp.abs(best), 0)
        better = value < best - jnp.where(some, self.threshold * size, 0)
        worse = jnp.where(better | (wait > 0), 0, counted(slots["worse"]))
        reduce = worse > self.patience
        return {
            "scale": jnp.where(reduce, jnp.maximum(self.factor * scale, self.floor), scale),
            "best": jnp.where(better, value, best),
            "mean": jnp.zeros_like(value),
            "seen": jnp.zeros_like(slots["seen"]),
            "worse": jnp.where(reduce, 0, worse),
            "wait": jnp.where(reduce, self.cooldown, jnp.maximum(wait - 1, 0)),
        }
