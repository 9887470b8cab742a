"""Checks of the arguments of `init` and `update`, and of what pieces return: structure, shapes and dtypes."""

import functools
import inspect
import operator
import traceback
from collections.abc import Callable
from typing import Any
from weakref import ref

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.custom_derivatives import zero_from_primal

from gradtx.core.arguments import LEAKED, foreign, is_array, live, misfit, one_key
from gradtx.core.errors import TRACEABLE, _listed, place, said, unknown
from gradtx.core.trees import (
    NOTHING,
    arranged,
    differentiable,
    is_box,
    is_float0,
    is_none,
    leaves_by_path,
    narrow,
    opened,
    unboxed,
    widen,
)

FUNCTIONS = ("grad_fn", "hvp", "value_fn")  # the extra arguments that are functions of a tree like the parameters
KINDS = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating, jax.dtypes.prng_key)  # of dtypes, narrowest first
INEXACT, NUMBERS = (2, 3), 4  # the floating and the complex ones; all but keys are before NUMBERS


def check_params(params: Any, name: str = "params") -> None:
    """Raise for parameters (called `name`) with leaves that are not arrays."""
    refuse_sparse(name, params)
    if _plainly_alike(params, params) and all(_rank(p.dtype) < NUMBERS for p in jax.tree.leaves(params)):
        return
    for path, p in leaves_by_path(params).items():
        _inexact(place(name, path), p)


def refuse_sparse(name: str, tree: Any) -> None:
    """Raise for sparse arrays of JAX, which are containers of their data and indices, not arrays."""

    def is_sparse(x: Any) -> bool:
        return _is_sparse_class(type(x))

    if any(map(is_sparse, jax.tree.leaves(tree, is_sparse))):
        path, x = next((path, x) for path, x in leaves_by_path(tree, is_sparse).items() if is_sparse(x))
        how = "call its todense(); lazy(tx) leaves the rows that are 0 as they are"
        raise TypeError(f"{place(name, path)} must be a dense array, got {said(x)}: {how}")


@functools.cache
def _is_sparse_class(kind: type) -> bool:
    return any(c.__name__ == "JAXSparse" for c in kind.__mro__)  # by its name: the module takes long to import


def _inexact(this: str, x: Any) -> bool:
    """Whether a leaf is floating or complex. Raise for one that is not an array with values."""
    if isinstance(x, jax.ShapeDtypeStruct):
        raise TypeError(f"{this} is {x}, which has no values: for shapes, call jax.eval_shape(tx.init, params)")
    return differentiable(this, x)


def check_state(kind: type, updates: Any, state: Any, params: Any) -> None:
    """Raise TypeError unless `state` is a State; detect swapped arguments."""
    if not isinstance(state, kind):
        which = "updates" if isinstance(updates, kind) else "params"
        swapped = f": were state and {which} swapped?" if kind in (type(updates), type(params)) else ""
        raise TypeError(f"state must come from tx.init(params), got {type(state).__name__}{swapped}")
    step: Any = state.step
    dtype, shape = getattr(step, "dtype", type(step)), getattr(step, "shape", ())
    of_python = dtype is int or (getattr(step, "weak_type", False) and jnp.issubdtype(dtype, jnp.integer))
    if shape or not (of_python or dtype == jnp.int32):
        raise TypeError(f"state.step must be one int32, got {said(step)}: make the state with init")


def check_memory(tx: Any, inside: Any, state: Any = None) -> None:
    """Raise for a state in the memory of the host, unless `tx` keeps it there, and for an outermost one inside."""
    for piece in inside:
        if piece.outermost and piece is not tx:
            name, outer = type(piece).__name__, type(tx).__name__
            raise ValueError(f"{name} must be outermost, got {outer}(… {name}(…)): write {name}({outer}(…))")
    if state is not None and not tx.outermost:
        for path, x in leaves_by_path(state.slots).items():
            if (
                getattr(jax.typeof(x) if is_array(x) else x, "memory_space", jax.memory.Space.Device)
                is jax.memory.Space.Host
            ):
                raise ValueError(
                    f"state: {path!r} is in the memory of the host, got an update of {type(tx).__name__}: wrap the "
                    "optimizer in gx.offload, or move the state by jax.device_put(state, jax.memory.Space.Device)"
                )


