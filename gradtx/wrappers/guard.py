"""Wrappers that skip updates: those with values that are not finite, and those that a predicate refuses."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.combinators.combinator import Branching
from gradtx.core import NOTHING, Context, Kind, Part, Slots, State, Transformation, at_work, run, working_dtype
from gradtx.core.arguments import function_of
from gradtx.core.errors import said
from gradtx.core.root import counted
from gradtx.core.trees import Measurement
from gradtx.pieces.extra import value_of
from gradtx.pieces.measures import all_finite
from gradtx.pieces.spikes import Predicate

_COUNTS = "skipped", "skipped in a row"


class Guard(Branching):
    """Base of wrappers that skip updates: at a skipped update the inner state is unchanged, and only counts change."""

    clock = True

    def init_tree(self, params: Any) -> Slots:
        counts = {name: Measurement(jnp.zeros((), jnp.int32)) for name in _COUNTS}
        return super().init_tree(params) | {"step": jnp.zeros((), jnp.int32), "measured": counts}

    def value(self, context: Context, dtype: Any) -> Array | None:
        """Return the loss, or None where `update` is not given it."""
        return value_of(self, context, dtype) if "value" in context.extra else None

    def ends(self, inner: Any, updates: Any, slots: Slots, context: Context, then: Any, rest: Slots) -> Any:
        """Return the arguments of `run` for `inner`, and two ends of the update: `taken(made, kept)`, `skipped()`.

        `rest` are the new slots beside the inner ones and the counts.
        """
        done, old = slots["step"], slots.get("inner", {})
        own = context._replace(step=counted(done))
        total, row = (slots["measured"][name].value for name in _COUNTS)

        def end(made: Any, kept: Slots, step: Any, *counts: Any) -> Any:
            new = {"step": step, "measured": dict(zip(_COUNTS, map(Measurement, counts)))} | rest
            return then(made, new | ({"inner": kept} if kept else {}))

        def taken(made: Any, kept: Slots) -> Any:
            return end(made, kept, own.step, total, jnp.zeros_like(row))

        def skipped() -> Any:
            return end(NOTHING, old, done, counted(total), counted(row))

        return (at_work(inner, done, working_dtype(updates, slots)), updates, old, own), taken, skipped


class skip_nonfinite(Guard):
    """Skip every update at which any value is not finite: emit 0 and keep the inner state.

    u = inner(g), or 0

    An update is skipped if there is a NaN or an infinity among the incoming updates, in the loss (`value`) where
    `update` is given it, among the updates that `inner` would emit, or in its new state. Every update is then 0 and the
    state of `inner` is unchanged, however many updates in a row are skipped. `inner` counts its own steps, without
    skipped updates: its schedules and bias corrections ignore them, so the next finite update is unaffected. Put this
    wrapper outermost: transformations beside it in a chain run at every update and count all of them.

    `gx.measurements(state)` reports the number of skipped updates, `"skipped"`, and the number skipped since the last
    accepted update, `"skipped in a row"`, at which a training loop may stop.

    `inner` is computed twice, the first time only to check its results, because that needs no memory beside the state.
    It is computed once if it receives functions, such as `grad_fn`, or if `outgoing` is False: finite inputs give
    results that are not finite only by overflow or by a fault.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      outgoing: If True, also check the outgoing updates and new state. This costs about 50 % of an AdamW step.

    Raises:
      ValueError: `value` is an array of several numbers, or complex.
      TypeError: `value` is not a number.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.skip_nonfinite(gx.adam(0.1))
    >>> u, state = tx.update(jnp.array([1.0, jnp.nan]), tx.init(jnp.zeros(2)))
    >>> u, gx.measurements(state)["skipped in a row"]
    (Array([0., 0.], dtype=float32), Array(1, dtype=int32))
    >>> u, state = tx.update(jnp.ones(2), state, value=jnp.nan)  # the loss, if it is at hand
    >>> u, gx.measurements(state)["skipped in a row"]
    (Array([0., 0.], dtype=float32), Array(2, dtype=int32))
    """

    inner: Part
    outgoing: bool = True

    formula = "u = inner(g)"

    def reads(self) -> set[str]:
        return {"value"}

    def finish_tree(self, updates: Any, slots: Slots, context: Context, then: Any) -> Any:
        work, taken, skipped = self.ends(self.inner, updates, slots, context, then, {})
        value, old = self.value(context, working_dtype(updates, slots)), slots.get("inner", {})

        def fine(made: Any, new: Slots) -> Array:
            made = None if made is NOTHING else made
            return all_finite(updates, made, value, jax.tree.map(_become, new, old))

        def once() -> Any:
            return jax.lax.cond(fine(*(new := run(*work))), lambda: taken(*new), skipped)

        if not self.outgoing:
            return jax.lax.cond(all_finite(updates, value), lambda: run(*work, then=taken), skipped)
        if any(map(callable, context.extra.values())):
            return jax.lax.cond(all_finite(updates, value), once, skipped)
        return jax.lax.cond(run(*work, then=fine), lambda: run(*work, then=taken), skipped)


def _become(new: Array, old: Array) -> Any:
    """Return the new values to check; 0 for entries that were not finite, e.g. a best loss initialised to inf."""
    if new is old:
        return None
    return jnp.where(jnp.isfinite(old), new, 0) if jnp.issubdtype(old.dtype, jnp.inexact) else new


class _when(Predicate):
    """A user's function as a predicate; it prints as the function."""

    function: Callable[..., Any]

    formula = "u = g"

    def __repr__(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))

    def reads(self) -> set[str]:
        return {"value"}

    def refuses(self, updates: Any, slots: Slots, context: Context, state: Any = None) -> tuple[Array, Slots]:
        flag = jnp.asarray(self.function(updates, context.extra.get("value"), state))
        if flag.shape or flag.dtype != bool:
            raise TypeError(f"skip_if: predicate must return True or False, got {said(flag)}")
        return flag, slots


