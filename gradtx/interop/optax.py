"""Use of gradtx within Optax, and states from Optax and back. The reverse of `as_optax` needs no conversion: every
combinator accepts Optax transformations."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradtx.core import State, Transformation, leaves_by_path, path_of, walk
from gradtx.core.arguments import checked
from gradtx.core.checks import check_state
from gradtx.core.errors import said
from gradtx.core.transformation import TransformationLike
from gradtx.core.trees import boxed_paths, flatten_with_path
from gradtx.interop.correspondence import Leaf, Saved, Source, Wrapper, back, converted, count
from gradtx.serialization.restore import Restored


@checked
def as_optax(tx: TransformationLike) -> Any:
    """Convert a transformation to an `optax.GradientTransformationExtraArgs`, for Optax code that checks the type.

    `optax.chain`, `MultiSteps` and `partition` accept `tx` without conversion unless a piece of it needs extra
    arguments, which Optax passes only to that type. As in Optax, arguments that no piece needs are ignored silently.

    Args:
      tx: The transformation.

    Returns:
      The `optax.GradientTransformationExtraArgs` with the same `init` and `update`.

    Raises:
      TypeError: `tx` is not a transformation.
      ImportError: Optax is not installed.

    >>> import gradtx as gx, optax, jax.numpy as jnp
    >>> tx = optax.chain(optax.clip(1.0), gx.as_optax(gx.sgd(0.5)))
    >>> params = jnp.array([3.0])
    >>> tx.update(params, tx.init(params), params)[0]
    Array([-0.5], dtype=float32)
    """
    import optax

    tx = Transformation.coerce("as_optax: tx", tx)
    reads = {name for piece in walk(tx) for name in (*piece.needs, *piece.reads())}

    def update(updates, state, params=None, **extra):
        known = {name: x for name, x in extra.items() if name in reads or "**" in reads}
        return tx.update(updates, state, params, **known)

    return optax.GradientTransformationExtraArgs(tx.init, update)


@checked
def from_optax(tx: Any, params: Any, optax_state: Any, *, strict: bool = True) -> tuple[State, Restored]:
    """Convert the state of an Optax optimizer to the state of the same optimizer of gradtx.

    The next updates of `tx` are those that the Optax optimizer would have made. It converts the states of `adam`,
    `adamw`, `amsgrad`, `nadam`, `radam`, `adamax`, `adabelief`, `yogi`, `lamb`, `sgd`, `lion`, `adafactor`, `rmsprop`,
    `adagrad`, `adadelta`, `lbfgs` and `contrib.muon`, in chains, named chains, masks and partitions of any depth, with
    schedules, `inject_hyperparams`, `MultiSteps`, `apply_if_finite` and `conditionally_transform`. `tx` may have
    another structure, such as a clip in front: arrays are matched for each parameter by their meaning, several of one
    meaning in the order of the chain. Optax need not be installed. After the state of a line search, directions are
    Optax's; the step sizes may differ, since the searches try other ones.

    Hyperparameters are not converted: those of `tx` count. Nor does a state say which optimizer with these fields it is
    of, such as Adam or AdaMax. `optax.rmsprop` and `optax.adagrad` are `rmsprop` and `adagrad` with `eps_in_sqrt=True`,
    `optax.adafactor` is `adafactor(min_size=128)`, and `optax.contrib.muon` is `muon(corrected=True)`. Optax's RMSProp
    has the learning rate inside its momentum: for a schedule, put `scale_by_learning_rate` before `add_momentum`.

    Args:
      tx: The optimizer that will use the state: a transformation of gradtx, or a pair (init, update) such as Optax's.
      params: The parameters of the optimizer.
      optax_state: The state of the Optax optimizer, or its form in a file: nested dicts with the names of the fields,
        such as `{"0": {"count": …, "mu": …, "nu": …}}` (msgpack, orbax), or a dict from paths to arrays (npz).
      strict: If True, raise if a leaf would be fresh, or an array of the Optax state would be dropped.

    Returns:
      The state and a `Restored` report, which says for each leaf which one of the Optax state it is from.

    Raises:
      ValueError: With `strict`, a leaf would be fresh or dropped, as with another optimizer. Always: an array has
        another shape. The message has the paths.
      TypeError: `tx` is not a transformation, `optax_state` is a state of gradtx, or its counts are traced.

    >>> import gradtx as gx, optax, jax.numpy as jnp
    >>> params, theirs = {"w": jnp.ones(2)}, optax.adamw(0.1)
    >>> _, saved = theirs.update(params, theirs.init(params), params)
    >>> state, report = gx.from_optax(gx.adamw(0.1), params, saved)
    >>> report
    slot                                                    saved as  kept
    step                                                    0/count   1
    slots/precondition/by/bias_correction/age               0/count   1
    slots/precondition/by/bias_correction/mean_log_decay    0/count   1
    slots/precondition/by/scale_by_ema/mean                 0/nu      1
    slots/precondition/direction/bias_correction/age        0/count   1
    slots/precondition/direction/bias_correction/mean_log_decay  0/count   1
    slots/precondition/direction/scale_by_ema/mean          0/mu      1
    """
    tx = Transformation.coerce("from_optax: tx", tx)
    if isinstance(optax_state, State):
        raise TypeError(
            "from_optax: expected a state of Optax, got a State of gradtx: use gx.restore(tx, params, state)"
        )
    return converted("from_optax", tx, params, _read("from_optax", optax_state, params), strict)


@checked
def to_optax(tx: Any, params: Any, state: State, optax_tx: Any, *, strict: bool = True) -> tuple[Any, Restored]:
    """Convert a state to the state of the same optimizer of Optax: the inverse of `from_optax`.

    Args:
      tx: The optimizer that the state is of: a transformation of gradtx, or a pair (init, update) such as Optax's.
      params: The parameters of the optimizer.
      state: The state of `tx`.
      optax_tx: The Optax optimizer that will use the state. Its `init` says which structure the state has.
      strict: If True, raise if a leaf of the new state would be fresh, or a slot would be dropped.

    Returns:
      The state of `optax_tx` and a `Restored` report, by its paths.

    Raises:
      ValueError: With `strict`, a leaf would be fresh or dropped, as with another optimizer. Always: an array has
        another shape. The message has the paths.
      TypeError: `tx` is not a transformation, `state` is not a `State`, or `optax_tx` has no `init`.

    >>> import gradtx as gx, optax, jax.numpy as jnp
    >>> tx, params = gx.sgd(0.5, momentum=0.5), jnp.ones(2)
    >>> _, state = tx.update(params, tx.init(params))
    >>> saved, report = gx.to_optax(tx, params, state, optax.sgd(0.5, momentum=0.5))
    >>> saved[0].trace
    Array([1., 1.], dtype=float32)
    """
    tx = Transformation.coerce("to_optax: tx", tx)
    check_state(State, params, state, params)
    if not hasattr(optax_tx, "init"):
        raise TypeError(f"to_optax: optax_tx must be a transformation of Optax, got {said(optax_tx)}")
    template = optax_tx.init(params)
    return back("to_optax", tx, params, state, template, _read("to_optax", template, params), strict)


# The fields of Optax's states: the trees like the parameters, and the count. A file has no other names.
FIELDS = [
    set(fields.split())
    for fields in (
        "trace", "sum_of_squares", "nu", "mu nu", "count nu", "count mu nu", "count mu nu nu_max", "count mu",
        "count mu ns_coeffs", "count v_row v_col v", "count ema", "e_g e_x", "count",
        "count params updates diff_params_memory diff_updates_memory weights_memory",
        "learning_rate value grad info", "learning_rate value info",
    )
]  # fmt: skip
OF_ALL = {"weights_memory", "learning_rate", "value"}  # numbers of all parameters together
HYPERPARAMETERS = {"count", "hyperparams", "inner_state"}
MULTI_STEPS = {"mini_step", "gradient_step", "inner_opt_state", "acc_grads"}
IF_FINITE = {"notfinite_count", "last_finite", "total_notfinite", "inner_state"}
CONDITIONAL = {"inner_state", "step"}


class _Reader:
    """Reader of a state, live or as nested dicts, into records."""

    def __init__(self, function: str, params: Any) -> None:
        self.function = function
        self.shapes = {path: jnp.shape(leaf) for path, leaf in leaves_by_path(params).items()}
        self.boxed = boxed_paths(params)
        self.source = Source("optax", [], [], [], [])

    def leaves(self, tree: Any) -> dict[str, Leaf]:
        """The leaves of a tree, by the paths of parameters, with the paths in that tree."""
        flat = flatten_with_path(tree)[0]
        return {self.boxed.get(path, path): Leaf(path, leaf) for path, leaf in ((path_of(x), leaf) for x, leaf in flat)}

    def state(self, node: Any, place: str, around: tuple[str, ...]) -> None:
        """Read one state; `place` is its path, with a slash."""
        fields = _fields(node)
        if fields is None:
            self.source.unknown.extend(f"{place}{leaf.path}".rstrip("/") for leaf in self.leaves(node).values())
        elif set(fields) >= MULTI_STEPS:
            self.wrapper("accumulate", fields, place, around, "inner_opt_state", ("mini_step", "gradient_step"))
            arrays = self.leaves(fields["acc_grads"])
            named = {("acc_grads", p): Leaf(_joined(place, "acc_grads", x.path), x.value) for p, x in arrays.items()}
            self.source.saved.append(Saved(named, {}, around))
            self.stateless(fields.get("skip_state", ()), f"{place}skip_state/")
        elif set(fields) >= IF_FINITE:
            numbers = ("notfinite_count", "total_notfinite")
            self.wrapper("skip_nonfinite", fields, place, around, "inner_state", numbers)
            self.source.stateless.append(f"{place}last_finite")
        elif set(fields) == CONDITIONAL:
            of_run: dict[str | None, Leaf] = {None: count(self.function, f"{place}step", fields["step"])}
            self.source.saved.append(Saved({}, of_run, around))
            self.wrapper("apply_if", fields, place, around, "inner_state", ())
        elif set(fields) >= HYPERPARAMETERS:
            self.source.saved.append(Saved({}, self.counts(fields, place), around))
            self.stateless(fields["hyperparams"], f"{place}hyperparams/")
            self.state(fields.get("hyperparams_states", {}), f"{place}hyperparams_states/", around)
            self.state(fields["inner_state"], f"{place}inner_state/", around)
        elif (read := self.record(fields, place, around)) is not None:
            self.source.saved.append(read)
        else:
            self.links(fields, place, around)

    def links(self, fields: dict[str, Any], place: str, around: tuple[str, ...]) -> None:
        """Read the states of a chain or of groups."""
        average = None  # the place of an average of squares
        for name, node in fields.items():
            before = len(self.source.saved)
            self.state(node, f"{place}{name}/", around)
            found = self.source.saved[before:]
            names = {kind for one in found for kind, _ in one.arrays}
            if {"nu", "sum_of_squares"} & names:
                average = name
            if names == {"trace"} and average and _apart(average, name) and name == [*fields][-1]:
                # `optax.rmsprop` has its trace after the learning rate, which stands between the two.
                self.source.saved[before:] = [one._replace(has_rate=True) for one in found]

    def record(self, fields: dict[str, Any], place: str, around: tuple[str, ...]) -> Saved | None:
        """The record of a state with known fields, or None."""
        if set(fields) not in FIELDS:
            return None
        arrays: dict[tuple[str, str], Leaf] = {}
        stateless, others = [], {"count", "ns_coeffs", "info", *OF_ALL}
        trees = {name: self.leaves(node) for name, node in fields.items() if name not in others}
        if any(parameter not in self.shapes for tree in trees.values() for parameter in tree):
            return None
        if "count" in fields and _fields(fields["count"]) is not None:
            return None  # a link of a named chain that is called so
        for name, tree in trees.items():
            for parameter, leaf in tree.items():
                leaf = Leaf(_joined(place, name, leaf.path), leaf.value)
                known = _meaning(name, self.shapes[parameter], {n: x[parameter].value for n, x in trees.items()})
                if known is None:
                    stateless.append(leaf.path)
                else:
                    arrays["muon_mu" if "ns_coeffs" in fields else known, parameter] = leaf
        if "ns_coeffs" in fields:
            self.stateless(fields["ns_coeffs"], f"{place}ns_coeffs/")
        numbers = {name: Leaf(f"{place}{name}", fields[name]) for name in OF_ALL & set(fields)}
        info = self.leaves(fields.get("info", ()))
        numbers |= {name: Leaf(f"{place}info/{name}", leaf.value) for name, leaf in info.items()}
        if "value" in numbers and not trees.get("grad"):  # Optax's backtracking keeps it with store_grad=True
            stateless.append(numbers.pop("value").path)
        self.source.stateless.extend(stateless)
        return Saved(arrays, self.counts(fields, place), around, numbers=numbers)

    def counts(self, fields: dict[str, Any], place: str) -> dict[str | None, Leaf]:
        return {None: count(self.function, f"{place}count", fields["count"])} if "count" in fields else {}

    def wrapper(self, kind: str, fields: Any, place: str, around: Any, inner: str, numbers: tuple[str, ...]) -> None:
        leaves = {name: count(self.function, f"{place}{name}", fields[name]) for name in numbers}
        self.source.wrappers.append(Wrapper(place, kind, leaves, around))
        self.state(fields[inner], f"{place}{inner}/", (*around, place))

    def stateless(self, tree: Any, place: str) -> None:
        self.source.stateless.extend(f"{place}{leaf.path}".rstrip("/") for leaf in self.leaves(tree).values())


def _read(function: str, state: Any, params: Any) -> Source:
    if isinstance(state, Mapping):
        state = dict(state)
        if any("/" in str(key) for key in state) and not any(_fields(node) is not None for node in state.values()):
            state = _nested(state)
    reader = _Reader(function, params)
    reader.state(state, "", ())
    return reader.source


def _fields(node: Any) -> dict[str, Any] | None:
    """The parts of a state by name: of a named tuple, a tuple, a list or a dict; None for an array."""
    if hasattr(node, "_asdict"):
        return node._asdict()
    if isinstance(node, (tuple, list)):
        return {str(i): part for i, part in enumerate(node)}
    if node is None:
        return {}
    if not isinstance(node, Mapping):
        return None
    parts = {str(name): part for name, part in node.items()}
    return dict(sorted(parts.items(), key=lambda one: int(one[0]))) if all(map(str.isdigit, parts)) else parts


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts, from a dict of paths."""
    out: dict[str, Any] = {}
    for path, leaf in flat.items():
        *places, name = path.split("/")
        node = out
        for one in places:
            node = node.setdefault(one, {})
        node[name] = leaf
    return out


def _apart(before: str, name: str) -> bool:
    """Whether a link stands between two links of a chain."""
    return before.isdigit() and name.isdigit() and int(name) - int(before) > 1


def _joined(place: str, *names: str) -> str:
    return place + "/".join(filter(None, names))


def _meaning(name: str, shape: tuple[int, ...], tree: dict[str, Any]) -> str | None:
    """The name of an array in the table; None if it holds no state.

    Adafactor's averages are over the two largest axes, in the order of their sizes; an array that a leaf does not need
    has one entry.
    """
    if name not in ("v", "v_row", "v_col"):
        return name
    whole = jnp.shape(tree["v"]) == shape
    if whole or name == "v":
        return name if whole and name == "v" else None
    *_, second, largest = map(int, np.argsort(shape))
    over = largest if name == "v_row" else second
    if {second, largest} != {len(shape) - 2, len(shape) - 1}:
        return name
    return "rows" if over == len(shape) - 1 else "columns"