_CHECKED: dict[int, ref[Any]] = {}  # what `check_values` need not look at again, by its id


def _is_checked(x: Any) -> bool:
    known = _CHECKED.get(id(x))
    return known is not None and known() is x


def _take_as_checked(x: Any) -> None:
    if len(_CHECKED) > 10_000:  # most are of objects that are gone; the others are checked once more
        _CHECKED.clear()
    _CHECKED[id(x)] = ref(x)


def check_values(tx: Any, state: Any = None) -> None:
    """Raise for known values out of range: hyperparameters that `jax.tree.map` made, or a step below 0.

    Each optimizer is read once, and a step unless an update returned it (`passed`): to read waits for the device.
    """
    if not _is_checked(tx):
        _check_fields(tx)
        _take_as_checked(tx)
    step: Any = _step_of(state)
    if _is_checked(step) or isinstance(step, Tracer):
        return
    live("state.step", step)
    integer = type(step) is int or (is_array(step) and step.dtype.kind == "i" and not step.shape)
    if integer and getattr(step, "is_fully_replicated", True) and not 0 <= int(step) < 2**31:
        how = "make the state with init, or read a saved one with gx.restore"
        raise ValueError(f"state.step must be the number of updates, from 0 to 2³¹ − 1, got {said(step)}: {how}")
    if isinstance(step, jax.Array):
        _take_as_checked(step)


def passed(made: Any) -> Any:
    """Return what an update made, `(…, state)`; its step, one more than a checked one, needs no check."""
    if isinstance(step := _step_of(made[1]), jax.Array) and not isinstance(step, Tracer):
        _take_as_checked(step)
    return made


def _step_of(state: Any) -> Any:
    step = getattr(state, "step", None)
    return unboxed(step) if is_box(step) else step


def _check_fields(record: Any) -> None:
    for name, kind in record._kinds.items():
        if not kind.data:
            continue
        held = getattr(record, name)
        parts = held if isinstance(held, tuple) else (held,)
        for x in parts:
            if hasattr(x, "_kinds"):
                _check_fields(x)
            elif how := foreign(x):
                raise TypeError(f"{type(record).__name__}: {name} is {said(x)}: {how}")
        # Many optimizers as one are refused later: see check_hyperparameters.
        if not any(hasattr(x, "_kinds") or isinstance(x, Tracer) or getattr(x, "shape", ()) for x in parts):
            kind.convert(f"{type(record).__name__}: {name}", held)


def check_extra(needs: dict[str, str], reads: set[str], params: Any, extra: dict[str, Any]) -> None:
    """Raise for an extra argument that a piece needs and `update` lacks, and for one that no piece needs."""
    if "**" not in needs and (wrong := sorted(extra.keys() - needs - reads)):
        takes = ", ".join(sorted((needs.keys() | reads) - {"params"})) or "no extra arguments"
        known = wrong[0] in ("key", "value", *FUNCTIONS)
        declare = f'. A piece that reads it must declare needs = ("{wrong[0]}",)' if known else ""
        rest = f"This optimizer takes {takes}{declare}"
        raise TypeError(unknown("unexpected argument", wrong[0], [*needs, "params"], rest))
    for name, piece in needs.items():
        if name != "**" and (params if name == "params" else extra.get(name)) is None:
            what, how = ("the parameters", "") if name == "params" else (f"the argument {name!r}", f", {name}=…")
            raise ValueError(f"{piece} needs {what}: call update(updates, state, params{how})")
    if "key" in needs:
        one_key(needs["key"], extra["key"])
    for name in FUNCTIONS:
        if not (extra.get(name) is None or callable(extra[name])):
            raise TypeError(f"{name} must be a function of a tree like the parameters, got {said(extra[name])}")


