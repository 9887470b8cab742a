"""What a gradient transformation is: the pair (init, update), and all that every piece needs, done once at the root."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeAlias, Union

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jax.tree_util import tree_flatten_with_path

from gradtx import checks
from gradtx.apply import apply_updates
from gradtx.arguments import checked, said, scheduled
from gradtx.checks import FUNCTIONS
from gradtx.core import trees
from gradtx.core.record import Record, Schedule
from gradtx.core.trees import NOTHING, is_float0, is_none

Slots = dict[str, Any]
TransformationLike: TypeAlias = Union["Transformation", tuple[Callable[..., Any], Callable[..., Any]]]
"""A transformation, or a pair (init, update) such as one of Optax."""

# To a type checker a transformation is one of Optax too, so that `optax.chain(gx.sgd(0.1))` passes. mypy, which is the
# one to read MYPY as true, does not follow Optax, which has no types for it.
MYPY = False
if MYPY:
    from builtins import object as Pair  # noqa: N812
if TYPE_CHECKING:
    from optax import GradientTransformationExtraArgs as Pair

    class Part:
        """A field that holds a transformation, and that another library's can be given to."""

        def __get__(self, instance: Any, owner: Any = None) -> "Transformation": ...
        def __set__(self, instance: Any, value: TransformationLike) -> None: ...

else:
    Pair = object


class State(NamedTuple):
    """What an optimizer carries from one update to the next."""

    step: Array  # the number of updates done, int32; it stays at 2³¹ − 1
    slots: Slots  # what each piece remembers, keyed by the piece's name; a piece that remembers nothing is left out


class Context(NamedTuple):
    """What a piece is told beside the updates."""

    step: Array  # the number of this update, from 1; int32
    params: Any  # the parameters, or None; for a rule on one leaf, that leaf's
    extra: dict[str, Any]  # the extra keyword arguments of `update`
    path: str = ""  # for a rule on one leaf, its path: `layers/0/weight`


