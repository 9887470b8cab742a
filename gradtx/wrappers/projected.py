"""An optimizer whose parameters stay in a set."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import Context, Part, Slots, Transformation


class projected(Transformation):
    r"""Steps as an optimizer does, and back into a set.   u = P(θ + a(g)) − θ

    Gradient descent, retracted, is projected gradient descent. The parameters are in the set after the first update,
    but for the rounding of u, which is added to them. Needs `params`.

    Args:
      inner: The optimizer: makes a(g), which is added to the parameters.
      onto: P, on each leaf, or on all: `lower_bound(0.0)` for what is not negative, `box`, `simplex`, `l1_ball`,
        `clip_by_norm`, `clip_by_global_norm`, or any other transformation.

    Source: Goldstein 1964; Levitin and Polyak 1966.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.projected(gx.sgd(0.5), gx.lower_bound(0.0)), jnp.array([1.0, 1.0])
    >>> tx.update(jnp.array([1.0, 4.0]), tx.init(params), params)[0]
    Array([-0.5, -1. ], dtype=float32)
    """

    inner: Part
    onto: Part

    formula = "u = onto(θ + inner(g)) - θ"
    needs = ("params",)

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made = self.part("inner", updates, slots, context, new := {})
        moved = jax.tree.map(lambda a, p: p + a, made, context.params)
        there = self.part("onto", moved, slots, context, new)
        return jax.tree.map(jnp.subtract, there, context.params), new