def check_updates(updates: Any, params: Any, name: str = "updates") -> None:
    """Raise for updates (called `name`) that differ from the parameters in structure, shape or dtype kind."""
    refuse_sparse(name, updates)
    params = updates if params is None else params
    if _plainly_alike((updates, params), (params, updates)) and all(
        _rank(x.dtype) in INEXACT for x in jax.tree.leaves(updates)
    ):
        return
    have, need = leaves_by_path(updates, is_none), leaves_by_path(params)
    frozen = {path: None for path, u in have.items() if u is None or is_float0(u)}
    below = tuple(f"{path}/" if path else "" for path in frozen)
    need = {path: p for path, p in need.items() if path in have or not path.startswith(below)} | frozen
    for path, u in (have := have | frozen).items():
        if u is not None:
            _inexact(place(name, path), u)
    for path, p in need.items():
        if path not in frozen and is_float0(p):
            raise TypeError(f"{place('params', path)} is float0, a gradient: were {name} and params swapped?")
        if p is not None and not _inexact(place("params", path), p):
            need[path] = None
    fix = f"; {name} must be like params, with None for a leaf that is frozen or an integer"
    if any(path not in need for path in have) and have.keys() <= leaves_by_path(params, is_none).keys():
        fix = f": were {name} and params swapped? None stands for a leaf without a gradient"
    _compare(name, have, need, lambda new, old: _rank(new) == _rank(old), fix)
    _same_containers(name, updates, params, fix)


def check_slots(slots: Any, expected: Any, exact: bool) -> None:
    """Raise for slots of another optimizer or of other parameters. Unless `exact`, extra slots and dtypes pass."""
    if exact and _plainly_alike(slots, expected):
        return
    have, need = leaves_by_path(slots), leaves_by_path(expected)
    if not exact:
        have = {path: x for path, x in have.items() if path in need}
    for path, x in have.items():
        live(place("state.slots", path), x)
    fix = "; make the state with init of this optimizer and these parameters"
    _compare("state.slots", have, need, operator.eq if exact else _holds, fix)
    _same_containers("state.slots", expected, _common(slots, expected), fix)


def _common(slots: Any, expected: Any) -> Any:
    """The slots without unexpected ones."""
    both = type(slots) is type(expected) is dict
    return {name: _common(slots[name], x) for name, x in expected.items()} if both else slots


def check_run(place: str, made: Any, given: Any, new: Any, old: Any) -> None:
    """Raise for emitted updates or new slots that differ from the incoming updates or the old slots."""
    if made is not NOTHING:
        check_made(place, made, given)
    check_made(place, new, old, "slots")


def check_fits(name: str, new: Any, old: Any, fix: str) -> None:
    """Raise for a tree (called `name`) that differs from another in structure or shapes, or that its dtypes exclude."""
    if (form := _form(new)) != _form(old) or (None, None) in form[1]:
        _compare(name, leaves_by_path(new, is_none), leaves_by_path(old, is_none), _holds, fix)
        _same_containers(name, new, old, fix)


def check_made(place: str, made: Any, given: Any, what: str = "updates") -> None:
    """Raise for updates or slots that a piece returned with another structure or other shapes than it received."""
    check_fits(f"{place}: {what}", made, given, f"; return {what} like those received")


def _form(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(getattr(x, "shape", None), getattr(x, "dtype", None)) for x in leaves]


def _plainly_alike(tree: Any, like: Any) -> bool:
    """Whether trees of live arrays have one form, which needs no search for the leaf that differs."""
    try:
        for x in jax.tree.leaves(tree):
            live("", x)
            if not isinstance(x, jax.Array):
                return False
    except ValueError:
        return False
    return _form(tree) == _form(like)


def _compare(name: str, have: Any, need: Any, fits: Callable[[Any, Any], bool], fix: str) -> None:
    """Raise for the first of a tree's leaves that differs from the expected one; `fits` compares their dtypes."""
    for path in need | have:
        this = place(name, path)
        if path not in have or path not in need:
            which = "missing" if path in need else "unexpected"
            raise ValueError(f"{this} is {which}: expected {_listed(need)}, got {_listed(have)}{fix}")
        x, y = have[path], need[path]
        if x is None and y is None:
            continue
        if x is None or y is None or not (is_array(x) or isinstance(x, (float, int))):
            raise TypeError(f"{this} must be {'None' if y is None else 'an array'}, got {said(x)}{fix}")
        if jnp.shape(x) != jnp.shape(y):
            raise ValueError(f"{this} must have shape {jnp.shape(y)}, got {jnp.shape(x)}{fix}")
        if not fits(dtype := jnp.result_type(x), expected := jnp.result_type(y)):
            raise TypeError(f"{this} must be {expected}, got {dtype}{fix}")


