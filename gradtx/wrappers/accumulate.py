"""Gradient accumulation: run a transformation once for several updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.combinators.combinator import Branching
from gradtx.core import NOTHING, Context, Part, Slots, State, Transformation, at_work, run, walk, working_dtype
from gradtx.core.arguments import checked
from gradtx.core.checks import check_state
from gradtx.core.kinds import Count
from gradtx.core.root import counted, pieces
from gradtx.core.transformation import TransformationLike
from gradtx.core.trees import differentiable, is_none
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
    Transformations beside `accumulate` in a chain run at every update. With k = 1, no sum is kept. At the end of the
    data, `gx.flush` applies an unfinished group.

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

    clock = True

    def runs(self, steps: Any) -> Any:
        return steps // self.every_k

    def init_tree(self, params: Any) -> Slots:
        counts = {"step": jnp.zeros((), jnp.int32), "count": jnp.zeros((), jnp.int32)}  # runs; updates in this group
        slots = super().init_tree(params) | counts
        if self.every_k > 1:
            slots |= running_sum().init_tree(params)
            if any("value" in piece.reads() for piece in walk(self.inner)):
                slots["value"] = jnp.zeros((), working_dtype(params))
        return slots

    def finish_tree(self, updates: Any, slots: Slots, context: Context, then: Any) -> Any:
        own = {name: slot for name, slot in slots.items() if name != "inner"}
        old, done, dtype = slots.get("inner", {}), own["step"], working_dtype(updates, slots)
        inner, ran = at_work(self.inner, done, dtype), context._replace(step=counted(done))

        def end(made: Any, kept: Slots, **new: Any) -> Any:
            return then(made, own | new | ({"inner": kept} if kept else {}))

        def released(made: Any, kept: Slots) -> Any:
            return end(made, kept, step=ran.step, count=jnp.zeros_like(done))

        if self.every_k == 1:
            return run(inner, updates, old, ran, released)
        first, flushed = own["count"] == 0, own["count"] < 0
        count = jnp.where(flushed, own["count"] + FLUSH, own["count"] + 1)
        due = jnp.where(flushed, count > 0, count >= self.every_k)
        sums = {name: own[name] for name in ("sum", "value") if name in own}
        own |= jax.tree.map(lambda a: jnp.where(first, 0, a), sums)  # before its use: a later reset would need a copy
        # Multiplied by 1/n: XLA would keep the quotient of a division in memory.
        extra, weight = dict(context.extra), 1 / count.astype(dtype) if self.mean else 1
        if "value" in own and "value" in context.extra:
            own["value"] += jnp.where(flushed, 0, value_of(self, context, own["value"].dtype))
            extra["value"] = weight * own["value"]
        total = updates
        if "sum" in own:  # absent if there are no leaves
            own["sum"] = total = jax.tree.map(
                lambda g, a: a if g is None else a + jnp.where(flushed, 0, g), updates, own["sum"], is_leaf=is_none
            )

        def work() -> Any:
            taken = jax.tree.map(lambda g, a: g if g is None else weight * a, updates, total, is_leaf=is_none)
            return run(inner, taken, old, ran._replace(extra=extra), released)

        return jax.lax.cond(due, work, lambda: end(NOTHING, old, count=count))


@checked
def flush(tx: TransformationLike, params: Any, state: State, **extra: Any) -> tuple[Any, State]:
    """Apply the updates that `accumulate` holds of an unfinished group, as at the end of the data.

    Every `accumulate` in the optimizer runs its inner transformation on the mean of the updates that it holds, and
    begins a new group. One that holds none does nothing. Transformations beside it in a chain see updates of 0.

    Args:
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's.
      params: The parameters of the optimizer.
      state: The state of `tx`.
      **extra: The extra arguments of `update` that the optimizer needs, such as a random `key`.

    Returns:
      The new parameters and the new state.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.accumulate(gx.sgd(1.0), 4), jnp.zeros(1)
    >>> params, state = tx.apply(params, tx.init(params), jnp.array([3.0]))
    >>> params
    Array([0.], dtype=float32)
    >>> params, state = gx.flush(tx, params, state)
    >>> params
    Array([-3.], dtype=float32)
    """
    tx = Transformation.coerce("flush: tx", tx)
    check_state(State, params, state, params)
    slots = state.slots
    for names, piece in pieces(tx):
        if isinstance(piece, accumulate) and piece.every_k > 1:
            slots = _replaced(slots, (*names, "count"), lambda count: jax.tree.map(lambda n: n - FLUSH, count))
    zeros = jax.tree.map(lambda p: jnp.zeros_like(p) if differentiable("params", p) else None, params)
    return tx.apply(params, state._replace(slots=slots), zeros, **extra)


def _replaced(slots: Any, names: tuple[str, ...], new: Callable[[Array], Array]) -> Any:
    if not names:
        return new(slots)
    if names[0] not in slots:
        return slots  # the update says which slot is missing
    return slots | {names[0]: _replaced(slots[names[0]], names[1:], new)}


FLUSH = 2**30  # subtracted from a group's count, it releases the group at the next update, and leaves that update out
