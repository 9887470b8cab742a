"""A wrapper that skips updates with values that are not finite."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.combinators.combinator import Branching
from gradtx.combinators.monitor import Measurement
from gradtx.core import NOTHING, Context, Part, Slots, at_work, run, working_dtype
from gradtx.core.root import counted
from gradtx.pieces.measures import all_finite

_COUNTS = "skipped", "skipped in a row"


class skip_nonfinite(Branching):
    """Skip every update at which any value is not finite: emit 0 and keep the inner state.

    u = inner(g), or 0

    An update is skipped if there is a NaN or an infinity among the incoming updates, in the loss (`value`) where a
    piece receives it, among the updates that `inner` would emit, or in its new state. Every update is then 0 and the
    state of `inner` is unchanged, however many updates in a row are skipped. `inner` counts its own steps, without
    skipped updates: its schedules and bias corrections ignore them, so the next finite update is unaffected. Put this
    wrapper outermost: transformations beside it in a chain run at every update and count all of them.

    `gx.measurements(state)` reports the number of skipped updates, `"skipped"`, and the number skipped since the last
    accepted update, `"skipped in a row"`, at which a training loop may stop. Within `jax.shard_map` the wrapper sees
    its own shard only.

    `inner` is computed twice, the first time only to check its results, because that needs no memory beside the state.
    It is computed once if it receives functions, such as `grad_fn`, or if `outgoing` is False: finite inputs give
    results that are not finite only by overflow or by a fault.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      outgoing: If True, also check the outgoing updates and new state. This costs about 50 % of an AdamW step.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.skip_nonfinite(gx.adam(0.1))
    >>> u, state = tx.update(jnp.array([1.0, jnp.nan]), tx.init(jnp.zeros(2)))
    >>> u, gx.measurements(state)["skipped in a row"]
    (Array([0., 0.], dtype=float32), Array(1, dtype=int32))
    """

    inner: Part
    outgoing: bool = True

    formula = "u = inner(g)"

    clock = True

    def init_tree(self, params: Any) -> Slots:
        counts = {name: Measurement(jnp.zeros((), jnp.int32)) for name in _COUNTS}
        return super().init_tree(params) | {"step": jnp.zeros((), jnp.int32), "measured": counts}

    def finish_tree(self, updates: Any, slots: Slots, context: Context, then: Any) -> Any:
        done, old = slots["step"], slots.get("inner", {})
        own = context._replace(step=counted(done))
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
            return end(NOTHING, old, done, counted(total), counted(row))

        def once() -> Any:
            return jax.lax.cond(fine(*(new := run(*work))), lambda: taken(*new), refused)

        if not self.outgoing:
            return jax.lax.cond(all_finite(updates, value), lambda: run(*work, taken), refused)
        if any(map(callable, context.extra.values())):
            return jax.lax.cond(all_finite(updates, value), once, refused)
        return jax.lax.cond(run(*work, fine), lambda: run(*work, taken), refused)


def _become(new: Array, old: Array) -> Any:
    """Return the new values to check; 0 for entries that were not finite, e.g. a best loss initialised to inf."""
    if new is old:
        return None
    return jnp.where(jnp.isfinite(old), new, 0) if jnp.issubdtype(old.dtype, jnp.inexact) else new
