"""A wrapper that runs a transformation once every k updates."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import Context, Part, Slots, Transformation, at_work, run, working_dtype
from gradtx.core.kinds import Count
from gradtx.core.root import counted
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

    clock = True

    def runs(self, steps: Any) -> Any:
        return steps // self.every_k

    def init_tree(self, params: Any) -> Slots:
        counts = {"step": jnp.zeros((), jnp.int32), "count": jnp.zeros((), jnp.int32)}  # runs; updates since the last
        return super().init_tree(params) | counts | (delay().init_tree(params) if self.every_k > 1 else {})

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        inner = at_work(self.inner, slots["step"], working_dtype(updates, slots))
        ran = context._replace(step=counted(slots["step"]))

        def run_inner() -> tuple[Any, Slots]:
            out, kept = run(inner, updates, slots.get("inner", {}), ran)
            return out, slots | {"step": ran.step} | ({"inner": kept} if kept else {})

        if "last" not in slots:  # k is 1, or there are no leaves
            return run_inner()

        def renew() -> Slots:
            out, new = run_inner()
            last = jax.tree.map(lambda u, before: before if u is None else u, out, slots["last"], is_leaf=is_none)
            return jax.tree.map(lambda old, x: jnp.asarray(x, old.dtype), slots, new | {"last": last})

        new = jax.lax.cond(slots["count"] == 0, renew, lambda: slots)
        count = counted(slots["count"])
        new |= {"count": jnp.where(count < self.every_k, count, 0)}
        return jax.tree.map(lambda g, u: g if g is None else u, updates, new["last"], is_leaf=is_none), new
