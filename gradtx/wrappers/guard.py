"""A wrapper that refuses what is not finite."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.combinators.combinator import Combinator
from gradtx.combinators.monitor import Measurement
from gradtx.core import Context, Slots, Transformation, at_work, run, working_dtype
from gradtx.pieces.measures import all_finite

_COUNTS = "skipped", "skipped in a row"


class skip_nonfinite(Combinator):
    r"""Leaves everything as it is at an update where anything is not finite.   u = inner(g), or 0

    A NaN or an infinity among the updates that come in, in the loss (`value`) where a piece is given it, among the
    updates that `inner` would emit or in what it would newly remember: then every update is 0 and what `inner`
    remembers stays as it is, however often in a row. `inner` has a clock of its own, which stands still then: its
    schedules and corrections go by the updates that were done, so the next one is what it would have been. Put it
    outermost; what stands beside it in a chain runs at every update, by the clock of the whole.

    `measurements` reads how many updates were refused, `"skipped"`, and how many of them since the last one that was
    done, `"skipped in a row"`: where a training loop may stop. Within `jax.shard_map` it sees its own shard.

    `inner` is computed twice, once only to see what would come out, because that needs no memory beside the state;
    but once where it is given functions, such as `grad_fn`.

    Args:
      inner: The optimizer.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.skip_nonfinite(gx.adam(0.1))
    >>> u, state = tx.update(jnp.array([1.0, jnp.nan]), tx.init(jnp.zeros(2)))
    >>> u, gx.measurements(state)["skipped in a row"]
    (Array([0., 0.], dtype=float32), Array(1, dtype=int32))
    """

    inner: Transformation

    formula = "u = inner(g)"

    def at(self, step: Any, running: bool = False) -> Any:
        """With the schedules of `inner` replaced by their values, if none of the updates before was refused."""
        return self if running else super().at(step)

    def init_tree(self, params: Any) -> Slots:
        counts = {name: Measurement(jnp.zeros((), jnp.int32)) for name in _COUNTS}
        return super().init_tree(params) | {"step": jnp.zeros((), jnp.int32), "measured": counts}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        done, old = slots["step"], slots.get("inner", {})
        inner = at_work(self.inner, done, working_dtype(updates, slots))
        own = context._replace(step=_counted(done))
        value = context.extra.get("value")

        def attempt() -> Any:
            made, new = run(inner, updates, old, own)
            return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), (made, new), (updates, old))

        def good(made: Any, new: Any) -> Array:
            return all_finite(updates, made, value, jax.tree.map(_become, new, old))

        def once() -> Any:
            made, new = attempt()
            return (fine := good(made, new)), made, jax.tree.map(lambda x, before: jnp.where(fine, x, before), new, old)

        # Where it stays, what came in stands for what would come out: no memory is needed for it, nor written.
        if any(map(callable, context.extra.values())):
            stay = jnp.array(False), updates, old
            fine, made, kept = jax.lax.cond(all_finite(updates, value), once, lambda: stay)
        else:
            fine = good(*attempt())
            made, kept = jax.lax.cond(fine, attempt, lambda: (updates, old))
        total, row = (slots["measured"][name].value for name in _COUNTS)
        counts = jnp.where(fine, total, _counted(total)), jnp.where(fine, 0, _counted(row))
        new = {"step": jnp.where(fine, own.step, done), "measured": dict(zip(_COUNTS, map(Measurement, counts)))}
        return jax.tree.map(lambda u: jnp.where(fine, u, 0), made), new | ({"inner": kept} if kept else {})


def _counted(n: Array) -> Array:
    """One more, to 2³¹ − 1."""
    return jnp.where(n < 2**31 - 1, n + 1, n)


def _become(new: Array, old: Array) -> Array:
    """What is new; 0 where the old was not finite, as a smallest loss is before the first."""
    return jnp.where(jnp.isfinite(old), new, 0) if jnp.issubdtype(old.dtype, jnp.inexact) else new
