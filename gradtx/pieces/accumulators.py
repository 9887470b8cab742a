"""Accumulators: sums and maxima of the updates over time."""

from functools import reduce
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, Decay, NonNegative, PerLeaf, Slots, path_of
from gradtx.core.axes import axes_of
from gradtx.core.trees import differentiable, map_with_path, sharded, widen
from gradtx.pieces.formulas import lerp, maximum, safe_sqrt


class running_sum(PerLeaf):
    """Sum of all updates so far, AdaGrad's accumulator (Duchi, Hazan and Singer, 2011).

    s ← s + g;  u = s

    Args:
      initial_value: The sum before the first update, 0 or more, in units of the updates.

    Source: Duchi, Hazan and Singer 2011.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.running_sum()
    >>> gradients, start = jnp.array([1.0, 2.0, 3.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([1., 3., 6.], dtype=float32)
    """

    initial_value: NonNegative = 0.0

    linear = True
    elementwise = True
    emits = "updates"
    ranges: ClassVar[dict[str, str]] = {"sum": "updates"}
    formula = "s0 = initial_value; s = s + g; u = s"

    def init_leaf(self, param: Array) -> Slots:
        return {"sum": jnp.full_like(param, self.initial_value)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        total = slots["sum"] + g
        return total, {"sum": total}


class running_max(PerLeaf):
    """Largest update so far, for each coordinate and starting at 0 (AMSGrad; Reddi, Kale and Kumar, 2018).

    s ← max(s, g);  u = s

    Source: Reddi, Kale and Kumar 2018, arXiv 1904.09237 (AMSGrad).

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.running_max()
    >>> gradients, start = jnp.array([1.0, 3.0, 2.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([1., 3., 3.], dtype=float32)
    """

    elementwise = True
    emits = "nonnegative"
    ranges: ClassVar[dict[str, str]] = {"max": "nonnegative"}
    formula = "s = max(s, g); u = s"

    def init_leaf(self, param: Array) -> Slots:
        return {"max": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        largest = jnp.maximum(slots["max"], g)
        return largest, {"max": largest}


class decayed_max(PerLeaf):
    """Largest update so far, with each update decayed by its age: AdaMax's accumulator (Kingma and Ba, 2015).

    s ← max(b·s, g);  u = s

    Args:
      decay: b, the decay of the maximum, in [0, 1).

    Source: Kingma and Ba 2015, arXiv 1412.6980, section 7.1.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.decayed_max(0.5)
    >>> gradients, start = jnp.array([4.0, 1.0, 1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([4., 2., 1.], dtype=float32)
    """

    decay: Decay = 0.999

    elementwise = True
    emits = "nonnegative"
    ranges: ClassVar[dict[str, str]] = {"max": "nonnegative"}
    formula = "s = max(decay * s, g); u = s"

    def init_leaf(self, param: Array) -> Slots:
        return {"max": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        largest = jnp.maximum(self.decay * slots["max"], g)
        return largest, {"max": largest}


class scale_by_own_rms(PerLeaf):
    r"""Multiply the updates by the RMS of the updates emitted before (AdaDelta; Zeiler, 2012).

    $$u = \sqrt{x + ε}\; g, \qquad x ← b\,x + (1 − b)\,u^2$$

    Args:
      decay: b, the decay of the average of squared emitted updates, in [0, 1).
      eps: ε, added to that average, 0 or more, in squared units of the parameters. √ε is the scale of the first steps.

    Source: Zeiler 2012, arXiv 1212.5701, algorithm 1.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.scale_by_own_rms(0.5, eps=1.0)
    >>> gradients, start = jnp.array([1.0, 1.0, 1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([1.    , 1.2247, 1.4142], dtype=float32)
    """

    decay: Decay = 0.9
    eps: NonNegative = 1e-6

    elementwise = True
    ranges: ClassVar[dict[str, str]] = {"mean_square": "nonnegative"}
    formula = "d = sqrt(x + eps) * g; x = decay * x + (1 - decay) * d**2; u = d"

    def init_leaf(self, param: Array) -> Slots:
        return {"mean_square": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        u = safe_sqrt(slots["mean_square"] + self.eps) * g
        return u, {"mean_square": lerp(slots["mean_square"], u * u, self.decay)}


class sm3_sum(PerLeaf):
    r"""Sum of all updates so far, stored as the largest value of each row and of each column (SM3; Anil et al., 2019).

    $$s_{ij} = \min(r_i, c_j) + g_{ij}; \qquad u = s, \qquad r_i ← \max_j s_{ij}, \quad c_j ← \max_i s_{ij}$$

    For updates of 0 or more, such as squared gradients, the result is never below the exact sum of `running_sum`.
    A matrix of n rows and m columns needs n + m numbers instead of n·m. A leaf with more axes stores the largest value
    for each index of each axis. A leaf with fewer than two axes stores the exact sum.

    Source: Anil et al. 2019, arXiv 1901.11150, algorithm SM3-II.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, w = gx.sm3_sum(), jnp.array([[1.0, 2.0], [3.0, 0.0]])
    >>> _, state = tx.update(w, tx.init(w))
    >>> state.slots["sm3_sum"]["largest"]
    (Array([2., 3.], dtype=float32), Array([3., 2.], dtype=float32))
    >>> tx.update(w, state)[0]
    Array([[3., 4.],
           [6., 2.]], dtype=float32)
    """

    formula = "s = min(row_max(s), column_max(s)) + g; u = s"

    def init_tree(self, params: Any) -> Slots:
        def start(path, p):
            ndim = len(axes_of(path_of(path), p).roles)
            rows = _largest(widen(p), ndim) if differentiable("params", p) else None
            return jax.tree.map(lambda x: sharded(jnp.zeros_like(x), x), rows)

        return {"largest": map_with_path(start, params)} if jax.tree.leaves(params) else {}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        total = _least(slots["largest"], g.ndim) + g
        return total, {"largest": _largest(total, len(context.axes.roles))}


def _largest(x: Array, ndim: int) -> tuple[Array, ...]:
    """Return, for each of the first axes, the maximum over all others; with fewer than two of them, x itself."""
    if ndim < 2:
        return (x,)
    others = (tuple(a for a in range(x.ndim) if a != axis) for axis in range(ndim))
    return tuple(jnp.maximum(maximum(x, axes), 0) for axes in others)


def _least(largest: tuple[Array, ...], ndim: int) -> Array:
    """Return, for each coordinate, the smallest of its maxima in `_largest`."""
    if len(largest) == 1:
        return largest[0]
    every = range(ndim)
    expanded = (jnp.expand_dims(x, [a for a in every if a != axis]) for axis, x in enumerate(largest))
    return reduce(jnp.minimum, expanded)