class Transformation(Record, Pair):
    """A pure pair: `init(params) -> state`, `update(updates, state, params=None, **extra) -> (updates, state)`.

    Updates are *added* to the parameters (`apply_updates`). A subclass is a rule on whole trees: it defines
    `update_tree` and, if it remembers anything, `init_tree`; a rule on one array at a time is a `PerLeaf`. Either sees
    real arrays of one working dtype, the widest of the parameters', updates' and slots' and at least float32;
    hyperparameters as arrays of that dtype, schedules replaced by their values; and None for a leaf without a
    gradient. A complex array is seen as pairs of reals: give the conjugate of what `jax.grad` returns.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> init, update = gx.sgd(0.5)
    >>> update(jnp.array([2.0]), init(jnp.zeros(1)))
    (Array([-1.], dtype=float32), State(step=Array(1, dtype=int32), slots={}))
    """

    needs: ClassVar[tuple[str, ...]] = ()  # what `update` must be given: "params", "value", …; "**" may be anything
    flat: ClassVar[bool] = False  # whether the slots are keyed by pieces already, as a chain's are
    formula: ClassVar[str] = ""  # the mathematics, for display: "m = decay * m + (1 - decay) * g; u = m"

    def init_tree(self, params: Any) -> Slots:
        """The slots at the start, a dict of trees; {} if the piece remembers nothing."""
        return {}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        """The new updates and the new slots, of the names and shapes that `init_tree` gave."""
        raise NotImplementedError(f"{type(self).__name__} must define update_tree")

    def finish_tree(self, updates: Any, slots: Slots, context: Context, then: Callable[[Any, Slots], Any]) -> Any:
        """`then(updates, slots)` of what `update_tree` returns; `then(NOTHING, slots)` where it emits nothing."""
        return then(*checks.updated(self, updates, slots, context))

    @checked
    def init(self, params: Any) -> State:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The state before the first update: slots shaped and sharded as the parameters, in at least float32."""
        checks.check_params(params)
        now = self.at(0)
        checks.check_hyperparameters(now, walk(now), trees.working_dtype(params))
        return State(jnp.zeros((), jnp.int32), init_slots(now, params))

    @checked
    def update(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, updates: Any, state: State, params: Any = None, **extra: Any
    ) -> tuple[Any, State]:
        """Transforms the updates, which come back with the structure, shapes and dtypes that they came in with.

        A leaf that is None (or float0) stays so, and what is remembered of it stays as it is. Called outside a trace,
        this runs compiled; another value of a hyperparameter does not compile again. An extra argument is what a piece
        `needs`: the loss as `value`, a random `key`, or a function of a tree of the parameters' own dtypes, `grad_fn`
        and `value_fn` of parameters and `hvp` of a vector; given one, it is compiled only inside `jax.jit`.

        Raises `ValueError` or `TypeError`, with the leaf's path, for updates that do not fit the parameters or a state
        of another optimizer, for what a piece needs and is not given, and for an extra argument that no piece needs.
        """
        return _update(self, updates, state, params, extra)

    @checked
    def apply(self, updates: Any, state: State, params: Any, **extra: Any) -> tuple[Any, State]:
        """The new parameters and state: `update` and `apply_updates` as one.

        Where a wrapper emits nothing, as `accumulate` does while it waits, the parameters are not gone through at all,
        if it is outermost, the last of a chain, or within another such.

        >>> import gradtx as gx, jax.numpy as jnp
        >>> tx = gx.sgd(0.5)
        >>> tx.apply(jnp.array([2.0]), tx.init(jnp.zeros(1)), jnp.ones(1))[0]
        Array([0.], dtype=float32)
        """
        return _apply(self, updates, state, params, extra)

    if TYPE_CHECKING:

        def __new__(cls, *args: Any, **named: Any) -> Self: ...

    else:

        def __call__(self, *args: Any, **named: Any) -> None:
            name = type(self).__name__
            raise TypeError(f"{name} is no function: call its update(updates, state, params), first its init(params)")

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.update))

    @checked
    def at(self, step: Any, running: bool = False) -> Self:
        """The same transformation with every schedule replaced by its value at `step` (the first update is step 0).

        `running`: but for those that go by a clock in the slots, which the wrapper that keeps it reads as it runs.
        """
        if not jnp.issubdtype(getattr(step, "dtype", type(step)), jnp.integer):
            raise TypeError(f"at(step) needs an integer, got {said(step)}")
        fields, structure = jax.tree.flatten(self, is_leaf=lambda x: x is not self)
        kinds = [(name, kind.convert) for name, kind in self._kinds.items() if kind.data]

        def value(place, x):
            if isinstance(x, Transformation):
                return x.at(step, running)  # which may have a clock of its own
            return scheduled(place, x, step) if isinstance(x, Schedule) else x

        def now(name, convert, held):
            place = f"{type(self).__name__}: {name}" + ("" if isinstance(step, Tracer) else f" at step {step}")
            parts, tree = jax.tree.flatten(held, is_leaf=lambda x: isinstance(x, Record))
            new = tree.unflatten(value(place, x) for x in parts)
            return convert(place, new) if any(isinstance(x, Schedule) for x in parts) else new

        return structure.unflatten(now(*kind, held) for kind, held in zip(kinds, fields))

    @classmethod
    def coerce(cls, place: str, value: Any) -> "Transformation":
        """A transformation as it is; another library's, or any `(init, update)`, as a `pair`."""
        if isinstance(value, Transformation):
            return value
        functions = isinstance(value, tuple) and [callable(x) and not isinstance(x, Record) for x in value]
        if functions == [True, True]:
            from gradtx.interop.pair import pair  # built on this

            return pair(*value)
        many = isinstance(value, (list, tuple)) and any(isinstance(x, Transformation) for x in value)
        several = ": give each as an argument of its own" if many else ""
        raise TypeError(f"{place} must be a transformation or a pair (init, update), got {said(value)}{several}")


if not TYPE_CHECKING:
    Part = Transformation


def walk(tx: Any) -> Iterator[Transformation]:
    """The transformation and all that it is made of, outermost first."""
    if isinstance(tx, Transformation):
        yield tx
        for inner in jax.tree.leaves(tx, is_leaf=lambda x: x is not tx and isinstance(x, Transformation)):
            yield from walk(inner)


def init_slots(tx: Transformation, params: Any) -> Slots:
    """The slots of `tx` at the start, keyed by its name."""
    slots = checks.check_init(tx, tx.init_tree(params))
    return slots if tx.flat or not slots else {type(tx).__name__: slots}


def run(tx: Transformation, updates: Any, slots: Slots, context: Context, then: Any = None, name: str = "") -> Any:
    """One update of `tx` inside another transformation, its slots by its `name`, as in `init_slots`; `then` of it."""
    name, flat = name or type(tx).__name__, tx.flat and not name
    own = slots if flat else slots.get(name, {})

    def named(made, new):
        checks.check_run(name, made, updates, new, own)
        return made, new if flat or not new else {name: new}

    if then is None:
        return named(*checks.updated(tx, updates, own, context))
    return tx.finish_tree(updates, own, context, lambda *made: then(*named(*made)))


def at_work(tx: Transformation, step: Any, dtype: Any) -> Any:
    """`tx` as its update at `step` sees itself: schedules replaced by their values, hyperparameters of `dtype`."""
    return jax.tree.map(lambda h: jnp.asarray(h, dtype), tx.at(step, running=True))


@trees.compiled
def _update(tx: Transformation, updates: Any, state: State, params: Any, extra: dict[str, Any]) -> tuple[Any, State]:
    work, end = _begun(tx, updates, state, params, extra)
    return end(*run(*work))


