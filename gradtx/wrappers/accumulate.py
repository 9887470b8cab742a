"""A wrapper that runs a transformation on several updates at once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.combinators.combinator import Branching
from gradtx.core import NOTHING, Context, Part, Slots, run, walk, working_dtype
from gradtx.core.trees import is_none
from gradtx.pieces.accumulators import running_sum
from gradtx.pieces.extra import value_of
from gradtx.schedules.curve import Count


class accumulate(Branching):
    r"""Runs a transformation on the mean of every k updates; emits 0 until there are k.

    $$u_t = \mathrm{inner}\Bigl(\frac{1}{k} \sum_{i=t-k+1}^{t} g_i\Bigr) \text{ where } k \text{ divides } t,
    \qquad \text{else } 0$$

    For a batch in k parts, one after another. The sum is held in the working dtype, float32 for bfloat16 gradients.
    `inner` has a clock of its own: its steps, and the steps of its schedules, are the times that it ran. It is given
    the mean of the k losses as `value`, and the `key` and the functions of the last part. A leaf without a gradient in
    a part adds nothing to its sum, and gets nothing of it if that is the last. A NaN spoils the k that it is one of:
    the next begin with 0. What stands beside it in a chain runs at every update. With k = 1, nothing is kept.

    Args:
      inner: The transformation.
      every_k: k, an integer.
      mean: Whether it is the mean of the k updates, and of the losses; if not, their sum.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.accumulate(gx.sgd(1.0), 2)
    >>> gradients, start = jnp.array([1.0, 2.0, 3.0, 6.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([ 0. , -1.5,  0. , -4.5], dtype=float32)
    """

    inner: Part
    every_k: Count
    mean: bool = True

    formula = "u = released(inner(accumulated(g)))"

    def at(self, step: Any, running: bool = False) -> Any:
        """With the schedules of `inner` replaced by their values after so many runs as there are by `step`."""
        return dataclasses.replace(self, inner=self.inner.at(step // self.every_k, running))

    def init_tree(self, params: Any) -> Slots:
        slots = super().init_tree(params)
        if self.every_k > 1:
            slots |= running_sum().init_tree(params)
            if any("value" in piece.needs for piece in walk(self.inner)):
                slots["value"] = jnp.zeros((), working_dtype(params))
        return slots

    def finish_tree(self, updates: Any, slots: Slots, context: Context, then: Any) -> Any:
        old, sums = slots.get("inner", {}), {name: slot for name, slot in slots.items() if name != "inner"}

        def end(made: Any, kept: Slots) -> Any:
            return then(made, sums | ({"inner": kept} if kept else {}))

        if self.every_k == 1:
            return run(self.inner, updates, old, context, end)
        first, due = (context.step - 1) % self.every_k == 0, context.step % self.every_k == 0
        sums = jax.tree.map(lambda a: jnp.where(first, 0, a), sums)  # not once it is used: that would need a copy
        extra, share = dict(context.extra), self.every_k if self.mean else 1
        if "value" in sums:
            sums["value"] += value_of(self, context, sums["value"].dtype)
            extra["value"] = sums["value"] / share
        total = updates
        if "sum" in sums:  # there are leaves
            sums["sum"] = total = jax.tree.map(
                lambda g, a: a if g is None else a + g, updates, sums["sum"], is_leaf=is_none
            )

        def work() -> Any:
            taken = jax.tree.map(lambda g, a: g if g is None else a / share, updates, total, is_leaf=is_none)
            return run(self.inner, taken, old, context._replace(step=context.step // self.every_k, extra=extra), end)

        return jax.lax.cond(due, work, lambda: end(NOTHING, old))
