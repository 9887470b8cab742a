"""A piece that watches a value, and shortens the updates when it stops falling."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, Decay, NonNegative, Slots, Transformation, working_dtype
from gradtx.pieces.extra import value_of
from gradtx.schedules.curve import Count, CountOrZero


class reduce_on_plateau(Transformation):
    r"""Scales the updates by a factor that falls when a value has stopped falling.   u = c·g

    The value is better if it is below best − threshold·|best| (`absolute`: below best − threshold); best is then the
    value. After more than `patience` values in a row that are not better, c ← max(factor·c, floor), and the next
    `cooldown` values are not counted. A NaN changes nothing. To watch what should rise, give its negative.

    It reads the extra argument `value` of every update, which counts for that update: `update(g, state, value=loss)`.

    Args:
      factor: In [0, 1): what c is multiplied by.
      patience: How many values in a row may be no better; an integer.
      threshold: How much lower is better, 0 or more: a share of the best, or `absolute`, in units of the value.
      cooldown: How many values after a reduction are not counted; an integer.
      floor: The smallest c, in [0, 1).
      every_k: How many values are judged together, by their mean; an integer. More than 1 for the loss of a minibatch.
      absolute: Whether the threshold is in units of the value.

    Raises `ValueError` if an update is not given a `value`, or if that is not one number.

    Source: the textbook's threshold rule; torch.optim.lr_scheduler.ReduceLROnPlateau.

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

    formula = "u = c * g"
    needs = ("value",)

    def init_tree(self, params: Any) -> Slots:
        dtype = working_dtype(params)
        return {
            "scale": jnp.ones((), dtype),
            "best": jnp.full((), jnp.inf, dtype),
            "mean": jnp.zeros((), dtype),  # of the values that are judged next
            "seen": jnp.zeros((), jnp.int32),  # how many they are
            "worse": jnp.zeros((), jnp.int32),  # how many in a row were no better
            "wait": jnp.zeros((), jnp.int32),  # how many will not be counted
        }

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        value = value_of(self, context, slots["best"].dtype)
        seen = slots["seen"] + 1
        mean = slots["mean"] + (value - slots["mean"]) / seen.astype(value.dtype)
        gathered = slots | {"mean": mean, "seen": seen}
        judged = self._judge(slots, mean)
        new = {n: jnp.where(seen < self.every_k, gathered[n], judged[n]) for n in slots}
        new = {n: jnp.where(jnp.isnan(value), slots[n], new[n]) for n in slots}
        return jax.tree.map(lambda g: new["scale"] * g, updates), new

    def _judge(self, slots: Slots, value: Array) -> Slots:
        scale, best, wait = slots["scale"], slots["best"], slots["wait"]
        margin = self.threshold if self.absolute else self.threshold * jnp.abs(best)
        better = value < jnp.where(jnp.isinf(best), best, best - margin)
        worse = jnp.where(better | (wait > 0), 0, slots["worse"] + 1)
        reduce = worse > self.patience
        return {
            "scale": jnp.where(reduce, jnp.maximum(self.factor * scale, self.floor), scale),
            "best": jnp.where(better, value, best),
            "mean": jnp.zeros_like(value),
            "seen": jnp.zeros_like(slots["seen"]),
            "worse": jnp.where(reduce, 0, worse),
            "wait": jnp.where(reduce, self.cooldown, jnp.maximum(wait - 1, 0)),
        }
