"""Gradient transformations: pairs of pure functions, `init` and `update`."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, Union

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from gradtx.core import axes, checks, owners, root, trees
from gradtx.core.arguments import checked, misfit, scheduled
from gradtx.core.checks import check_made
from gradtx.core.errors import said
from gradtx.core.record import Record
from gradtx.core.root import Context, Slots, State, init_slots, leaf_by_leaf, run, separable, walk
from gradtx.core.schedule import Schedule
from gradtx.core.trees import differentiable, flatten_with_path, sharded, widen

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


class Transformation(Record, Pair):
    """A pure pair: `init(params) -> state`, `update(updates, state, params=None, **extra) -> (updates, state)`.

    Updates are *added* to the parameters (`apply_updates`). A subclass is a rule on whole trees: it defines
    `update_tree` and, if it has state, `init_tree`. For a rule on one array at a time, derive from `PerLeaf`. Both
    receive real arrays of one working dtype, the widest of the parameters, updates and slots and at least float32;
    hyperparameters as arrays of that dtype, with schedules replaced by their values; and None for a leaf without a
    gradient. A complex array becomes pairs of reals: pass the conjugate of the gradient that `jax.grad` returns.

    A subclass declares its hyperparameters as annotated fields, and may set these attributes of the class:

    - `needs`: the names of the arguments of `update` that it reads, such as `("params", "value")`. An update without
      one of them raises an error. `("**",)` accepts any extra argument.
    - `counts`: True if it reads `context.age`, the number of updates that it has seen; the age is kept with its slots.
    - `formula`: its mathematics for display; `gx.formula` has the grammar.
    - `clock`: True for a wrapper whose parts count their own updates. It keeps their number in its slot `step`,
      evaluates their schedules with `at_work`, and defines `runs(steps)`, how often they run in so many updates.
    - `roundoff`: the names of slots that keep what additions to other slots round off. `restore` can do without them.
    - `linear`: True if its updates and its slots, except for single numbers, are linear in the updates that it has
      received, as an average is and an average of squares is not. `turned` then has a meaning for its slots.
    - `ranges`: the slots that `store` may round, with the range of their numbers: `"signed"`, `"nonnegative"`, or
      `"updates"` for the range of the updates that come in. All other slots stay exact.
    - `emits`: the range of its updates, in the same words; by default `"signed"`.
    - `elementwise`: True if each coordinate of its updates and slots depends on that coordinate alone, of the updates,
      slots and parameters, and on single numbers. `store` then runs a large leaf part by part.
    - `flat` and `named`: how the slots of parts are named: `flat` leaves out its own name, and `named` says that the
      names of its parts are those of their classes, as in a chain.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> init, update = gx.sgd(0.5)
    >>> update(jnp.array([2.0]), init(jnp.zeros(1)))
    (Array([-1.], dtype=float32), State(step=Array(1, dtype=int32), slots={}))

    A rule on whole trees has a dict of slots, each an array or a tree:

    >>> class divide_by_largest_norm(gx.Transformation):
    ...     formula = "s = max(s, norm(g)); u = g / s"
    ...     def init_tree(self, params):
    ...         return {"largest": jnp.zeros(())}
    ...     def update_tree(self, updates, slots, context):
    ...         largest = jnp.maximum(slots["largest"], gx.global_norm(updates))
    ...         return jax.tree.map(lambda g: g / largest, updates), {"largest": largest}
    >>> gx.check_laws(gx.chain(gx.add_constant(1.0), divide_by_largest_norm()))

    A wrapper has transformations in its fields, its parts. `init_tree` makes their slots, and `part` runs one:

    >>> class twice(gx.Transformation):
    ...     inner: gx.Transformation
    ...     def update_tree(self, updates, slots, context):
    ...         once = self.part("inner", updates, slots, context, new := {})
    ...         return jax.tree.map(lambda u: 2 * u, once), new
    >>> twice(gx.sgd(0.5)).update(jnp.array([2.0]), twice(gx.sgd(0.5)).init(jnp.zeros(1)))[0]
    Array([-2.], dtype=float32)

    A wrapper that runs its part at some updates only has a clock, so that the part's schedules and ages do not count
    the others:

    >>> from gradtx.core import at_work, run, working_dtype
    >>> class unless_large(gx.Transformation):
    ...     inner: gx.Transformation
    ...     limit: gx.Positive = 1.0
    ...     clock = True
    ...     def init_tree(self, params):
    ...         return super().init_tree(params) | {"step": jnp.zeros((), jnp.int32)}
    ...     def update_tree(self, updates, slots, context):
    ...         step, old = slots["step"], slots.get("inner", {})
    ...         inner = at_work(self.inner, step, working_dtype(updates))
    ...         made, kept = run(inner, updates, old, context._replace(step=step + 1))
    ...         new = {"step": step + 1} | ({"inner": kept} if kept else {})
    ...         large = gx.global_norm(updates) > self.limit
    ...         keep = lambda old, new: jnp.where(large, old, new)
    ...         return jax.tree.map(lambda u: keep(0, u), made), jax.tree.map(keep, slots, new)
    >>> tx = unless_large(gx.sgd(lambda step: 1.0 / (step + 1)), limit=5.0)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (1.0, 9.0, 1.0):
    ...     u, state = tx.update(jnp.array([g]), state)
    ...     print(u)
    [-1.]
    [0.]
    [-0.5]
    """

    needs: ClassVar[tuple[str, ...]] = ()  # the arguments of `update` it reads: "params", "value", …; "**" for any
    counts: ClassVar[bool] = False  # it keeps its age, the number of updates that it has seen: `context.age`
    clock: ClassVar[bool] = (
        False  # its parts have a clock of their own, in its slot `step`: it evaluates their schedules
    )
    roundoff: ClassVar[tuple[str, ...]] = ()  # the slots that keep what additions round off: `restore` can do without
    flat: ClassVar[bool] = False  # its slots are under the names of its parts, without its own name, as in a chain
    named: ClassVar[bool] = False  # the names of its parts are the names of their classes, as in a chain
    elementwise: ClassVar[bool] = False  # a coordinate of its updates and slots depends on that coordinate alone
    ranges: ClassVar[dict[str, str]] = {}  # the slots that `store` may round: "signed", "nonnegative" or "updates"
    emits: ClassVar[str] = "signed"  # the range of its updates: "signed", "nonnegative", or "updates", as they come
    linear: ClassVar[bool] = False  # its updates and its slots are linear in the updates that it has received
    fed: ClassVar[tuple[str, ...]] = ()  # its parts that receive the updates as they come
    exact_on_shards: ClassVar[bool] = False  # within `shard_map` its updates are those of the whole parameters
    outermost: ClassVar[bool] = False  # it may not be a part of another transformation
    formula: ClassVar[str] = ""  # the formula, for display: "m = decay * m + (1 - decay) * g; u = m"

    def reads(self) -> set[str]:
        """The arguments of `update` that it reads where they are given: by default, those that it needs."""
        return {*self.needs}

    def parts(self) -> dict[str, "Transformation"]:
        """The transformations it is composed of, by the names of their slots.

        By default the transformations in its fields, in order: `inner`, or `links_1`, `links_2`, … for a tuple.
        """
        parts = {}
        for name, kind in self._kinds.items():
            value = getattr(self, name) if kind.data else None
            if isinstance(value, tuple):
                names = root.distinct([f"{name}_{i}" for i in range(1, len(value) + 1)], self._kinds)
                parts |= {one: x for one, x in zip(names, value) if isinstance(x, Transformation)}
            elif isinstance(value, Transformation):
                parts[name] = value
        return parts

    def init_tree(self, params: Any) -> Slots:
        """The initial slots, a dict of trees; {} if there is no state. By default, the slots of the parts."""
        slots = {name: init_slots(part, params) for name, part in self.parts().items()}
        return {name: kept for name, kept in slots.items() if kept}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        """The new updates, and the new slots with the names and shapes of `init_tree`."""
        raise NotImplementedError(f"{type(self).__name__} must define update_tree")

    def placed(self, structs: Any) -> Any:
        """The structs of its state, sharded as the parameters, with shardings of its own if it has any."""
        return structs

    def part(self, name: str, updates: Any, slots: Slots, context: Context, new: Slots) -> Any:
        """Run one of the parts on the updates and return its updates; its new slots are added to `new`."""
        out, kept = run(self.parts()[name], updates, slots.get(name, {}), context)
        if kept:
            new[name] = kept
        return out

    def turned(self, slots: Slots, turn: Callable[[Any], Any]) -> Slots:
        """The slots after a change of the coordinates of the updates; `turn` changes those of a tree of updates.

        The slots of a `linear` piece turn, and those of `fed` parts by the same rule. All others stay, coordinate by
        coordinate, as an average of squares must.
        """
        if self.linear and not self.fed:
            return {name: slot if getattr(slot, "shape", None) == () else turn(slot) for name, slot in slots.items()}
        new = dict(slots)
        for name in self.fed:
            if name in slots:
                *_, last = keys = root.keys_of(self, name, part := self.parts()[name])
                own = slots[name] if len(keys) == 1 else slots[name][last]
                new[name] = part.turned(own, turn) if len(keys) == 1 else {last: part.turned(own, turn)}
        return new

    def scope(self) -> AbstractContextManager[Any]:
        """The context in which its parts run: `layout` declares the axes of the parameters there."""
        return nullcontext()

    def params_of(self, name: str, params: Any, slots: Slots) -> Any:
        """The parameters that a part receives, by default all; None for the leaves of other groups."""
        return params

    def finish_tree(self, updates: Any, slots: Slots, context: Context, then: Callable[[Any, Slots], Any]) -> Any:
        """Pass the results of `update_tree` to `then`; where it emits nothing, `then(NOTHING, slots)`."""
        return then(*root.updated(self, updates, slots, context))

    @checked
    def init(self, params: Any) -> State:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The initial state: slots with the shapes and shardings of the parameters, in at least float32.

        Args:
          params: The parameters, a tree of arrays and None. For `jax.ShapeDtypeStruct`s, the state is of structs too;
            where they have shardings, so have the slots: each is sharded as its parameter over the axes that it has.
        """
        if any(isinstance(p, jax.ShapeDtypeStruct) for p in jax.tree.leaves(params)):
            return self.placed(owners.structs_of(self.init, params))
        owners.refuse_placeholder(self.init, params)
        checks.check_params(params)
        checks.check_shards(self, {"params": params})
        trees.leaves_by_path(params)  # raises for two leaves of one path
        checks.check_values(self)
        checks.check_memory(self, walk(self))
        now = self.at(0)
        checks.check_hyperparameters(now, walk(now), trees.working_dtype(params))
        with axes.within(leaves=axes.leaves_of(params)):
            slots = init_slots(now, trees.opened(params))
        return State(jnp.zeros((), jnp.int32), trees.boxed_as(params, slots))

    @checked
    def update(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, updates: Any, state: State, params: Any = None, **extra: Any
    ) -> tuple[Any, State]:
        """Transform the updates. The structure, shapes and dtypes stay the same.

        A leaf that is None (or float0) stays so, and its slots do not change. Outside a trace, the update is compiled
        and cached; new values of hyperparameters do not recompile it.

        Args:
          updates: The gradients, or the updates of an earlier transformation.
          state: The state that `init` or the last update returned.
          params: The parameters; required if a piece needs them.
          **extra: The extra arguments that the pieces need: the loss as `value`, a random `key`, or functions of a tree
            with the parameters' dtypes: `grad_fn` and `value_fn` of parameters, `hvp` of a vector. With functions, the
            update is compiled only inside `jax.jit`.

        Returns:
          The updates to add to the parameters, and the new state.

        Raises:
          ValueError, TypeError: The updates do not fit the parameters; the state is another optimizer's; an argument
            that a piece needs is missing; no piece needs an extra argument. The message names the leaf.
        """
        checks.check_values(self, state)
        return checks.passed(root.update(self, updates, state, params, extra))

    @checked
    def apply(self, params: Any, state: State, updates: Any, **extra: Any) -> tuple[Any, State]:
        """Update and add: return the new parameters and state, in the order in which they are given.

        The same as `update` followed by `apply_updates`. Where a wrapper emits nothing, as `accumulate` does while it
        waits, the parameters are neither read nor written if that wrapper is outermost, last in a chain, or nested in
        another such wrapper. `jax.jit(tx.apply, donate_argnums=(0, 1))` gives each new array its old one's memory.

        >>> import gradtx as gx, jax.numpy as jnp
        >>> tx, params = gx.sgd(0.5), jnp.ones(1)
        >>> tx.apply(params, tx.init(params), jnp.array([2.0]))[0]
        Array([0.], dtype=float32)
        """
        checks.check_values(self, state)
        return checks.passed(root.apply(self, params, state, updates, extra))

    if TYPE_CHECKING:

        def __new__(cls, *args: Any, **named: Any) -> Self: ...

    else:

        def __call__(self, *args: Any, **named: Any) -> None:
            name = type(self).__name__
            raise TypeError(f"{name} is not a function: call its init(params), then its update(updates, state, params)")

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.update))

    def runs(self, steps: Any) -> Any:
        """How often its parts run in so many updates, as a rule: for a wrapper with a `clock`."""
        return steps

    @checked
    def at(self, step: Any, running: bool = False) -> Self:
        """Replace every schedule by its value at `step`; the first update is step 0.

        With `running`, schedules inside a wrapper with a clock in its slots stay: the wrapper evaluates them.
        """
        if self.clock and running:
            return self
        if not jnp.issubdtype(getattr(step, "dtype", type(step)), jnp.integer):
            raise TypeError(f"at(step) needs an integer, got {said(step)}")
        if isinstance(step, (int, np.integer)) and not 0 <= step < 2**31:
            raise ValueError(f"the step must be 0 or more and at most 2³¹ − 1, got {said(step)}")
        fields, structure = jax.tree.flatten(self, is_leaf=lambda x: x is not self)
        kinds = [(name, kind.convert) for name, kind in self._kinds.items() if kind.data]

        def value(place, x):
            if isinstance(x, Transformation):
                return x.at(self.runs(step), running)  # it may have a clock
            return scheduled(place, x, step) if isinstance(x, Schedule) else x

        def now(name, convert, held):
            place = f"{type(self).__name__}: {name}" + ("" if isinstance(step, Tracer) else f" at step {step}")
            parts, tree = jax.tree.flatten(held, is_leaf=lambda x: isinstance(x, Record))
            new = tree.unflatten(value(place, x) for x in parts)
            return convert(place, new) if any(isinstance(x, Schedule) for x in parts) else new

        return structure.unflatten(now(*kind, held) for kind, held in zip(kinds, fields))

    @classmethod
    def coerce(cls, place: str, value: Any) -> "Transformation":
        """Return a transformation as it is, and another library's, or any `(init, update)`, as a `pair`."""
        if isinstance(value, Transformation):
            return value
        functions = isinstance(value, tuple) and [callable(x) and not isinstance(x, Record) for x in value]
        if functions == [True, True]:
            return pair(*value)
        many = isinstance(value, (list, tuple)) and any(isinstance(x, Transformation) for x in value)
        several = ": give each as an argument of its own" if many else ""
        raise TypeError(f"{place} must be a transformation or a pair (init, update), got {said(value)}{several}")