@trees.compiled
def _apply(tx: Transformation, updates: Any, state: State, params: Any, extra: dict[str, Any]) -> tuple[Any, State]:
    work, end = _begun(tx, updates, state, params, extra)
    return run(*work, then=lambda *made: end(*made, put=lambda u: params if u is NOTHING else apply_updates(params, u)))


def _begun(tx: Transformation, updates: Any, state: State, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
    """What `run` takes, and what makes updates of the dtypes that came in, and the state, of what it returns."""
    _check(tx, updates, state, params, extra)
    dtype = trees.working_dtype(updates, params, state.slots)
    wide = jax.tree.map(lambda u: None if is_float0(u) else trees.widen(u, dtype), updates)
    extra = {n: checks.of_trees(n, x, params, dtype) if callable(x) and n in FUNCTIONS else x for n, x in extra.items()}
    if params is not None:
        params = jax.tree.map(lambda u, p: u if u is None else trees.widen(p, dtype), wide, params, is_leaf=is_none)
    step = jnp.where(state.step < 2**31 - 1, state.step + 1, state.step)
    now = at_work(tx, state.step, dtype)
    old = jax.tree.map(lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state.slots)

    def end(out, slots, put=lambda u: u):
        out = out if out is NOTHING else jax.tree.map(lambda u, o: u if o is None else trees.narrow(o, u), updates, out)
        return put(out), State(step, jax.tree.map(lambda s, x: jnp.asarray(x, s.dtype), state.slots, slots))

    return (now, wide, old, Context(step, params, extra)), end


def _check(tx: Transformation, updates: Any, state: State, params: Any, extra: dict[str, Any]) -> None:
    checks.check_state(State, updates, state, params)
    checks.check_extra({name: type(piece).__name__ for piece in walk(tx) for name in piece.needs}, params, extra)
    checks.check_updates(updates, params)
    checks.check_hyperparameters(tx, walk(tx), trees.working_dtype(updates, params))
    like = jax.tree.map(lambda x: jnp.zeros(x.shape, int) if is_float0(x) else x, updates if params is None else params)
    checks.check_slots(state.slots, _expected.eval_shape(tx, like), exact=params is not None)


@jax.jit
def _expected(tx: Transformation, params: Any) -> Slots:
    """The slots that a state has; only their shapes are asked for, and traced once for one structure."""
    return init_slots(tx.at(0), params)


class PerLeaf(Transformation):
    """A rule on one array, lifted to trees: None and empty leaves, paths, and slots sharded as their parameter."""

    def init_leaf(self, param: Array) -> Slots:
        """The slots of one parameter at the start."""
        return {}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        """The new update of one leaf and its new slots; `context.params` and `context.path` are that leaf's."""
        raise NotImplementedError(f"{type(self).__name__} must define update_leaf")

    def init_tree(self, params: Any) -> Slots:
        tree, leaves = jax.tree.structure(params), trees.leaves_by_path(params)
        rows = [self.init_leaf(trees.widen(p)) if trees.differentiable("params", p) else None for p in leaves.values()]
        names = next((row for row in rows if row is not None), {})
        for path, row in zip(leaves, rows):
            if row is not None:
                checks.check_row(self, path, row, names)
        return {n: tree.unflatten([row and sharded(row[n], p) for p, row in zip(leaves.values(), rows)]) for n in names}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        leaves, tree = tree_flatten_with_path(updates, is_leaf=is_none)
        params = [None] * len(leaves) if context.params is None else tree.flatten_up_to(context.params)
        columns = [tree.flatten_up_to(slot) for slot in slots.values()]
        out, rows = [], []
        for (path, g), p, *row in zip(leaves, params, *columns):
            row = dict(zip(slots, row))
            if g is not None:
                own = context._replace(params=p, path=trees.path_of(path))
                g, row = checks.check_leaf(self, own.path, g, row, self.update_leaf(g, row, own))
            out.append(g)
            rows.append(row)
        return tree.unflatten(out), {n: tree.unflatten([row[n] for row in rows]) for n in (rows[0] if rows else slots)}


def sharded(slot: Any, param: Any) -> Any:
    """The slot, sharded as its parameter under `jit` too, which would replicate it or leave it on one device."""
    if not isinstance(param, Tracer) or slot.shape != (param := trees.widen(param)).shape:
        return slot  # outside of jit `zeros_like` has done it
    return _follow(slot, param)


@partial(jax.jit, inline=True)
def _follow(slot: Array, param: Array) -> Array:
    """The slot as the result of an operation on the parameter, which XLA shards as its operands and cannot fold."""
    sharding = jax.typeof(param).sharding
    slot = slot if jax.typeof(slot).sharding == sharding else jax.reshard(slot, sharding)
    param = lax.stop_gradient(param)
    never = lax.gt(param, lax.optimization_barrier(param))
    return lax.select(never, lax.full_like(slot, 1), slot)