def _predicate(place: str, value: Any) -> Predicate:
    if isinstance(value, Predicate):
        return value
    if isinstance(value, Transformation) or not callable(value):
        what = "norm_spike, loss_spike or a function of (gradients, value, state)"
        raise TypeError(f"{place} must be {what}, got {said(value)}")
    return _when(function_of(place, value, "gradients", "value", "state"))


class skip_if(Guard):
    """Skip every update that a predicate refuses: emit 0 and keep the inner state.

    u = inner(g), or 0

    The predicate may be `norm_spike` or `loss_spike`, which compare the norm of the gradient or the loss with its
    running average, or a function of the gradients, the loss and the state of `inner`. At a skipped update the state of
    `inner` is unchanged: its schedules and bias corrections do not count it. The predicate sees every update, and its
    averages are kept in the state. Put this wrapper outermost, as `skip_nonfinite`: transformations beside it in a
    chain run at every update.

    `gx.measurements(state)` reports the number of skipped updates, `"skipped"`, and the number skipped since the last
    accepted update, `"skipped in a row"`, at which a training loop may stop.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      predicate: A predicate, or a function of (gradients, value, state) that returns True for an update to skip.
        `value` is the loss, or None where `update` is not given it; `state` is the `State` of `inner`, in which
        `gx.measurements` finds the numbers of its monitors.

    Raises:
      TypeError: `predicate` is neither, or its function does not return True or False.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.skip_if(gx.sgd(0.5), gx.norm_spike(factor=3.0, warmup=1))
    >>> state = tx.init(jnp.zeros(()))
    >>> for gradient in (1.0, 9.0, 2.0):
    ...     update, state = tx.update(jnp.array(gradient), state)
    ...     print(update, gx.measurements(state)["skipped"])
    -0.5 0
    0.0 1
    -1.0 1
    >>> def is_large(gradients, value, state):
    ...     return gx.global_norm(gradients) > 8.0
    >>> gx.skip_if(gx.scale(-0.5), is_large)
    skip_if(scale(-0.5), predicate=is_large)
    """

    inner: Part
    predicate: Annotated[Any, Kind(_predicate, data=True)]

    elementwise = True
    formula = "u = inner(g)"

    def finish_tree(self, updates: Any, slots: Slots, context: Context, then: Any) -> Any:
        dtype, name = working_dtype(updates, slots), type(self.predicate).__name__
        predicate = at_work(self.predicate, slots["step"], dtype)
        state, kept = State(slots["step"], slots.get("inner", {})), slots.get("predicate", {}).get(name, {})
        if (value := self.value(context, dtype)) is not None:
            context = context._replace(extra=context.extra | {"value": value})
        refused, kept = predicate.refuses(updates, kept, context, state)
        rest = {"predicate": {name: kept}} if kept else {}
        work, taken, skipped = self.ends(self.inner, updates, slots, context, then, rest)
        return jax.lax.cond(~refused, lambda: run(*work, then=taken), skipped)
