"""One update, from the user's call down to the pieces: the clock, schedules, precision, checks and compilation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from gradtx.core import axes, checks, trees
from gradtx.core.apply import apply_updates
from gradtx.core.axes import Axes
from gradtx.core.checks import FUNCTIONS
from gradtx.core.layers import has_layers, init_layers, update_layers
from gradtx.core.programs import program_for, split
from gradtx.core.trees import NOTHING, flatten_with_path, is_float0, is_none, path_of
from gradtx.core.where import chooser

Function = TypeVar("Function", bound=Callable[..., Any])

Slots = dict[str, Any]


class State(NamedTuple):
    """The state of an optimizer, carried from one update to the next."""

    step: Array  # the number of updates so far, int32; it saturates at 2³¹ − 1
    slots: Slots  # the state of each piece under the piece's name; stateless pieces have no entry


class Context(NamedTuple):
    """The arguments of a piece's update other than the updates and slots.

    `update_tree(updates, slots, context)` and `update_leaf(g, slots, context)` read these:

    - `step`: the number of this update in the run, from 1; inside a wrapper with a clock, the number on that clock.
      Schedules are evaluated already: a hyperparameter is its value.
    - `age`: the number of this update among those that the piece has seen, for bias corrections. It is 1 for fresh
      slots in an old run. The piece declares `counts = True`.
    - `params`: the parameters, or None if `update` received none. The piece declares `needs = ("params",)`.
    - `extra`: the extra keyword arguments of `update`, such as `extra["value"]`. The piece declares their names in
      `needs`, so that an update without them raises an error.
    - `path`, `axes` and `chooses(where)`: in `update_leaf`, the path of the leaf, which of its axes are inputs and
      outputs, and whether a `where` chooses it. Leaves of one shape are traced once, unless the piece asks and the
      answers differ.
    - `key`: in `update_leaf`, a random key that differs for each leaf, layer and step, made of the argument `key`. The
      piece declares `needs = ("key",)`. In `update_tree`, `key_of(path)`.

    Slots are a dict from names to trees of arrays, in at least float32. A piece returns slots with the names, shapes
    and dtypes that it received; `update_leaf` receives and returns those of its leaf.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> class scale_by_loss(gx.PerLeaf):  # u = value · g / age, and g for biases
    ...     needs = ("value",)
    ...     counts = True
    ...     def update_leaf(self, g, slots, context):
    ...         if context.chooses("**/bias"):
    ...             return g, slots
    ...         return context.extra["value"] * g / context.age.astype(g.dtype), slots
    >>> tx, params = scale_by_loss(), {"bias": jnp.ones(1), "w": jnp.ones(1)}
    >>> tx.update(params, tx.init(params), value=3.0)[0]
    {'bias': Array([1.], dtype=float32), 'w': Array([3.], dtype=float32)}

    `step` and `age` count from 1, as t in the papers: they include this update. A schedule counts the updates before,
    from 0: `context.step` is 1 at the update at which a schedule has its value at 0.

    >>> class show(gx.PerLeaf):
    ...     rate: gx.Scalar
    ...     def update_leaf(self, g, slots, context):
    ...         return jnp.stack([context.step.astype(g.dtype), self.rate]), slots
    >>> tx = show(lambda step: step)
    >>> tx.update(jnp.zeros(2), tx.init(jnp.zeros(2)))[0]  # t = 1, and the schedule at 0
    Array([1., 0.], dtype=float32)
    """

    step: Array  # the number of this update in the whole run, from 1; int32. A schedule is evaluated at step − 1
    params: Any  # the parameters, or None; in `update_leaf`, those of the leaf
    extra: dict[str, Any]  # the extra keyword arguments of `update`
    seen: Array | None = None  # read `age`
    unasked_path: str = ""  # read `path`, which notes that it was read
    asked: list[Any] | None = None  # the questions about the leaf, with the answers: see `leaf_by_leaf`
    leaf: Any = None  # in `update_leaf`, the leaf of the updates

    @property
    def age(self) -> Array:
        """The number of this update among those that the piece has seen, from 1; int32. The piece declares `counts`.

        It is below `step` for slots that are younger than the run, and in a wrapper that runs its pieces less often.
        """
        if self.seen is None:
            raise TypeError("a piece that reads context.age must declare counts = True")
        return self.seen

    @property
    def path(self) -> str:
        """In `update_leaf`, the path of the leaf: `layers/0/weight`."""
        return self.answer(_path)

    @property
    def axes(self) -> Axes:
        """In `update_leaf`, which axes of the leaf are inputs and outputs; of one layer, if the leaf is several."""
        return self.answer(axes.axes_of)

    @property
    def key(self) -> Array:
        """In `update_leaf`, a random key for the leaf and this step, made of the extra argument `key`.

        It differs for each leaf, layer and step. The piece declares `needs = ("key",)`.
        """
        return self.key_of(self.path)

    def key_of(self, name: str) -> Array:
        """A random key for a name, such as the path of a leaf, and this step, made of the extra argument `key`."""
        return jax.random.fold_in(jax.random.fold_in(self.extra["key"], self.step), crc32(name.encode()))

    def chooses(self, where: Any) -> bool:
        """In `update_leaf`, whether `where` chooses the leaf, as the user has it."""
        chosen = chooser(where)
        return bool(self.answer(lambda path, leaf: chosen(path, axes.given(path, leaf))))

    def answer(self, question: Callable[[str, Any], Any]) -> Any:
        """In `update_leaf`, the answer to `question(path, g)`; leaves with other answers are traced separately."""
        answer = question(self.unasked_path, self.leaf)
        if self.asked is not None:
            self.asked.append((question, answer))
        return answer


def _path(path: str, leaf: Any) -> str:
    return path


def walk(tx: Any) -> Iterator[Any]:
    """Iterate over a transformation and, recursively, its parts, outermost first."""
    if hasattr(tx, "parts"):
        yield tx
        for part in tx.parts().values():
            yield from walk(part)


def pieces(tx: Any, names: tuple[str, ...] | None = None) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Iterate over a transformation and its parts with the keys of their slots, outermost first."""
    names = names_of(tx) if names is None else names
    yield names, tx
    for name, part in tx.parts().items():
        yield from pieces(part, (*names, *keys_of(tx, name, part)))


