"""Wrappers that run a transformation at some updates: once every k updates, or where a condition holds."""

import inspect
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from gradtx.core import Context, Kind, Part, Slots, Transformation, at_work, run, working_dtype
from gradtx.core.arguments import function_of
from gradtx.core.errors import said
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

    elementwise = True
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


def _condition(place: str, value: Any) -> Any:
    function_of(place, value)
    if not inspect.signature(value).parameters:
        raise TypeError(f"{place} must be a function of step and extra arguments, got {said(value)}, which takes none")
    return value


class apply_if(Transformation):
    r"""Run a transformation at the updates where a condition holds, and pass the updates on unchanged at all others.

    u = inner(g) if condition(step), else g

    At the other updates `inner` is not evaluated, and its state stays. It counts its own steps: its schedules and bias
    corrections do not count the others. `skip_if`, in contrast, emits 0 where its predicate holds.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      condition: A function of the number of updates before this one, from 0 as in a schedule, that returns True where
        `inner` runs. Further arguments are extra arguments of `update`, by their names: with
        `lambda step, value: value > 2.0`, every update needs the loss as `value`.
      otherwise: The updates where the condition does not hold: `"identity"` leaves them unchanged, and `"zero"` makes
        them 0, as Optax's `conditionally_mask`.

    Raises:
      TypeError: `condition` is not a function, or does not return True or False.

    Source: `conditionally_transform` of Optax, with this definition.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.apply_if(gx.running_sum(), lambda step: step % 2 == 1)
    >>> gradients, start = jnp.array([1.0, 2.0, 3.0, 4.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([1., 2., 3., 6.], dtype=float32)
    """

    inner: Part
    condition: Annotated[Any, Kind(_condition)]
    otherwise: Literal["identity", "zero"] = "identity"

    elementwise = True
    formula = "u = inner(g)"

    clock = True

    @property
    def needs(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        _, *more = inspect.signature(self.condition).parameters.values()
        return tuple(x.name for x in more if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY))

    def init_tree(self, params: Any) -> Slots:
        return super().init_tree(params) | {"step": jnp.zeros((), jnp.int32)}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        known = {"params": context.params, **context.extra}
        holds = jnp.asarray(self.condition(context.step - 1, **{name: known[name] for name in self.needs}))
        if holds.shape or holds.dtype != bool:
            raise TypeError(f"apply_if: condition must return True or False, got {said(holds)}")
        inner = at_work(self.inner, slots["step"], working_dtype(updates, slots))
        ran = context._replace(step=counted(slots["step"]))

        def run_inner() -> tuple[Any, Slots]:
            out, kept = run(inner, updates, slots.get("inner", {}), ran)
            new = slots | {"step": ran.step} | ({"inner": kept} if kept else {})
            return jax.tree.map(lambda x, a: jnp.asarray(x, a.dtype), (out, new), (updates, slots))

        def rest() -> tuple[Any, Slots]:
            return updates if self.otherwise == "identity" else jax.tree.map(jnp.zeros_like, updates), slots

        return jax.lax.cond(holds, run_inner, rest)
