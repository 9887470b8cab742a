"""One update, from the user's call down to the pieces: the clock, schedules, precision, checks and compilation."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import checks, trees
from gradtx.core.apply import apply_updates
from gradtx.core.checks import FUNCTIONS
from gradtx.core.trees import NOTHING, is_float0, is_none

Slots = dict[str, Any]


class State(NamedTuple):
    """The state of an optimizer, carried from one update to the next."""

    step: Array  # the number of updates so far, int32; it saturates at 2³¹ − 1
    slots: Slots  # the state of each piece under the piece's name; stateless pieces have no entry


class Context(NamedTuple):
    """The arguments of a piece's update other than the updates and slots."""

    step: Array  # the number of this update, from 1; int32
    params: Any  # the parameters, or None; in `update_leaf`, those of the leaf
    extra: dict[str, Any]  # the extra keyword arguments of `update`
    path: str = ""  # in `update_leaf`, the path of the leaf: `layers/0/weight`


def walk(tx: Any) -> Iterator[Any]:
    """Iterate over a transformation and, recursively, its parts, outermost first."""
    if hasattr(tx, "parts"):
        yield tx
        for part in tx.parts().values():
            yield from walk(part)


def keys_of(tx: Any, name: str, part: Any) -> tuple[str, ...]:
    """The keys from the slots of `tx` to the slots of one of its parts."""
    return (name,) if tx.named or part.flat else (name, type(part).__name__)


def init_slots(tx: Any, params: Any) -> Slots:
    """The initial slots of `tx`, under its name."""
    slots = checks.initial(tx, params)
    return slots if tx.flat or not slots else {type(tx).__name__: slots}


def run(tx: Any, updates: Any, slots: Slots, context: Context, then: Any = None, name: str = "") -> Any:
    """Run one update of `tx` inside another transformation; its slots are under `name`, as in `init_slots`.

    Returns `(updates, slots)`, or `then(updates, slots)`.
    """
    name, flat = name or type(tx).__name__, tx.flat and not name
    own = slots if flat else slots.get(name, {})

    def named(made, new):
        checks.check_run(name, made, updates, new, own)
        return made, new if flat or not new else {name: new}

    if then is None:
        return named(*checks.updated(tx, updates, own, context))
    return tx.finish_tree(updates, own, context, lambda *made: then(*named(*made)))


def at_work(tx: Any, step: Any, dtype: Any) -> Any:
    """`tx` during its update at `step`: schedules replaced by their values, hyperparameters cast to `dtype`."""
    return jax.tree.map(lambda h: jnp.asarray(h, dtype), tx.at(step, running=True))


@trees.compiled
def update(tx: Any, updates: Any, state: State, params: Any, extra: dict[str, Any]) -> tuple[Any, State]:
    """The update of `Transformation.update`."""
    work, finish = _prepare(tx, updates, state, params, extra)
    return finish(*run(*work))


@trees.compiled
def apply(tx: Any, params: Any, state: State, updates: Any, extra: dict[str, Any]) -> tuple[Any, State]:
    """The update and the addition of `Transformation.apply`."""
    work, finish = _prepare(tx, updates, state, params, extra)

    def add(u: Any) -> Any:
        return params if u is NOTHING else apply_updates(params, u)

    return run(*work, then=lambda *made: finish(*made, add))


def _prepare(tx: Any, updates: Any, state: State, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
    """Prepare one update: return the arguments of `run`, and `finish`, which casts its results back."""
    _check(tx, updates, state, params, extra)
    dtype = trees.working_dtype(updates, params, state.slots)
    wide = jax.tree.map(lambda u: None if is_float0(u) else trees.widen(u, dtype), updates)
    extra = {n: checks.of_trees(n, x, params, dtype) if callable(x) and n in FUNCTIONS else x for n, x in extra.items()}
    if params is not None:
        params = jax.tree.map(lambda u, p: u if u is None else trees.widen(p, dtype), wide, params, is_leaf=is_none)
    step = jnp.where(state.step < 2**31 - 1, state.step + 1, state.step)
    now = at_work(tx, state.step, dtype)
    old = jax.tree.map(lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state.slots)

    def finish(out, slots, add=lambda u: u):
        out = out if out is NOTHING else jax.tree.map(lambda u, o: u if o is None else trees.narrow(o, u), updates, out)
        return add(out), State(step, jax.tree.map(lambda s, x: jnp.asarray(x, s.dtype), state.slots, slots))

    return (now, wide, old, Context(step, params, extra)), finish


def _check(tx: Any, updates: Any, state: State, params: Any, extra: dict[str, Any]) -> None:
    checks.check_state(State, updates, state, params)
    checks.check_extra({name: type(piece).__name__ for piece in walk(tx) for name in piece.needs}, params, extra)
    checks.check_updates(updates, params)
    checks.check_hyperparameters(tx, walk(tx), trees.working_dtype(updates, params))
    like = jax.tree.map(lambda x: jnp.zeros(x.shape, int) if is_float0(x) else x, updates if params is None else params)
    checks.check_slots(state.slots, _expected.eval_shape(tx, like), exact=params is not None)


@jax.jit
def _expected(tx: Any, params: Any) -> Slots:
    """The slots of a valid state; only their shapes are used, traced once for each structure."""
    return init_slots(tx.at(0), params)