if not TYPE_CHECKING:
    Part = Transformation


class PerLeaf(Transformation):
    """Base class of rules on one array, lifted to trees with paths, None leaves and slots sharded as the parameters.

    A subclass defines `update_leaf(self, g, slots, context)`, which returns the new update of a leaf and its new slots,
    and, if it has slots, `init_leaf(self, param)`, which returns a dict of arrays with the same names for every leaf.
    It sees one leaf at a time: a norm over all leaves needs a `Transformation`. Its attributes `needs`, `counts` and
    `formula` are those of `Transformation`, and `gx.Context` lists what it reads of `context`.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> class halve(gx.PerLeaf):
    ...     factor: gx.Scalar = 0.5
    ...     def update_leaf(self, g, slots, context):
    ...         return self.factor * g, slots
    >>> halve().update(jnp.array([4.0]), halve().init(jnp.zeros(1)))[0]
    Array([2.], dtype=float32)

    With slots, the parameters and its age, the mean of all gradients plus a decay:

    >>> class mean_with_decay(gx.PerLeaf):
    ...     weight_decay: gx.NonNegative = 0.0
    ...     needs = ("params",)
    ...     counts = True
    ...     formula = "m = m + (g - m) / t; u = m + weight_decay * θ"
    ...     def init_leaf(self, param):
    ...         return {"mean": jnp.zeros_like(param)}
    ...     def update_leaf(self, g, slots, context):
    ...         mean = slots["mean"] + (g - slots["mean"]) / context.age.astype(g.dtype)
    ...         return mean + self.weight_decay * context.params, {"mean": mean}
    >>> tx, params = gx.chain(mean_with_decay(0.5), gx.scale_by_learning_rate(0.1)), jnp.ones(1)
    >>> gx.check_laws(tx)
    >>> tx.update(jnp.array([1.5]), tx.init(params), params)[0]
    Array([-0.2], dtype=float32)
    """

    def init_leaf(self, param: Array) -> Slots:
        """The initial slots of one parameter."""
        return {}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        """The new update and the new slots of one leaf; `context.params` and `context.path` are the leaf's."""
        raise NotImplementedError(f"{type(self).__name__} must define update_leaf")

    def init_tree(self, params: Any) -> Slots:
        leaves, tree = flatten_with_path(params)

        def slots_of(p: Array) -> Slots:
            p = widen(p)
            row = checks.check_row(self, trees.path_of(keys), self.init_leaf(p))
            return {name: sharded(slot, p) for name, slot in row.items()}

        if any(isinstance(p, Tracer) for _, p in leaves):
            slots_of = jax.jit(slots_of)  # traced once for all leaves of the same type
        rows, made = [], {}
        for keys, p in leaves:  # noqa: B007 (an error of slots_of names the leaf)
            row = made.get(id(p))  # in a trace, where many leaves may be one: see `root._expected`
            if row is None and differentiable("params", p):
                row = slots_of(p)
            if isinstance(p, Tracer):
                made[id(p)] = row
            rows.append(row)
        names = checks.check_names(self, params, rows)
        return {name: tree.unflatten([row and row[name] for row in rows]) for name in names}

    @separable
    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        if not isinstance(updates, Array):
            return leaf_by_leaf(self, updates, slots, context)
        made = self.update_leaf(updates, slots, context._replace(leaf=updates))
        return checks.check_leaf(self, context.unasked_path, updates, slots, made)