def _same_containers(name: str, part: Any, whole: Any, fix: str) -> None:
    """Raise for trees that differ in their containers; None in the first stands for any branch of the second."""
    try:
        jax.tree.structure(part, is_leaf=is_none).flatten_up_to(whole)
    except ValueError:
        these = f"{jax.tree.structure(part)} and {jax.tree.structure(whole)}"
        raise ValueError(f"{name}: the containers of the trees {these} differ{fix}") from None


def _holds(new: Any, old: Any) -> bool:
    """Whether a dtype can hold another: not an integer a floating number, nor a real number a complex one."""
    return _rank(new) <= _rank(old)


@functools.cache
def _rank(dtype: Any) -> int:
    return next(i for i, kind in enumerate(KINDS) if jnp.issubdtype(dtype, kind))


def check_leaf(piece: Any, path: str, g: Any, slots: Any, made: Any) -> tuple[Any, Any]:
    """Return what `update_leaf` returned, an update and slots like those it was given, or raise."""
    place = f"{type(piece).__name__}: update_leaf"
    update, new = _pair(place, made)
    after, before = ({name: {path: slot} for name, slot in kept.items()} for kept in (new, slots))
    check_run(place, {path: update}, {path: g}, after, before)
    return update, new


def updated(piece: Any, updates: Any, slots: Any, context: Any) -> tuple[Any, Any]:
    """Call `update_tree` and return its updates and its dict of slots, or raise."""
    name = type(piece).__name__
    try:
        return _pair(f"{name}: update_tree", piece.update_tree(updates, slots, context))
    except jax.errors.UnexpectedTracerError as error:
        raise ValueError(f"{name}: its update: {LEAKED}") from error
    except jax.errors.JAXTypeError as error:
        raise TypeError(f"{name}: its update must be one that JAX can trace: {TRACEABLE}") from error
    except KeyError as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not any(isinstance(x, type(context)) for x in frame.f_locals.values()):
            raise  # it is of other code, such as a function that was passed to update
        kept = f"the slots are {_listed(slots)}" if slots else "it has no slots"
        how = f"an extra argument must be declared, needs = ({error},), and passed to update by keyword"
        raise ValueError(f"{name}: its update found no {error}: {kept}; {how}") from error
    except (TypeError, ValueError, AttributeError) as error:
        if context.params is not None or "NoneType" not in str(error):
            raise
        how = 'declare needs = ("params",), and call update(updates, state, params)'
        raise ValueError(f"{name}: its update failed with None for context.params: if it reads them, {how}") from error


def _pair(place: str, made: Any) -> tuple[Any, Any]:
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[1], dict):
        raise TypeError(f"{place} must return (updates, slots), with a dict of slots, got {said(made)}")
    return made


def check_row(piece: Any, path: str, row: Any) -> Any:
    """Return the slots that `init_leaf` returned, a dict of arrays, or raise."""
    place = f"{type(piece).__name__}: init_leaf"
    if not isinstance(row, dict):
        raise TypeError(f"{place} must return a dict of arrays, got {said(row)}")
    _check_slot_names(place, piece, row)
    for name, slot in row.items():
        if not is_array(slot):
            raise TypeError(f"{place}: the slot {name!r} of {path!r} must be an array, got {_unfit(slot)}")
    return {name: fixed(slot) for name, slot in row.items()}


def _check_slot_names(place: str, piece: Any, slots: dict[str, Any]) -> None:
    for name in slots:
        if not isinstance(name, str) or not name:
            raise TypeError(f"{place}: the name of a slot must be a string that is not empty, got {name!r}")
    if piece.counts and "age" in slots:
        raise ValueError(f"{place}: a piece with counts = True has a slot 'age' already: give yours another name")


