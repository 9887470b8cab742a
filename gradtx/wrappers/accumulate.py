"""Gradient accumulation: run a transformation once for several updates."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.combinators.combinator import Branching
from gradtx.core import NOTHING, Context, Part, Slots, run, walk, working_dtype
from gradtx.core.kinds import Count
from gradtx.core.trees import is_none
from gradtx.pieces.accumulators import running_sum
from gradtx.pieces.extra import value_of


class accumulate(Branching):
    r"""Run a transformation on the mean of every k updates, and emit 0 until there are k.

    $$u_t = \mathrm{inner}\Bigl(\frac{1}{k} \sum_{i=t-k+1}^{t} g_i\Bigr) \text{ where } k \text{ divides } t,
    \qquad \text{else } 0$$

    Use it for a batch that is split into k micro-batches. The sum is held in the working dtype, float32 for bfloat16
    gradients. `inner` counts its own steps: its step, and the step of its schedules, is the number of times it ran. It
    receives the mean of the k losses as `value`, and the `key` and the functions of the last micro-batch.

    A leaf whose gradient is None in a micro-batch adds nothing to its sum, and gets no update if that micro-batch is
    the last. A NaN in one micro-batch invalidates its whole group of k; the next group starts from zero.
    Transformations beside `accumulate` in a chain run at every update. With k = 1, no sum is kept.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      every_k: k, an integer, 1 or more. The number of updates in a group.
      mean: If True, `inner` receives the mean of the k updates and of the losses; if False, their sum.

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
        """Return a copy in which the schedules of `inner` have their values after the runs made by `step`."""
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
        sums = jax.tree.map(lambda a: jnp.where(first, 0, a), sums)  # before its use: a later reset would need a copy
        extra, share = dict(context.extra), self.every_k if self.mean else 1
        if "value" in sums:
            sums["value"] += value_of(self, context, sums["value"].dtype)
            extra["value"] = sums["value"] / share
        total = updates
        if "sum" in sums:  # absent if there are no leaves
            sums["sum"] = total = jax.tree.map(
                lambda g, a: a if g is None else a + g, updates, sums["sum"], is_leaf=is_none
            )

        def work() -> Any:
            taken = jax.tree.map(lambda g, a: g if g is None else a / share, updates, total, is_leaf=is_none)
            return run(self.inner, taken, old, context._replace(step=context.step // self.every_k, extra=extra), end)

        return jax.lax.cond(due, work, lambda: end(NOTHING, old))