class pair(Transformation):
    """Wrap an `(init, update)` pair, such as an Optax transformation; its state is stored in one slot.

    Two pairs are equal if their functions are the same objects. `update` receives the extra arguments in its signature.

    Args:
      init_function: `init(params) -> state`.
      update_function: `update(updates, state, params, **extra) -> (updates, state)`.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.pair(lambda params: (), lambda updates, state, params: (updates / 2, state))
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))[0]
    Array([1.5], dtype=float32)
    """

    init_function: Callable[[Any], Any]
    update_function: Callable[..., Any]

    needs = ("**",)

    def reads(self) -> set[str]:
        """The extra arguments that the update reads: those in its signature, and with `**` Optax's standard ones."""
        takes = inspect.signature(self.update_function).parameters.values()
        optax = {"value", "grad", "value_fn"} if any(x.kind is x.VAR_KEYWORD for x in takes) else set()
        return optax | {x.name for x in takes}

    def init_tree(self, params: Any) -> Slots:
        wide = jax.tree.map(lambda p: widen(p) if differentiable("params", p) else None, params)
        return {"state": self.init_function(wide)}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        takes = inspect.signature(self.update_function).parameters
        variadic = any(p.kind is p.VAR_KEYWORD for p in takes.values())
        extra = {name: x for name, x in context.extra.items() if variadic or name in takes}
        if why := misfit("pair: its update", self.update_function, (updates, slots["state"], context.params), extra):
            raise TypeError(f"{why}; it is called with (updates, state, params), and by name with what update is given")
        made = self.update_function(updates, slots["state"], context.params, **extra)
        if not isinstance(made, tuple) or len(made) != 2:
            raise TypeError(f"pair: its update must return (updates, state), got {said(made)}")
        check_made("pair", made[0], updates)
        return made[0], {"state": made[1]}
