"""Spikes: numbers far above the average of those before, found or clipped."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, Decay, Positive, Slots, Transformation, working_dtype
from gradtx.core.kinds import Count
from gradtx.core.root import counted
from gradtx.pieces.extra import value_of
from gradtx.pieces.formulas import safe_divide, safe_sqrt
from gradtx.pieces.measures import global_norm


def _moments(params: Any) -> Slots:
    """The slots of the average and the variance of a number."""
    moments = {name: jnp.zeros((), working_dtype(params)) for name in ("mean", "variance")}
    return moments | {"seen": jnp.zeros((), jnp.int32)}  # not the age: a number that is not finite is not seen


def _watched(x: Array, slots: Slots, decay: Array, warmup: int) -> Slots:
    """The moments after one more number; one that is not finite changes nothing.

    The average and the variance are plain ones of the first `warmup` numbers, and exponential ones of later numbers.
    """
    seen, finite = counted(slots["seen"]), jnp.isfinite(x)
    warm = seen <= warmup
    weight = jnp.where(warm, 1 / seen.astype(x.dtype), 1 - decay)
    before = jnp.where(finite, x, slots["mean"]) - slots["mean"]
    after = (1 - weight) * before
    new = {
        "mean": slots["mean"] + weight * before,
        "variance": (1 - weight) * slots["variance"] + weight * jnp.where(warm, before, after) * after,
        "seen": seen,
    }
    return {name: jnp.where(finite, new[name], slots[name]) for name in slots}


class Predicate(Transformation):
    """Base of the predicates of `skip_if`: a subclass defines `refuses`.

    As a link of a chain, a predicate emits 0 in place of the updates that it refuses.
    """

    def refuses(self, updates: Any, slots: Slots, context: Context, state: Any = None) -> tuple[Array, Slots]:
        """Whether to refuse the updates, and the new slots. `state` is the state of the optimizer that is guarded."""
        raise NotImplementedError(f"{type(self).__name__} must define refuses")

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        refused, new = self.refuses(updates, slots, context)
        return jax.tree.map(lambda g: jnp.where(refused, 0, g), updates), new


class norm_spike(Predicate):
    """Find updates whose global norm is far above its running average.

    ‖g‖ > c·m, with m the average of the norms so far

    `skip_if` skips the steps that this predicate finds. In a chain, u = g, or 0 at a spike, so that the pieces after it
    see a gradient of 0.

    The average starts as the mean of the first `warmup` norms, which are never spikes. It takes a spike as c·m, so that
    spikes hardly move it, and a lasting rise ends within about log(rise) / ((1 − b)·(c − 1)) spikes in a row. A norm
    that is not finite is a spike and leaves the average unchanged.

    Args:
      factor: c, above 0: the largest norm, in units of the average.
      decay: b, the decay of the average, in [0, 1).
      warmup: The number of norms that start the average, an integer, 1 or more.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.norm_spike(factor=3.0, warmup=2)
    >>> gradients, start = jnp.array([1.0, 2.0, -4.0, 5.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([ 1.,  2., -4.,  0.], dtype=float32)
    """

    factor: Positive = 3.0
    decay: Decay = 0.99
    warmup: Count = 10

    formula = (
        "n = norm(g); φ = max((n <= factor * m), (t <= warmup)); d = φ * n + (1 - φ) * factor * m - m; "
        "m = m + d * max((t <= warmup) / t, (t > warmup) * (1 - decay)); u = φ * g"
    )

    def init_tree(self, params: Any) -> Slots:
        return _moments(params)

    def refuses(self, updates: Any, slots: Slots, context: Context, state: Any = None) -> tuple[Array, Slots]:
        norm, most = global_norm(updates), self.factor * slots["mean"]
        spike = ~(norm <= most) & (slots["seen"] >= self.warmup)
        taken = jnp.where(spike & jnp.isfinite(norm), most, norm)
        return spike | ~jnp.isfinite(norm), _watched(taken, slots, self.decay, self.warmup)


class loss_spike(Predicate):
    """Find updates at which the loss is far above its running average.

    f > m + c·s, with m and s the average and the standard deviation of the losses so far

    `skip_if` skips the steps that this predicate finds. In a chain, u = g, or 0 at a spike, so that the pieces after it
    see a gradient of 0. Every update needs the loss as the extra argument `value`.

    m and s start as those of the first `warmup` losses, which are never spikes. They take a spike as m + c·s, so that
    spikes hardly move them, and after a lasting rise s grows until it is accepted. A loss that is not finite is a spike
    and leaves both unchanged; while s is 0, no other loss is one.

    Args:
      factor: c, above 1: the largest distance from the average, in standard deviations.
      decay: b, the decay of the average and of the variance, in [0, 1).
      warmup: The number of losses that start the average, an integer, 1 or more.

    Raises:
      ValueError: `update` lacks `value`, or `value` is an array of several numbers, or complex.
      TypeError: `value` is not a number.

    Source: OLMo-core's SkipStepOptimizer, whose average and standard deviation are those of the last 128 losses.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.loss_spike(factor=4.0, warmup=2)
    >>> state = tx.init(jnp.zeros(()))
    >>> for loss in (3.0, 2.0, 1.0, 9.0, 1.0):
    ...     update, state = tx.update(jnp.array(1.0), state, value=loss)
    ...     print(update)
    1.0
    1.0
    1.0
    0.0
    1.0
    """

    factor: Positive = 6.0
    decay: Decay = 0.99
    warmup: Count = 10

    elementwise = True
    formula = (
        "φ = max((value - m <= factor * sqrt(s)), max((s <= 0), (t <= warmup))); "
        "d = φ * (value - m) + (1 - φ) * factor * sqrt(s); "
        "w = max((t <= warmup) / t, (t > warmup) * (1 - decay)); m = m + w * d; "
        "s = (1 - w) * s + w * (1 - w) ** (2 - (t <= warmup)) * d**2; u = φ * g"
    )
    needs = ("value",)

    def init_tree(self, params: Any) -> Slots:
        return _moments(params)

    def refuses(self, updates: Any, slots: Slots, context: Context, state: Any = None) -> tuple[Array, Slots]:
        loss, most = value_of(self, context, slots["mean"].dtype), self.factor * safe_sqrt(slots["variance"])
        spike = ~(loss - slots["mean"] <= most) & (most > 0) & (slots["seen"] >= self.warmup)
        taken = jnp.where(spike & jnp.isfinite(loss), slots["mean"] + most, loss)
        return spike | ~jnp.isfinite(loss), _watched(taken, slots, self.decay, self.warmup)


class zclip(Transformation):
    r"""ZClip: clip the updates by their global norm where it is far above its running average (Kumar et al., 2025).

    $$u = g\,\frac{c}{‖g‖}, \qquad c = m + \frac{z^2 s^2}{‖g‖ − m} \text{ if } ‖g‖ > m + z·s, \text{ else } ‖g‖$$

    m and s are the average and the standard deviation of the norms so far, each after its own clipping: the farther
    above the bound a norm is, the closer to the average it is clipped. The first `warmup` norms start m and s and are
    not clipped. An update whose norm is not finite is unchanged, and m and s are too: `skip_nonfinite` around the
    optimizer skips it.

    Args:
      threshold: z, above 0: the bound on the norm's distance from the average, in standard deviations.
      decay: b, the decay of the average and of the variance, in [0, 1).
      warmup: The number of norms that start the average, an integer, 1 or more.

    Source: Kumar et al. 2025, arXiv 2504.02507, algorithm 1, without its ε.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.zclip(2.0, warmup=2)
    >>> gradients, start = jnp.array([3.0, 5.0, -8.0, 4.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([ 3.,  5., -5.,  4.], dtype=float32)
    """

    threshold: Positive = 2.5
    decay: Decay = 0.97
    warmup: Count = 25

    formula = (
        "n = norm(g); φ = max((n <= m + threshold * sqrt(s)), (t <= warmup)); "
        "c = φ * n + (1 - φ) * (m + (1 - φ) * threshold**2 * s / max(n - m, 10**-300)); d = c - m; "
        "w = max((t <= warmup) / t, (t > warmup) * (1 - decay)); m = m + w * d; "
        "s = (1 - w) * s + w * (1 - w) ** (2 - (t <= warmup)) * d**2; u = g * c / max(n, 10**-300)"
    )

    def init_tree(self, params: Any) -> Slots:
        return _moments(params)

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        norm, away = global_norm(updates), self.threshold * safe_sqrt(slots["variance"])
        above = norm - slots["mean"]
        spike = (above > away) & (slots["seen"] >= self.warmup) & jnp.isfinite(norm)
        clipped = slots["mean"] + away * (away / jnp.where(spike, above, 1))
        new = _watched(jnp.where(spike, clipped, norm), slots, self.decay, self.warmup)
        factor = jnp.where(spike, safe_divide(clipped, jnp.where(spike, norm, 1)), 1)
        return jax.tree.map(lambda g: factor * g, updates), new
