"""Clipping: by value, norm or root mean square."""

import math
import numbers
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, Kind, PerLeaf, Positive, Slots, Transformation, scalar
from gradtx.core.axes import refuse_doubt
from gradtx.pieces.formulas import norm
from gradtx.pieces.measures import global_norm
from gradtx.pieces.norms import root_mean_square


def _limit(place: str, value: Any) -> Any:
    unlimited = value is None or (isinstance(value, numbers.Real) and value == math.inf)
    return None if unlimited else scalar(place, value, Positive)


Limit = Annotated[Any, Kind(_limit, data=True)]
"""Annotates a bound, a number above 0; None and infinity mean no bound, and are structure."""


class clip(PerLeaf):
    """Clip each coordinate of the updates.

    u = min(max(g, −c), c);  NaN stays NaN, ±inf becomes ±c

    Args:
      limit: c, the largest absolute value of a coordinate, above 0, in units of the updates. None or `inf`: no limit.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.clip(2.0)
    >>> tx.update(jnp.array([4.0, -1.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 2., -1.], dtype=float32)
    """

    limit: Limit

    elementwise = True
    formula = "u = g if limit is None else clip(g, -limit, limit)"

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        return g if self.limit is None else jnp.clip(g, -self.limit, self.limit), slots


class adopt_clip(PerLeaf):
    """Clip each coordinate of the updates to a bound that grows from 0 (ADOPT; Taniguchi et al., 2024).

    u = min(max(g, −c), c), c = (t − 1)ᵖ

    Use it for normalised updates (magnitude ≈ 1) whose denominator is still unreliable. The first update is 0.

    Args:
      power: p, the exponent of the bound's growth, above 0.

    Source: Taniguchi et al. 2024, arXiv 2411.02853, algorithm 2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.adopt_clip(0.5)
    >>> gradients, start = jnp.array([7.0, 7.0, -0.5, 7.0, 7.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(2)
    Array([ 0.  ,  1.  , -0.5 ,  1.73,  2.  ], dtype=float32)
    """

    power: Positive = 0.25

    elementwise = True
    formula = "c = (t - 1) ** power; u = clip(g, -c, c)"
    counts = True

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        limit = (context.age - 1).astype(self.power.dtype) ** self.power
        return jnp.clip(g, -limit, limit), slots


class adabound_clip(PerLeaf):
    """Clip each coordinate to bounds that close in on one number (AdaBound; Luo et al., 2019).

    u = min(max(g, c·r), c/r), r = γ·t/(γ·t + 1)

    Use it for a denominator: at first each coordinate has its own, and in the end all coordinates have the same.

    Args:
      center: c, the number that the bounds approach, above 0, in units of the updates.
      speed: γ, the speed of the approach, above 0, per step.

    Source: Luo et al. 2019, arXiv 1902.09843; the bounds of its published code, applied to the denominator instead of
    the rate.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.adabound_clip(1.0, speed=1.0)
    >>> gradients, start = jnp.array([9.0, 9.0, 9.0, 0.1]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([2.       , 1.5      , 1.3333334, 0.8      ], dtype=float32)
    """

    center: Positive
    speed: Positive = 1e-3

    elementwise = True
    formula = "r = speed * t / (speed * t + 1); u = clip(g, center * r, center / r)"
    counts = True

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        steps = self.speed * context.age.astype(g.dtype)
        share = steps / (steps + 1)
        return jnp.clip(g, self.center * share, self.center / share), slots


class clip_by_norm(PerLeaf):
    """Clip each leaf of the updates by its own norm.

    u = g · min(1, c / ‖g‖)

    The norm is accurate for coordinates from 1e-38 to 1e38 in float32, and its derivative at 0 is 0. A NaN or an
    infinity makes every coordinate of its leaf NaN. `clip_by_global_norm` uses the norm of all leaves instead.

    Args:
      max_norm: c, the largest norm of a leaf, above 0, in units of the updates. None or `inf`: no limit.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.clip_by_norm(1.0)
    >>> tx.update([jnp.array([3.0, 4.0]), jnp.array([0.5])], tx.init([jnp.zeros(2), jnp.zeros(1)]))[0]
    [Array([0.6, 0.8], dtype=float32), Array([0.5], dtype=float32)]
    """

    max_norm: Limit

    formula = "u = g if max_norm is None else g * min(1, max_norm / norm(g))"

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        return _shortened(g, self.max_norm), slots


class clip_by_global_norm(Transformation):
    """Clip the updates by their global norm, the norm of all leaves as one vector (Pascanu, Mikolov and Bengio, 2013).

    u = g · min(1, c / ‖g‖)

    The norm is accurate for coordinates from 1e-38 to 1e38 in float32, and its derivative at 0 is 0. A NaN or an
    infinity anywhere makes every coordinate NaN: clipping cannot repair a gradient that is only partly finite.

    Args:
      max_norm: c, the largest global norm, above 0, in units of the updates. None or `inf`: no limit.

    Source: Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.clip_by_global_norm(1.0)
    >>> tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))[0]
    Array([0.6, 0.8], dtype=float32)
    """

    max_norm: Limit

    formula = "u = g if max_norm is None else g * min(1, max_norm / norm(g))"

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        return _shortened(updates, self.max_norm), slots


