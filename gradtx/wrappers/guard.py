"""A wrapper that refuses what is not finite."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.combinators.combinator import Combinator
from gradtx.combinators.monitor import Measurement
from gradtx.core import Context, Slots, Transformation, at_work, run, walk, working_dtype
from gradtx.core.transformation import FUNCTIONS
from gradtx.pieces.measures import all_finite


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
        none = jnp.zeros((), jnp.int32)
        counts = {"skipped": Measurement(none), "skipped in a row": Measurement(jnp.copy(none))}
        return super().init_tree(params) | {"step": jnp.copy(none), "measured": counts}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        done, old = slots["step"], slots.get("inner", {})
        inner = at_work(self.inner, done, working_dtype(updates, slots))
        own = context._replace(step=_counted(done))

        def attempt() -> Any:
            made, new = run(inner, updates, old, own)
            return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), (made, new), (updates, old))

        def good(made: Any, new: Any) -> Array:
            was = jax.tree.map(lambda x, before: jnp.where(jnp.isfinite(before), x, 0), new, old)  # some start at ∞
            return all_finite(updates, made, was, context.extra.get("value"))

        def once() -> Any:
            made, new = attempt()
            return (fine := good(made, new)), made, jax.tree.map(lambda x, before: jnp.where(fine, x, before), new, old)

        # Where it stays, what came in takes the place of what would come out: no memory is needed for it, or written.
        if any(name in FUNCTIONS for piece in walk(inner) for name in piece.needs):
            come = all_finite(updates, context.extra.get("value"))
            fine, made, kept = jax.lax.cond(come, once, lambda: (jnp.array(False), updates, old))
        else:
            fine = good(*attempt())
            made, kept = jax.lax.cond(fine, attempt, lambda: (updates, old))
        counts = {name: slots["measured"][name].value for name in slots["measured"]}
        total = jnp.where(fine, counts["skipped"], _counted(counts["skipped"]))
        in_a_row = jnp.where(fine, 0, _counted(counts["skipped in a row"]))
        new = {"inner": kept} if kept else {}
        new |= {"step": jnp.where(fine, own.step, done)}
        new |= {"measured": {"skipped": Measurement(total), "skipped in a row": Measurement(in_a_row)}}
        return jax.tree.map(lambda u: jnp.where(fine, u, 0), made), new


def _counted(n: Array) -> Array:
    """One more, to 2³¹ − 1."""
    return jnp.where(n < 2**31 - 1, n + 1, n)
