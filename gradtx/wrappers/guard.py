"""A wrapper that refuses what is not finite."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.combinators.combinator import Branching
from gradtx.combinators.monitor import Measurement
from gradtx.core import NOTHING, Context, Part, Slots, at_work, run, working_dtype
from gradtx.pieces.measures import all_finite

_COUNTS = "skipped", "skipped in a row"


class skip_nonfinite(Branching):
    r"""Leaves everything as it is at an update where anything is not finite.   u = inner(g), or 0

    A NaN or an infinity among the updates that come in, in the loss (`value`) where a piece is given it, among the
    updates that `inner` would emit or in what it would newly remember: then every update is 0 and what `inner`
    remembers stays as it is, however often in a row. `inner` has a clock of its own, which stands still then: its
    schedules and corrections go by the updates that were done, so the next one is what it would have been. Put it
    outermost; what stands beside it in a chain runs at every update, by the clock of the whole.

    `measurements` reads how many updates were refused, `"skipped"`, and how many of them since the last one that was
    done, `"skipped in a row"`: where a training loop may stop. Within `jax.shard_map` it sees its own shard.

    `inner` is computed twice, once only to see what would come out, because that needs no memory beside the state;
    but once where it is given functions, such as `grad_fn`, or where what would come out is not looked at: from what is
    finite, what is not comes by overflow alone, or by a fault.

    Args:
      inner: The optimizer.
      outgoing: Whether what would come out is looked at, beside what comes in; AdamW then takes half as long again.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.skip_nonfinite(gx.adam(0.1))
    >>> u, state = tx.update(jnp.array([1.0, jnp.nan]), tx.init(jnp.zeros(2)))
    >>> u, gx.measurements(state)["skipped in a row"]
    (Array([0., 0.], dtype=float32), Array(1, dtype=int32))
    """

    inner: Part
    outgoing: bool = True

    formula = "u = inner(g)"

    def at(self, step: Any, running: bool = False) -> Any:
        """With the schedules of `inner` replaced by their values, if none of the updates before was refused."""
        return self if running else super().at(step)

    def init_tree(self, params: Any) -> Slots:
        counts = {name: Measurement(jnp.zeros((), jnp.int32)) for name in _COUNTS}
        return super().init_tree(params) | {"step": jnp.zeros((), jnp.int32), "measured": counts}

    def finish_tree(self, updates: Any, slots: Slots, context: Context, then: Any) -> Any:
        done, old = slots["step"], slots.get("inner", {})
        own = context._replace(step=_counted(done))
        work = at_work(self.inner, done, working_dtype(updates, slots)), updates, old, own
        value = context.extra.get("value")
        total, row = (slots["measured"][name].value for name in _COUNTS)

        def fine(made: Any, new: Slots) -> Array:
            made = None if made is NOTHING else made
            return all_finite(updates, made, value, jax.tree.map(_become, new, old))

        def end(made: Any, kept: Slots, step: Any, *counts: Any) -> Any:
            new = {"step": step, "measured": dict(zip(_COUNTS, map(Measurement, counts)))}
            return then(made, new | ({"inner": kept} if kept else {}))

        def taken(made: Any, new: Slots) -> Any:
            return end(made, new, own.step, total, jnp.zeros_like(row))

        def refused() -> Any:
            return end(NOTHING, old, done, _counted(total), _counted(row))

        def once() -> Any:
            return jax.lax.cond(fine(*(new := run(*work))), lambda: taken(*new), refused)

        if not self.outgoing:
            return jax.lax.cond(all_finite(updates, value), lambda: run(*work, taken), refused)
        if any(map(callable, context.extra.values())):
            return jax.lax.cond(all_finite(updates, value), once, refused)
        return jax.lax.cond(run(*work, fine), lambda: run(*work, taken), refused)


def _counted(n: Array) -> Array:
    """One more, to 2³¹ − 1."""
    return jnp.where(n < 2**31 - 1, n + 1, n)


def _become(new: Array, old: Array) -> Any:
    """What is new; 0 where the old was not finite, as a smallest loss is before the first."""
    if new is old:
        return None
    return jnp.where(jnp.isfinite(old), new, 0) if jnp.issubdtype(old.dtype, jnp.inexact) else new
