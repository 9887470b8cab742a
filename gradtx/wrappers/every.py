"""A wrapper that runs a transformation once every k updates."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import Context, Part, Slots, Transformation
from gradtx.core.kinds import Count
from gradtx.core.trees import is_none
from gradtx.pieces.sources import delay


class every(Transformation):
    r"""Run a transformation at the first of every k updates, and repeat its last result at the others.

    $$u_t = \mathrm{inner}(g_s), \qquad s = t - (t - 1) \bmod k$$

    Use it for expensive, slowly varying quantities such as a Hessian diagonal. On the other updates `inner` is not
    evaluated, nor are the functions given to `update`, and the incoming gradient is ignored. `inner` counts its own
    steps: its step, and the step of its schedules, is the number of times it ran, so bias corrections match the updates
    that its averages have seen. A leaf without a gradient when `inner` ran repeats its last result, at first 0. With k
    = 1, no result is kept.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      every_k: k, an integer, 1 or more.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.every(gx.running_sum(), 2)
    >>> gradients, start = jnp.array([1.0, 2.0, 3.0, 4.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([1., 1., 4., 4.], dtype=float32)
    """

    inner: Part
    every_k: Count

    formula = "u = held(inner(g))"

    def at(self, step: Any, running: bool = False) -> Any:
        """Return a copy in which the schedules of `inner` have their values after the runs made by `step`."""
        return dataclasses.replace(self, inner=self.inner.at(step // self.every_k, running))

    def init_tree(self, params: Any) -> Slots:
        return super().init_tree(params) | (delay().init_tree(params) if self.every_k > 1 else {})

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        ran = context._replace(step=(context.step - 1) // self.every_k + 1)
        if "last" not in slots:  # k is 1, or there are no leaves
            return self.part("inner", updates, slots, ran, new := {}), new

        def run():
            out = self.part("inner", updates, slots, ran, new := {})
            last = jax.tree.map(lambda u, before: before if u is None else u, out, slots["last"], is_leaf=is_none)
            return jax.tree.map(lambda old, x: jnp.asarray(x, old.dtype), slots, new | {"last": last})

        new = jax.lax.cond((context.step - 1) % self.every_k == 0, run, lambda: slots)
        return jax.tree.map(lambda g, u: g if g is None else u, updates, new["last"], is_leaf=is_none), new