def fixed(x: Any) -> jax.Array:
    """A slot as an array of JAX whose dtype stays: not a weak type, and not float64 unless JAX has it."""
    return x if _is_fixed(x) else jnp.asarray(x, jnp.result_type(x))


def _is_fixed(x: Any) -> bool:
    return isinstance(x, jax.Array) and not getattr(x, "weak_type", False)  # a key has none


def _unfit(slot: Any) -> str:
    how = foreign(slot)
    return f"{said(slot)}: {how}" if how else said(slot)


def check_names(piece: Any, params: Any, rows: list[Any]) -> list[str]:
    """Return the names of the slots, or raise unless they are the same for all parameters."""
    first = next((i for i, row in enumerate(rows) if row is not None), None)
    if first is None:
        return []
    for i, row in enumerate(rows):
        if row is not None and row.keys() != rows[first].keys():
            paths = [*leaves_by_path(params)]
            these, others = (_listed(x) if x else "none" for x in (rows[first], row))
            raise ValueError(
                f"{type(piece).__name__}: init_leaf must return the same slots for every leaf, got {these} for "
                f"{paths[first]!r} and {others} for {paths[i]!r}: use partition to give the leaves different pieces"
            )
    return [*rows[first]]


def initial(piece: Any, params: Any) -> Any:
    """Call `init_tree` and return its slots, a dict of trees of arrays, or raise."""
    name = f"{type(piece).__name__}: init_tree"
    try:
        slots = piece.init_tree(params)
    except (TypeError, AttributeError) as error:
        if not hasattr(piece, "update_leaf") or piece.init_tree.__module__.startswith("gradtx."):
            raise
        how = "for a rule on one array, define init_leaf(self, param); for trees, use jax.tree.map"
        raise TypeError(f"{name} failed on the whole tree of parameters, which it receives: {how}") from error
    if not isinstance(slots, dict):
        raise TypeError(f"{name} must return a dict of slots, got {said(slots)}")
    _check_slot_names(name, piece, slots)
    if not all(map(_is_slot, jax.tree.leaves(slots))):
        path, x = next((path, x) for path, x in leaves_by_path(slots).items() if not _is_slot(x))
        raise TypeError(f"{name}: slots[{path!r}] must be an array, got {_unfit(x)}")
    if not all(map(_is_fixed, jax.tree.leaves(slots))):  # JAX would sort the names
        slots = {key: jax.tree.map(fixed, slot) for key, slot in slots.items()}
    for key, slot in slots.items() if hasattr(piece, "update_leaf") else ():
        try:
            jax.tree.structure(params, is_leaf=is_none).flatten_up_to(slot)
        except ValueError:
            how = "for a slot of one array, define init_leaf(self, param)"
            raise ValueError(f"{name} must return trees like params, got {said(slot)} as {key!r}: {how}") from None
    return slots


def _is_slot(x: Any) -> bool:
    return is_array(x) or isinstance(x, (float, int, complex))


@functools.cache
def check_class(piece: Any) -> None:
    """Raise for a class with methods of another signature, or with `needs` that is not a tuple of names."""
    if isinstance(needs := piece.needs, str):
        raise TypeError(f"{piece.__name__}: needs must be a tuple of names, got {needs!r}: write ({needs!r},)")
    for name in ("init_tree", "update_tree", "init_leaf", "update_leaf"):
        if several := [vars(base)[name] for base in piece.__mro__ if name in vars(base)]:
            takes = list(inspect.signature(several[-1]).parameters)  # the last is gradtx's own
            if misfit(name, getattr(piece, name), takes, {}):
                raise TypeError(f"{piece.__name__}: {name} must take ({', '.join(takes)})")


