"""Pieces that accumulate sizes with little memory, or with one that grows with time."""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, NonNegative, PerLeaf, Slots
from gradtx.core.transformation import sharded
from gradtx.core.trees import differentiable, widen


class running_mean(PerLeaf):
    """The mean of all updates so far, or a share of the newest of them that grows.   s ← s + (g − s)/tᵖ;  u = s

    At p = 1 all updates count alike, at p = 0 the last alone; between, about the last tᵖ. It starts at the first update
    and needs no `bias_correction`.

    Args:
      power: p, 0 or more.

    Source: Shazeer and Stern 2018, arXiv 1804.04235, section 7.2, where p is −c of 1 − t⁻ᶜ.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.running_mean(1.0)
    >>> gradients, start = jnp.array([4.0, 2.0, 0.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(4)
    Array([4., 3., 2.], dtype=float32)
    """

    power: NonNegative = 1.0

    formula = "s = (1 - t ** -power) * s + t ** -power * g; u = s"

    def init_leaf(self, param: Array) -> Slots:
        return {"mean": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        share = context.step.astype(g.dtype) ** -self.power  # as it is: 1 − (1 − share) would lose its digits
        mean = (1 - share) * slots["mean"] + share * g
        return mean, {"mean": mean}


class covered_sum(PerLeaf):
    r"""The sum of all updates so far, of which only the largest of each row and of each column are remembered.

    $$s_{ij} = \min(r_i, c_j) + g_{ij}; \qquad u = s, \qquad r_i ← \max_j s_{ij}, \quad c_j ← \max_i s_{ij}$$

    For sizes, 0 or more, it is never below `running_sum`, whose n·m numbers are n + m here. Of a leaf with more axes,
    for each index of each axis the largest is remembered; with fewer, it is `running_sum`.

    Source: Anil et al. 2019, arXiv 1901.11150, algorithm SM3-II.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, w = gx.covered_sum(), jnp.array([[1.0, 2.0], [3.0, 0.0]])
    >>> _, state = tx.update(w, tx.init(w))
    >>> state.slots["covered_sum"]["largest"]
    (Array([2., 3.], dtype=float32), Array([3., 2.], dtype=float32))
    >>> tx.update(w, state)[0]
    Array([[3., 4.],
           [6., 2.]], dtype=float32)
    """

    formula = "s = min(row_max(s), column_max(s)) + g; u = s"

    def init_tree(self, params: Any) -> Slots:
        def start(p):
            rows = _largest(widen(p)) if differentiable("params", p) else None
            return jax.tree.map(lambda x: sharded(jnp.zeros_like(x), x), rows)

        return {"largest": jax.tree.map(start, params)} if jax.tree.leaves(params) else {}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        total = _least(slots["largest"]) + g
        return total, {"largest": _largest(total)}


def _largest(x: Array) -> tuple[Array, ...]:
    """For each axis, the largest over the others; of fewer than two axes, x itself."""
    if x.ndim < 2:
        return (x,)
    every = range(x.ndim)
    return tuple(jnp.max(x, tuple(a for a in every if a != axis), initial=0) for axis in every)


def _least(largest: tuple[Array, ...]) -> Array:
    """The smallest of what `_largest` says of each coordinate."""
    if len(largest) == 1:
        return largest[0]
    every = range(len(largest))
    expanded = (jnp.expand_dims(x, [a for a in every if a != axis]) for axis, x in enumerate(largest))
    return reduce(jnp.minimum, expanded)
