"""Minimization of a deterministic function to a tolerance, as one compiled loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradtx.combinators import chain
from gradtx.core import State, Transformation, walk
from gradtx.core.arguments import checked, trace_state, traced
from gradtx.core.checks import check_params, check_values, refuse_local
from gradtx.core.errors import said
from gradtx.core.programs import program_of
from gradtx.core.trees import is_float0, widen
from gradtx.optimizers.second_order import lbfgs
from gradtx.pieces.formulas import maximum
from gradtx.pieces.measures import inner_product
from gradtx.training.gradient_check import _number
from gradtx.typing import PyTree, TransformationLike
from gradtx.wrappers.line_search import Evaluated, LineSearch, handed_on, restored

current_trace, NO_TRACE = trace_state()
REASONS = (
    "the gradient norm is at most the tolerance",
    "the value changed by less than the value tolerance",
    "the largest number of steps is reached",
    "the line search finds no lower value",
    "the value or its gradient is not finite",
)
CONVERGED, FLAT, MOST_STEPS, STUCK, NOT_FINITE = range(len(REASONS))
RUNNING = -1


class Minimum(NamedTuple):
    """Result of `minimize`: where it stopped, and why."""

    params: Any
    """The last parameters."""
    value: Array
    """The value of the function there."""
    gradient_norm: Array
    """The global norm of its gradient there."""
    steps: Array
    """The number of updates."""
    evaluations: Array
    """The number of evaluations of the function with its gradient."""
    status: Array
    """Why it stopped: 0 to 4, in the order of `gradtx.training.minimize.REASONS`; 0 and 1 mean that it converged."""

    @property
    def reason(self) -> Any:
        """Why it stopped, in words; for a batch, a list of them. Read it outside `jax.jit`."""
        return jax.tree.map(REASONS.__getitem__, np.asarray(self.status).tolist())

    @property
    def converged(self) -> Array:
        """Whether it stopped at a tolerance."""
        return self.status <= FLAT


@checked
def minimize(
    fun: Callable[[Any], Any],
    params: PyTree,
    tx: TransformationLike | None = None,
    tolerance: float = 1e-5,
    value_tolerance: float = 0.0,
    max_steps: int = 1000,
) -> Minimum:
    """Minimize a deterministic function of a small tree, until its gradient is small, in one compiled loop.

    It stops at the first of these: ‖∇f‖ ≤ `tolerance`; |f − f′| < `value_tolerance` · max(|f|, |f′|, 1) for successive
    values; `max_steps` updates; two line searches in a row without a lower value; a value or gradient that is not
    finite. The result says which. In float32, gradients below about 1e-7 times the curvature times the parameters are
    rounding errors: enable x64 for tighter tolerances.

    With a line search outermost or last in a chain, each trial is one evaluation, and there are no others. With any
    other optimizer, each step is one evaluation. The loop runs inside `jax.vmap`, so that many starts or many problems
    run at once. It is not reverse-differentiable. Least squares are better solved by Gauss-Newton or
    Levenberg-Marquardt methods, as in Optimistix.

    Args:
      fun: The function to minimize, of parameters; it returns one real number.
      params: The start, a tree of arrays.
      tx: The optimizer: a transformation of gradtx, or a pair (init, update) such as Optax's. None is `lbfgs()`.
      tolerance: The largest global norm of the gradient at a minimum, 0 or more.
      value_tolerance: The relative change of the value below which it stops, 0 or more; 0 is never.
      max_steps: The largest number of updates, an integer, 1 or more.

    Returns:
      A `Minimum`: `params`, `value`, `gradient_norm`, `steps`, `evaluations` and `status`. Its properties `reason` and
      `converged` say why it stopped.

    Raises:
      ValueError: A tolerance is below 0, `max_steps` is below 1, the function does not return one real number, the
        optimizer needs a random key, or, within `jax.shard_map`, the value or gradient differs from device to device.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> found = gx.minimize(lambda w: jnp.sum(w**2) + w[0] * w[1] - w[0], jnp.ones(2))
    >>> found.params, found.reason
    (Array([ 0.666..., -0.333...], dtype=float32), 'the gradient norm is at most the tolerance')
    >>> roots = jax.vmap(lambda a: gx.minimize(lambda w: (w**2 - a) ** 2, 1.0, tolerance=1e-4).params)
    >>> roots(jnp.array([1.0, 4.0, 9.0])).round(2)
    Array([1., 2., 3.], dtype=float32)
    """
    for name, x in (("tolerance", tolerance), ("value_tolerance", value_tolerance)):
        if not _number(f"minimize: {name}", x) >= 0:
            raise ValueError(f"minimize: {name} must be 0 or more, got {said(x)}")
    if type(max_steps) is not int or not 0 < max_steps < 2**31:
        raise ValueError(f"minimize: max_steps must be an integer, 1 or more, got {said(max_steps)}")
    tx = lbfgs() if tx is None else Transformation.coerce("minimize: tx", tx)
    if "key" in {name for piece in walk(tx) for name in piece.needs}:
        raise ValueError(f"minimize: tx must be deterministic, got {said(tx)}, which needs a random key: use gx.fit")
    check_values(tx)
    check_params(params, "minimize: params")
    params = jax.tree.map(jnp.asarray, params)
    arguments = params, tx, tolerance, value_tolerance, max_steps
    if current_trace() != NO_TRACE:
        return _minimize(fun, *arguments)
    return program_of(fun, "minimize", lambda of: jax.jit(lambda *arguments: _minimize(of(), *arguments)))(*arguments)


def _minimize(fun: Any, params: Any, tx: Any, tolerance: Any, value_tolerance: Any, max_steps: Any) -> Minimum:
    reads = {name for piece in walk(tx) for name in piece.reads()}
    last = tx.links[-1] if isinstance(tx, chain) and tx.links else tx
    searches = isinstance(last, LineSearch)
    if searches and not any("grad_fn" in piece.reads() for piece in walk(tx) if not isinstance(piece, LineSearch)):
        reads -= {"grad_fn"}  # the search then evaluates the value and the gradient together

    def value_fn(params: Any) -> Array:
        value = traced("minimize: fun", fun, params)
        real = isinstance(value, (float, Array, np.ndarray, np.generic)) and jnp.isrealobj(value)
        if not real or jnp.shape(value) or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise ValueError(f"minimize: fun must return one real number, got {said(value)}")
        return jnp.asarray(value)

    def evaluate(params: Any) -> tuple[Array, Any]:
        value, gradient = jax.value_and_grad(value_fn, allow_int=True)(params)
        return value, jax.tree.map(lambda g: None if is_float0(g) else jnp.conj(g), gradient)

    def grad_fn(params: Any) -> Any:
        return evaluate(params)[1]

    def extra(params: Any, value: Array, gradient: Any) -> dict[str, Any]:
        given = {
            "value": value,
            "grad": gradient,
            "value_fn": value_fn,
            "grad_fn": grad_fn,
            "hvp": lambda v: jax.jvp(grad_fn, (params,), (v,))[1],
        }
        return {name: x for name, x in given.items() if name in reads}

    def norm_of(gradient: Any, unit: Array) -> Array:  # by one sum; in units of the last norm, no square overflows
        parts = jax.tree.map(lambda g: g / unit.astype(g.dtype), jax.tree.map(widen, gradient))
        return unit * jnp.sqrt(inner_product(parts, parts)).astype(value.dtype)

    def status_of(value: Array, size: Array, change: Array, stuck: Array, steps: Array) -> Array:
        status = jnp.where(steps >= max_steps, MOST_STEPS, RUNNING)
        status = jnp.where(stuck >= 2, STUCK, status)
        status = jnp.where(change < value_tolerance, FLAT, status)
        status = jnp.where(size <= tolerance, CONVERGED, status)
        return jnp.where(jnp.isfinite(value) & jnp.isfinite(size), status, NOT_FINITE).astype(jnp.int32)

    def known(state: Any, held: Any) -> tuple[Array, Any]:  # at the parameters; a line search hands them on
        kept: Any = handed_on(state) if searches else held
        return (jnp.asarray(kept.value, value.dtype), restored(kept.gradient, gradient)) if searches else kept

    def step(carry: Any) -> Any:
        params, state, held, size, (evaluations, stuck, _) = carry  # the counts are one array, for fewer kernels
        old, slope = known(state, held)
        after, state = tx.apply(params, state, slope, **extra(params, old, slope))
        held, trials = (None, state.slots[name]["measured"]["evaluations"].value) if searches else (evaluate(after), 1)
        new, slope = known(state, held)
        if searches:
            same = [jnp.all(a == b) for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(params))]
            stuck = jnp.where(jnp.stack(same).all(), stuck + 1, 0)
        change = jnp.abs(new - old) / jnp.maximum(1, jnp.maximum(jnp.abs(new), jnp.abs(old)))
        size = norm_of(slope, size)
        status = status_of(new, size, change, stuck, state.step)
        return after, state, held, size, jnp.stack([evaluations + trials, stuck, status])

    value, gradient = evaluate(params)
    if not jax.tree.leaves(gradient):
        raise ValueError("minimize: params has no floating or complex array: write 0.0, not 0")
    refuse_local("minimize: fun", "a value", value)
    largest = jnp.stack([maximum(jnp.abs(widen(g))).astype(value.dtype) for g in jax.tree.leaves(gradient)]).max()
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    size, none = norm_of(gradient, unit), jnp.zeros((), jnp.int32)
    refuse_local("minimize: fun", "a gradient", size)
    status = status_of(value, size, jnp.full_like(value, jnp.inf), none, none)
    state, name = tx.init(params), type(last).__name__
    if searches:
        kept = jax.tree.map(
            lambda held, g: widen(g).astype(held.dtype), state.slots[name]["evaluated"].gradient, gradient
        )
        first = Evaluated(value.astype(state.slots[name]["evaluated"].value.dtype), kept)
        state = State(state.step, state.slots | {name: state.slots[name] | {"evaluated": first}})
    start = params, state, None if searches else (value, gradient), size, jnp.stack([none + 1, none, status])
    end = jax.lax.while_loop(lambda carry: carry[-1][2] == RUNNING, step, start)
    params, state, held, size, (evaluations, _, status) = end
    return Minimum(params, known(state, held)[0], size, state.step, evaluations, status)