def names_of(tx: Any) -> tuple[str, ...]:
    """The keys from the slots of a state to those of its optimizer."""
    return () if tx.flat else (type(tx).__name__,)


def distinct(names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """The names, a repeated or taken one with a number: `my`, `my_2`, … The number makes none of the other names."""
    used, out = {*taken}, []
    for name in names:
        own, number = name, 1
        while own in used or (number > 1 and own in names):
            number += 1
            own = f"{name}_{number}"
        used.add(own)
        out.append(own)
    return out


def keys_of(tx: Any, name: str, part: Any) -> tuple[str, ...]:
    """The keys from the slots of `tx` to the slots of one of its parts."""
    return (name,) if tx.named or part.flat else (name, type(part).__name__)


def own_slots(tx: Any, params: Any) -> Slots:
    """The initial slots of `tx`; with its age, if it counts."""
    init = partial(checks.initial, tx)
    apart = is_separable(tx) and has_layers(params)
    slots = init_layers(init, params, partial(per_leaf, tx)) if apart else init(params)
    return slots | {"age": jnp.zeros((), jnp.int32)} if tx.counts else slots


def init_slots(tx: Any, params: Any) -> Slots:
    """The initial slots of `tx`, under its name."""
    slots = own_slots(tx, params)
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

    if is_separable(tx) and (not isinstance(updates, Array) or axes.layers_of("", updates)):
        made = named(*leaf_by_leaf(tx, updates, own, context))
        return made if then is None else then(*made)
    if then is None:
        return named(*updated(tx, updates, own, context))
    return tx.finish_tree(updates, own, context, lambda *made: then(*named(*made)))


def updated(tx: Any, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
    """Call `update_tree`, with the age of the piece if it counts; without a gradient, the piece does not age."""
    if not tx.counts or "age" not in slots:
        return checks.updated(tx, updates, slots, context if tx.counts else context._replace(seen=None))
    age = counted(slots["age"]) if jax.tree.leaves(updates) else slots["age"]
    others = {name: slot for name, slot in slots.items() if name != "age"}
    out, new = checks.updated(tx, updates, others, context._replace(seen=age))
    return out, new | {"age": age}


def counted(n: Array) -> Array:
    """Return n + 1, at most 2³¹ − 1."""
    return jnp.where(n < 2**31 - 1, n + 1, n)


def separable(update_tree: Function) -> Function:
    """Mark an `update_tree` that treats each leaf alone. Its slots are its parts', or alike for all leaves."""
    update_tree.__dict__["separable"] = True
    return update_tree


def is_separable(tx: Any) -> bool:
    """Whether an update of `tx` treats each leaf alone."""
    return hasattr(tx.update_tree, "separable") and all(map(is_separable, tx.parts().values()))


def leaf_by_leaf(tx: Any, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
    """Run a separable transformation on each leaf.

    In a trace, an update is traced once for all leaves of the same type, unless it asks about the path of its leaf and
    the answers differ: compiling hundreds of layers costs little more than compiling one.
    """
    leaves, tree = flatten_with_path(updates, is_leaf=is_none)
    params = [None] * len(leaves) if context.params is None else tree.flatten_up_to(context.params)
    whole, form = jax.tree.flatten(per_leaf(tx, slots))
    key, stacked = context.extra.get("key"), axes.scope().layout.rules
    columns = [tree.flatten_up_to(x) if w else [x] * len(leaves) for w, x in zip(whole, form.flatten_up_to(slots))]
    traced = isinstance(context.step, Tracer)
    programs: dict[Any, list[Any]] = {}

    def program_of(keys, g, p, row):
        layers = axes.layers_of(path_of(keys), g) if stacked else None
        alike = programs.setdefault((*map(jax.typeof, jax.tree.leaves((g, p, row))), layers), [])
        with axes.within(one=True):
            for asked, program in alike:
                if all(question(path_of(keys), g) == answer for question, answer in asked):
                    return program
        path, asked = path_of(keys), []

        def one(g, p, row, key):
            extra = context.extra if key is None else context.extra | {"key": key}
            old = form.unflatten(row)
            with axes.within(one=True):
                own = context._replace(params=p, extra=extra, unasked_path=path, asked=asked)
                u, new = updated(tx, g, old, own)
            checks.check_run(type(tx).__name__, u, g, new, old)
            return u, form.flatten_up_to(new)

        def program(g, p, row):
            return one(g, p, row, None) if layers is None else update_layers(one, layers, whole, g, p, row, key)

        if traced:
            same = [not w for w, x in zip(whole, row) for _ in jax.tree.leaves(x)]
            program = split(program, (g, p, row), [False] * len(jax.tree.leaves((g, p))) + same)
        alike.append((asked, program))
        return alike[-1][1]

    rows: list[Any] = []
    first = None  # with an update: it says what slots that are the same for all become
    for (keys, g), p, *row in zip(leaves, params, *columns):
        if g is not None:
            g, row = program_of(keys, g, p, row)(g, p, row)
            first = first or row
        rows.append((g, *row))
    if first is None:
        return updates, slots
    out, *columns = map(list, zip(*rows))
    new = [tree.unflatten(column) if w else x for w, x, column in zip(whole, first, columns)]
    return tree.unflatten(out), form.unflatten(new)


def per_leaf(tx: Any, slots: Slots) -> Any:
    """Which slots are trees like the parameters, as a tree of booleans: those of `PerLeaf`."""
    found: Any = {name: hasattr(tx, "update_leaf") and not (tx.counts and name == "age") for name in slots}
    for name, part in tx.parts().items():
        if name in slots:
            *_, last = keys = keys_of(tx, name, part)
            inner = per_leaf(part, slots[name] if len(keys) == 1 else slots[name][last])
            found[name] = inner if len(keys) == 1 else {last: inner}
    return found


def at_work(tx: Any, step: Any, dtype: Any) -> Any:
    """`tx` during its update at `step`: schedules replaced by their values, hyperparameters cast to `dtype`."""
    return jax.tree.map(lambda h: jnp.asarray(h, dtype), tx.at(step, running=True))


@trees.compiled
def update(tx: Any, updates: Any, state: State, params: Any, extra: dict[str, Any]) -> tuple[Any, State]:
    """The update of `Transformation.update`."""
    with axes.within(leaves=axes.leaves_of(updates if params is None else params)):
        work, finish = _prepare(tx, updates, state, params, extra)
        return finish(*run(*work))


@trees.compiled
def apply(tx: Any, params: Any, state: State, updates: Any, extra: dict[str, Any]) -> tuple[Any, State]:
    """The update and the addition of `Transformation.apply`."""

    def add(u: Any) -> Any:
        return params if u is NOTHING else apply_updates(params, u)

    with axes.within(leaves=axes.leaves_of(updates if params is None else params)):
        work, finish = _prepare(tx, updates, state, params, extra)
        return run(*work, then=lambda *made: finish(*made, add))


def _prepare(tx: Any, updates: Any, state: State, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
    """Prepare one update: return the arguments of `run`, and `finish`, which casts its results back."""
    given, kept, own = updates, state, params
    _check_arguments(tx, updates, state, params, extra)
    updates, params = trees.opened(updates), trees.opened(params)
    state = _checked(tx, updates, state, params)
    dtype = trees.working_dtype(updates, params, state.slots)
    wide = jax.tree.map(lambda u: None if is_float0(u) else trees.widen(u, dtype), updates)
    extra = {
        n: checks.of_trees(n, x, params, own, dtype) if callable(x) and n in FUNCTIONS else x for n, x in extra.items()
    }
    if params is not None:
        params = jax.tree.map(lambda u, p: u if u is None else trees.widen(p, dtype), wide, params, is_leaf=is_none)
    if "grad" in extra:
        grad = trees.opened(extra["grad"])
        extra["grad"] = jax.tree.map(lambda g: None if is_float0(g) else trees.widen(g, dtype), grad)
    now = at_work(tx, state.step, dtype)
    step = counted(state.step)
    old = jax.tree.map(lambda x: trees.as_dtype(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state.slots)

    def finish(out, slots, add=lambda u: u):
        if out is not NOTHING:
            out = jax.tree.map(lambda u, o: u if o is None else trees.narrow(o, u), updates, out)
            out = trees.arranged(out, given)
        slots = jax.tree.map(lambda s, x: trees.as_dtype(x, s.dtype), state.slots, slots)
        return add(out), trees.arranged(State(step, slots), kept)

    return (now, wide, old, Context(step, params, extra)), finish


def _check_arguments(tx: Any, updates: Any, state: State, params: Any, extra: dict[str, Any]) -> None:
    checks.check_state(State, updates, state, params)
    checks.check_memory(tx, walk(tx), state)
    needs = {name: type(piece).__name__ for piece in walk(tx) for name in piece.needs}
    checks.check_extra(needs, {name for piece in walk(tx) for name in piece.reads()}, params, extra)
    checks.check_updates(updates, params)
    checks.check_params(params)  # also those without an update
    checks.check_shards(tx, {"updates": updates, "params": params})
    checks.check_hyperparameters(tx, walk(tx), trees.working_dtype(updates, params))


def _checked(tx: Any, updates: Any, state: State, params: Any) -> State:
    """The state in the nodes of `init`, without boxes that NNX put around its leaves; or raise."""
    like = jax.tree.map(lambda x: jnp.zeros(x.shape, int) if is_float0(x) else x, updates if params is None else params)
    program, own = program_for(_expected, (tx, like))
    expected = program.eval_shape(*own)
    slots = trees.boxed_like(state.slots, expected)
    checks.check_slots(slots, expected, exact=params is not None)
    return State(trees.as_dtype(trees.unboxed(state.step), jnp.int32), slots)


def _expected(tx: Any, params: Any) -> Slots:
    """The slots of a valid state; only their shapes are used, traced once for each structure."""
    alike: dict[Any, Any] = {}  # one leaf in place of all of its type: the slots of an array are made once
    with axes.within(shapes=True):
        return init_slots(tx.at(0), jax.tree.map(lambda p: alike.setdefault(jax.typeof(p), p), params))