def check_hyperparameters(tx: Any, pieces: Any, dtype: Any) -> None:
    """Raise for batched hyperparameters, malformed classes, and values that leave their range in the working dtype."""
    for path, h in leaves_by_path(tx).items():
        live(path, h)
        if jnp.shape(h):
            raise ValueError(f"{path} holds values of shape {jnp.shape(h)}: update many optimizers inside jax.vmap")
    for piece in pieces:
        check_class(type(piece))
        for name, kind in piece._kinds.items():
            if kind.data and isinstance(h := getattr(piece, name), float):  # with NumPy: a constant in a trace too
                kind.convert(f"{type(piece).__name__}: {name}, in {dtype},", np.asarray(h, dtype))


def of_trees(name: str, function: Any, params: Any, own: Any, dtype: Any) -> Callable[..., Any]:
    """Wrap a user's function for trees of the working dtype; where one has None, it sees `params`, and `hvp` zero.

    It receives the nodes of `own`, the user's parameters, of which `params` are the opened form.
    """

    def call(tree, *more, **named):
        absent = zero_from_primal(params) if name == "hvp" else params
        full = jax.tree.map(lambda x, p: p if x is None else narrow(x, p), tree, absent, is_leaf=is_none)
        full = arranged(full, own)
        if why := misfit(name, function, (full, *more), named):
            raise TypeError(f"{why}; it must be a function of a tree like the parameters")
        out = function(full, *more, **named)
        if name == "value_fn":
            return out
        if missing := sorted(leaves_by_path(tree).keys() - leaves_by_path(out)):
            raise ValueError(f"{name}(…) has nothing for {place('params', missing[0])}: it is {said(out)}")
        check_updates(out, own, f"{name}(…)")
        out = opened(out)
        return jax.tree.map(lambda x, u: x if x is None else widen(u, dtype), tree, out, is_leaf=is_none)

    return function if params is None else call


def refuse_local(place: str, what: str, x: Any) -> None:
    """Raise for a number that differs from device to device, as within `jax.shard_map` one of local arrays does."""
    if varying := jax.typeof(x).manual_axis_type.varying:
        axes = ", ".join(map(repr, sorted(varying)))
        raise ValueError(
            f"{place}: expected {what} of the whole, the same on each device, got one that varies along the mesh axes "
            f"{axes}, within shard_map: reduce the loss, in value_fn too, and the gradient over these axes, as with "
            "jax.lax.pmean, or take the gradient inside shard_map and update outside"
        )


def manual_axes() -> tuple[str, ...]:
    """The mesh axes over which `jax.shard_map`, or `jax.pmap`, runs the current function: each device has its part."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(name for name in mesh.manual_axes if mesh.shape[name] > 1)


def varying(x: Any) -> frozenset[str]:
    """The manual axes along which an array differs between devices; empty where JAX does not check."""
    return jax.typeof(x).manual_axis_type.varying


def check_shards(tx: Any, trees: dict[str, Any]) -> None:
    """Raise within `jax.shard_map` if a piece would take the norm, say, of a shard for the norm of the parameter."""
    if (axes := manual_axes()) and (piece := measuring(tx)):
        how = (
            "compute gradients there and update outside, or wrap the optimizer: in_shard_map(tx, specs), with the "
            "specs of divided parameters"
        )
        refuse_shards(f"{type(piece).__name__}:", trees, axes, how)


def refuse_shards(who: str, trees: dict[str, Any], axes: tuple[str, ...], how: str) -> None:
    """Raise if leaves of the trees are shards, or if JAX does not tell."""
    if not varying(jax.lax.axis_index(axes)):
        raise ValueError(
            f"{who} expected whole parameters, got a shard_map over {axes[0]!r} that does not check whether they are "
            f"shards (check_vma=False, or pmap): {how}"
        )
    for of, tree in trees.items():
        for path, x in leaves_by_path(tree).items():
            if found := [axis for axis in axes if axis in varying(x)]:
                raise ValueError(
                    f"{who} expected whole parameters, got {place(of, path)} of a shard_map, which differs along "
                    f"{found[0]!r}: {how}"
                )


def measuring(tx: Any) -> Any:
    """A piece whose update of a coordinate depends on others; None if there is none."""
    if tx.exact_on_shards:
        return None
    if not tx.elementwise:
        return tx
    return next(filter(None, map(measuring, tx.parts().values())), None)
