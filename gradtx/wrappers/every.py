"""A wrapper that runs a transformation at some of the updates."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import Context, Part, Slots, Transformation
from gradtx.core.trees import is_none
from gradtx.pieces.sources import delay
from gradtx.schedules.curve import Count


class every(Transformation):
    r"""Runs a transformation at the first of every k updates; at the others it emits what was emitted last.

    $$u_t = \mathrm{inner}(g_s), \qquad s = t - (t - 1) \bmod k$$

    For what is dear and changes slowly. At the others nothing of `inner` is computed, the functions that `update` is
    given included, and what comes in is not seen. `inner` has a clock of its own: its steps, and the steps of its
    schedules, are the times that it ran, so that averages and their corrections are of what they have seen. A leaf
    without a gradient when `inner` ran emits what it last emitted, at first 0. With k = 1, nothing is kept.

    Args:
      inner: The transformation.
      every_k: k, an integer.

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
        """With the schedules of `inner` replaced by their values after so many runs as there are by `step`."""
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
