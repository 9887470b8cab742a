"""Gradient accumulation: run a transformation once for several updates."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.combinators.combinator import Branching
from gradtx.core import (
    NOTHING,
    Context,
    Kind,
    Part,
    Record,
    Schedule,
    Slots,
    State,
    Transformation,
    at_work,
    of_step,
    run,
    walk,
    working_dtype,
)
from gradtx.core.arguments import checked, function_of, scheduled
from gradtx.core.checks import check_state
from gradtx.core.kinds import integer
from gradtx.core.root import counted, pieces
from gradtx.core.transformation import TransformationLike
from gradtx.core.trees import differentiable, is_none
from gradtx.pieces.accumulators import running_sum
from gradtx.pieces.extra import value_of
from gradtx.pieces.formulas import two_sum


def _count(place: str, value: Any) -> Any:
    if callable(value) and not isinstance(value, Record):
        return of_step(function_of(place, value, "the step"))
    return value if isinstance(value, Schedule) else integer(1).convert(place, value)


Group = Annotated[Any, Kind(_count)]
"""Annotates the number of updates in a group: an integer, 1 or more, or a schedule of it. It is structure."""


class accumulate(Branching):
    r"""Run a transformation on the mean of every k updates, and emit 0 until there are k.

    $$u_t = \mathrm{inner}\Bigl(\frac{1}{k} \sum_{i=t-k+1}^{t} g_i\Bigr) \text{ where } k \text{ divides } t,
    \qquad \text{else } 0$$

    Use it for a batch that is split into k micro-batches. The sum is held in the working dtype, float32 for bfloat16
    gradients. If k is above 8, or a schedule, a second slot keeps what its additions round off: the mean of a thousand
    gradients is as accurate as that of two. `inner` counts its own steps: its step, and the step of its schedules, is
    the number of times it ran. It receives the mean of the k losses as `value`, and the `key` and the functions of the
    last micro-batch.

    A leaf whose gradient is None in a micro-batch adds nothing to its sum, and gets no update if that micro-batch is
    the last. A NaN in one micro-batch invalidates its whole group of k; the next group starts from zero.
    Transformations beside `accumulate` in a chain run at every update. With k = 1, no sum is kept. At the end of the
    data, `gx.flush` applies an unfinished group.

    If the loss is a mean over examples or tokens of which the micro-batches have different numbers, set
    `weighted=True` and pass these numbers: `update(g, state, params, weight=tokens)`. `inner` then receives the mean
    weighted by them, Σ wᵢ·gᵢ / Σ wᵢ, which is the gradient of the whole batch. A micro-batch of weight 0 adds nothing,
    even if its gradient is NaN.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      every_k: k, an integer, 1 or more. The number of updates in a group. For a batch size that grows, a schedule of
        it: a function of the number of times that `inner` ran, rounded and at least 1.
      mean: If True, `inner` receives the mean of the k updates and of the losses; if False, their sum.
      weighted: If True, every update needs its weight, a number of 0 or more, as the extra argument `weight`.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.accumulate(gx.sgd(1.0), 2)
    >>> gradients, start = jnp.array([1.0, 2.0, 3.0, 6.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([ 0. , -1.5,  0. , -4.5], dtype=float32)
    >>> growing = gx.accumulate(gx.sgd(1.0), gx.schedules.piecewise_constant([1, 3], [1]))  # groups of 1, 3, 3, …
    >>> jax.lax.scan(lambda state, g: growing.update(g, state)[::-1], growing.init(jnp.zeros(())), gradients)[1]
    Array([-1.       ,  0.       ,  0.       , -3.6666667], dtype=float32)
    """

    inner: Part
    every_k: Group
    mean: bool = True
    weighted: bool = False

    elementwise = True
    formula = "u = released(inner(accumulated(g)))"

    clock = True
    roundoff = ("lost",)

    @property
    def needs(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return ("weight",) if self.weighted else ()

    @property
    def many(self) -> bool:
        """Whether the sum of a group keeps the rounding errors of its additions: a plain sum of few needs no memory."""
        return isinstance(self.every_k, Schedule) or self.every_k > FEW

    def group(self, done: Any) -> Any:
        """The number of updates in the group after so many runs of `inner`."""
        if not isinstance(self.every_k, Schedule):
            return self.every_k
        k = jnp.asarray(scheduled("accumulate: every_k", self.every_k, done), float)
        return jnp.maximum(jnp.round(k).astype(jnp.int32), 1)

    def updates(self, runs: int) -> int:
        """The number of updates in so many runs of `inner`."""
        if not isinstance(self.every_k, Schedule):
            return runs * self.every_k
        return int(jax.lax.fori_loop(0, runs, lambda done, n: n + self.group(done), 0))

    def runs(self, steps: Any) -> Any:
        if not isinstance(self.every_k, Schedule):
            return steps // self.every_k

        def another(counts: Any) -> Any:
            done, left = counts
            return done + 1, left - self.group(done)

        start = jnp.zeros((), jnp.int32), jnp.asarray(steps, jnp.int32)
        return jax.lax.while_loop(lambda counts: counts[1] >= self.group(counts[0]), another, start)[0]

    def init_tree(self, params: Any) -> Slots:
        counts = {"step": jnp.zeros((), jnp.int32), "count": jnp.zeros((), jnp.int32)}  # runs; updates in this group
        slots = super().init_tree(params) | counts
        if self.every_k != 1:
            slots |= running_sum().init_tree(params)
            if self.many and "sum" in slots:
                slots["lost"] = running_sum().init_tree(params)["sum"]  # what the additions round off
            slots |= {"weight": jnp.zeros((), working_dtype(params))} if self.weighted else {}
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
        count = jnp.where(flushed, own["count"] + FLUSH, counted(own["count"]))
        due = jnp.where(flushed, count > 0, count >= self.group(done))
        sums = {name: own[name] for name in ("sum", "lost", "value", "weight") if name in own}
        own |= jax.tree.map(lambda a: jnp.where(first, 0, a), sums)  # before its use: a later reset would need a copy
        extra, number, left_out, this = dict(context.extra), count.astype(dtype), flushed, None
        if self.weighted:
            this = value_of(self, context, dtype, "weight")
            left_out |= this == 0
            own["weight"] = number = own["weight"] + jnp.where(left_out, 0, this)
            extra["weight"] = number
            number = jnp.where(number == 0, 1, number)

        def added(x: Array) -> Array:
            return jnp.where(left_out, 0, x if this is None else this * x)

        weight = 1 / number if self.mean else 1  # multiplied: XLA would keep the quotient of a division in memory
        if "value" in own and "value" in context.extra:
            own["value"] += added(value_of(self, context, own["value"].dtype))
            extra["value"] = weight * own["value"]
        total = updates
        if "sum" in own:  # absent if there are no leaves
            names = [name for name in ("sum", "lost") if name in own]

            def summed(g: Any, a: Any, *lost: Any) -> Any:
                if g is None:
                    return (a, *lost)
                return two_sum(a, lost[0] + added(g)) if lost else (a + added(g),)

            several = jax.tree.map(summed, updates, *(own[name] for name in names), is_leaf=is_none)
            for i, name in enumerate(names):
                own[name] = jax.tree.map(lambda g, x, i=i: x[i], updates, several, is_leaf=is_none)
            total = own["sum"]

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
        if isinstance(piece, accumulate) and piece.every_k != 1:
            slots = _replaced(slots, (*names, "count"), lambda count: jax.tree.map(lambda n: n - FLUSH, count))
    zeros = jax.tree.map(lambda p: jnp.zeros_like(p) if differentiable("params", p) else None, params)
    if any("weight" in piece.needs for piece in walk(tx)):
        extra = {"weight": 0.0} | extra
    return tx.apply(params, state._replace(slots=slots), zeros, **extra)


def _replaced(slots: Any, names: tuple[str, ...], new: Callable[[Array], Array]) -> Any:
    if not names:
        return new(slots)
    if names[0] not in slots:
        return slots  # the update says which slot is missing
    return slots | {names[0]: _replaced(slots[names[0]], names[1:], new)}


FEW = 8  # a plain float32 sum of so many numbers is accurate to 2e-7
FLUSH = 2**30  # subtracted from a group's count, it releases the group at the next update, and leaves that update out
