"""A wrapper that runs a transformation on several updates at once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.combinators.combinator import Combinator
from gradtx.core import Context, PerLeaf, Slots, Transformation, walk, working_dtype
from gradtx.core.trees import is_none
from gradtx.schedules import Count, Flag


class total(PerLeaf):
    """The sum of the updates so far."""

    def init_leaf(self, param):
        return {"total": jnp.zeros_like(param)}


class accumulate(Combinator):
    r"""Runs a transformation on the mean of every k updates; emits 0 until there are k.

    $$u_t = \mathrm{inner}\Bigl(\frac{1}{k} \sum_{i=t-k+1}^{t} g_i\Bigr) \text{ where } k \text{ divides } t,
    \qquad \text{else } 0$$

    For a batch in k parts, one after another. The sum is held in the working dtype, float32 for bfloat16 gradients.
    `inner` has a clock of its own: its steps, and the steps of its schedules, are the times that it ran. It is given
    the mean of the k losses as `value`, and the `key` and functions of the last part. A leaf without a gradient in a
    part adds nothing; where the last part has none, the sum waits for the next k. A NaN spoils the k that it is one
    of: the next begin with 0. What stands beside it in a chain runs at every update. With k = 1, nothing is kept.

    Args:
      inner: The transformation.
      every: k, an integer.
      mean: Whether it is the mean of the k updates, and of the losses; if not, their sum.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.accumulate(gx.sgd(1.0), 2)
    >>> gradients, start = jnp.array([1.0, 2.0, 3.0, 6.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([ 0. , -1.5,  0. , -4.5], dtype=float32)
    """

    inner: Transformation
    every: Count
    mean: Flag = True

    formula = "u = released(inner(accumulated(g)))"

    def at(self, step: Any, running: bool = False) -> Any:
        """With the schedules of `inner` replaced by their values after so many runs as there are by `step`."""
        return dataclasses.replace(self, inner=self.inner.at(step // self.every, running))

    def init_tree(self, params: Any) -> Slots:
        slots = super().init_tree(params)
        if self.every > 1:
            slots |= total().init_tree(params)
            if any("value" in piece.needs for piece in walk(self.inner)):
                slots["value"] = jnp.zeros((), working_dtype(params))
        return slots

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        if "total" not in slots:  # k is 1, or there are no leaves
            return self.part("inner", updates, slots, context, new := {}), new
        first, due = (context.step - 1) % self.every == 0, context.step % self.every == 0
        sums = {
            name: jax.tree.map(lambda a: jnp.where(first, 0, a), slots[name])
            for name in ("total", "value")
            if name in slots
        }
        sums["total"] = jax.tree.map(lambda g, a: a if g is None else a + g, updates, sums["total"], is_leaf=is_none)
        share, extra = self.every if self.mean else 1, dict(context.extra)
        if "value" in sums:
            sums["value"] += jnp.asarray(extra["value"], sums["value"].dtype)
            extra["value"] = sums["value"] / share
        own = context._replace(step=context.step // self.every, extra=extra)
        old = {"inner": slots["inner"]} if "inner" in slots else {}

        def release():
            taken = jax.tree.map(lambda g, a: g if g is None else a / share, updates, sums["total"], is_leaf=is_none)
            made = self.part("inner", taken, old, own, new := {})
            return jax.tree.map(lambda like, x: jnp.asarray(x, like.dtype), (updates, old), (made, new))

        made, new = jax.lax.cond(due, release, lambda: (updates, old))
        return jax.tree.map(lambda u: jnp.where(due, u, 0), made), new | sums