def _shortened(updates: Any, max_norm: Array | None) -> Any:
    """Return the updates times min(1, max_norm / ‖updates‖)."""
    if max_norm is None:
        return updates
    factor = _factor(global_norm(updates), max_norm)
    return jax.tree.map(lambda g: factor * g, updates)


def _factor(norm: Array, most: Array) -> Array:
    """Return min(1, most / norm), and NaN for a norm that is not finite."""
    return jnp.where(norm > most, most / jnp.where(norm > 0, norm, 1), 1) + 0 * norm


class adaptive_clip(PerLeaf):
    """Adaptive gradient clipping: clip each unit by the norm of its weights (AGC; Brock et al., 2021).

    u = g · min(1, c·max(‖θ‖, floor) / ‖g‖), with norms of each unit

    A unit is an output of a linear map, with the weights of all its inputs, a row of a table of embeddings, or a whole
    vector, such as a bias. To leave out the last layer, as the paper does, use
    `masked(adaptive_clip(), where, otherwise="identity")`. A NaN or an infinity makes its unit NaN. Needs `params`.

    Optax takes the first axis alone for the inputs of a leaf of two or three axes, and the first three of a leaf of
    four: the same for kernels (inputs, outputs), except for three axes.

    Args:
      ratio: c, the largest norm of a unit's gradient relative to its weights, above 0.
      floor: The lower bound of ‖θ‖, above 0, in units of the parameters: units that start at 0 can leave it.

    Raises:
      ValueError: The axes of a leaf are in doubt: declare them with `layout`.

    Source: Brock et al. 2021, arXiv 2102.06171, equation 3.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.adaptive_clip(0.5), jnp.array([[3.0, 1.0], [4.0, 1.0]])
    >>> tx.update(jnp.array([[6.0, 0.1], [8.0, 0.1]]), tx.init(params), params)[0]
    Array([[1.5, 0.1],
           [2. , 0.1]], dtype=float32)
    """

    ratio: Positive = 0.01
    floor: Positive = 1e-3

    formula = "u = g * min(1, ratio * max(unit_norm(θ), floor) / unit_norm(g))"
    needs = ("params",)

    def init_tree(self, params: Any) -> Slots:
        refuse_doubt(self, params)
        return {}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        units = context.axes.of("out") if context.axes.is_linear else context.axes.of("row")
        unit = tuple(i for i in range(g.ndim) if i not in units)
        most = self.ratio * jnp.maximum(norm(context.params, unit), self.floor)
        return _factor(norm(g, unit), most) * g, slots


class clip_by_rms(PerLeaf):
    """Clip each leaf of the updates by its root mean square (Shazeer and Stern, 2018).

    u = g · min(1, c / rms(g))

    The result is accurate wherever the norm of the leaf is in the range of the dtype, even if its square overflows or
    underflows. A NaN or an infinity makes every coordinate of its leaf NaN.

    Args:
      max_rms: c, the largest root mean square of a leaf, above 0, in units of the updates. None or `inf`: no limit.

    Source: Shazeer and Stern 2018, arXiv 1804.04235, section 6.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.clip_by_rms(1.0)
    >>> tx.update(jnp.array([4.0, 0.0, 0.0, 0.0]), tx.init(jnp.zeros(4)))[0]
    Array([2., 0., 0., 0.], dtype=float32)
    """

    max_rms: Limit = 1.0

    formula = "u = g if max_rms is None else g * min(1, max_rms / rms(g))"

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        if self.max_rms is None:
            return g, slots
        return _factor(root_mean_square(g), self.max_rms) * g, slots


class limit_growth(PerLeaf):
    """Limit the growth of the norm of each leaf from one update to the next (Fira; Chen et al., 2024).

    u = g·min(1, c·l/‖g‖);  l ← ‖u‖

    The first update passes unchanged, and so does the first after a norm of 0.

    Args:
      factor: c, the largest ratio of a norm to the norm before it, above 0.

    Source: Chen et al. 2024, arXiv 2410.01623, section 4.3.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.limit_growth(2.0)
    >>> _, state = tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))
    >>> tx.update(jnp.array([8.0]), state)[0]
    Array([2.], dtype=float32)
    """

    factor: Positive = 1.01

    formula = "n = norm(g); c = min(1, (factor * l + (l <= 0) * n) / n); l = c * n; u = c * g"

    def init_leaf(self, param: Array) -> Slots:
        return {"norm": jnp.zeros((), param.dtype)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        size, last = norm(g), slots["norm"]
        kept = jnp.where(last > 0, jnp.minimum(1, self.factor * last / jnp.where(size > 0, size, 1)), 1)
        return kept * g, {"norm": kept * size}
