"""Projected optimization: a wrapper that keeps the parameters in a set."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import Context, Part, Slots, Transformation


class projected(Transformation):
    """Project the parameters onto a set after each step of an optimizer.

    u = P(θ + a(g)) − θ

    With gradient descent inside, this is projected gradient descent. After the first update the parameters are in the
    set, up to the rounding of u, which is added to them. `update` needs `params`.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
        Its update a(g) is added to the parameters before the projection.
      onto: P, of each leaf or of all leaves together: `gx.lower_bound(0.0)` for parameters of 0 or more,
        `gx.projections.box`, `gx.projections.simplex`, `gx.projections.l1_ball`,
        `gx.projections.initial_norm`, `gx.clip_by_norm`, `gx.clip_by_global_norm`, or any other transformation.

    Source: Goldstein 1964; Levitin and Polyak 1966.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.projected(gx.sgd(0.5), gx.lower_bound(0.0)), jnp.array([1.0, 1.0])
    >>> tx.update(jnp.array([1.0, 4.0]), tx.init(params), params)[0]
    Array([-0.5, -1. ], dtype=float32)
    """

    inner: Part
    onto: Part

    elementwise = True
    formula = "u = onto(θ + inner(g)) - θ"
    needs = ("params",)

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made = self.part("inner", updates, slots, context, new := {})
        moved = jax.tree.map(lambda a, p: p + a, made, context.params)
        there = self.part("onto", moved, slots, context, new)
        return jax.tree.map(jnp.subtract, there, context.params), new
