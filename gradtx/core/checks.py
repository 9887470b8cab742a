"""Checks of the arguments of `init` and `update`, and of what pieces return: structure, shapes and dtypes."""

import functools
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import zero_from_primal

from gradtx.core.arguments import is_array, live, misfit
from gradtx.core.errors import TRACEABLE, _listed, describe, place, said, unknown
from gradtx.core.trees import (
    NOTHING,
    arranged,
    differentiable,
    is_float0,
    is_none,
    leaves_by_path,
    narrow,
    opened,
    widen,
)

METHODS = {  # and their arguments
    "init_tree": ["params"],
    "update_tree": ["updates", "slots", "context"],
    "init_leaf": ["param"],
    "update_leaf": ["g", "slots", "context"],
}
FUNCTIONS = ("grad_fn", "hvp", "value_fn")  # the extra arguments that are functions of a tree like the parameters


def check_params(params: Any) -> None:
    """Raise for parameters with leaves that are not arrays."""
    for path, p in leaves_by_path(params).items():
        differentiable(place("params", path), p)
        _has_values(place("params", path), p)


def _has_values(place: str, x: Any) -> None:
    if isinstance(x, jax.ShapeDtypeStruct):
        raise TypeError(f"{place} is {x}, which has no values: for shapes, call jax.eval_shape(tx.init, params)")


def check_state(kind: type, updates: Any, state: Any, params: Any) -> None:
    """Raise TypeError unless `state` is a State; detect swapped arguments."""
    if not isinstance(state, kind):
        which = "updates" if isinstance(updates, kind) else "params"
        swapped = f": were state and {which} swapped?" if kind in (type(updates), type(params)) else ""
        raise TypeError(f"state must come from tx.init(params), got {type(state).__name__}{swapped}")
    step: Any = state.step
    if getattr(step, "dtype", type(step)) not in (jnp.int32, int) or jnp.shape(step):
        raise TypeError(f"state.step must be one int32, got {said(step)}: make the state with init")


def check_extra(needs: dict[str, str], params: Any, extra: dict[str, Any]) -> None:
    """Raise for an extra argument that a piece needs and `update` lacks, and for one that no piece needs."""
    if "**" not in needs and (wrong := sorted(extra.keys() - needs)):
        known = ", ".join(sorted(needs.keys() - {"params"}))
        rest = f"this optimizer takes {known}" if known else "this optimizer takes no extra arguments"
        if wrong[0] in ("key", "value", "value_fn", "grad_fn", "hvp"):
            rest += f'. A piece that reads it must declare needs = ("{wrong[0]}",)'
        raise TypeError(unknown("unexpected argument", wrong[0], [*needs, "params"], rest))
    for name, piece in needs.items():
        if name != "**" and (params if name == "params" else extra.get(name)) is None:
            what, how = ("the parameters", "") if name == "params" else (f"the argument {name!r}", f", {name}=…")
            raise ValueError(f"{piece} needs {what}: call update(updates, state, params{how})")
    for name in FUNCTIONS:
        if not (extra.get(name) is None or callable(extra[name])):
            raise TypeError(f"{name} must be a function of a tree like the parameters, got {said(extra[name])}")


def check_updates(updates: Any, params: Any, name: str = "updates") -> None:
    """Raise for updates (called `name`) that differ from the parameters in structure, shape or dtype kind."""
    have, need = leaves_by_path(updates, is_none), leaves_by_path(updates if params is None else params)
    absent = [path for path, u in have.items() if u is None]
    if missing := [p for p in need if p not in have and not any(p.startswith(f"{a}/") or not a for a in absent)]:
        what = f"{place(name, missing[0])} is missing, and params has it: pass None there to freeze it"
        raise ValueError(f"{what}; {name} has {_listed(have)}")
    for path, u in have.items():
        if u is None or is_float0(u):
            continue
        this = place(name, path)
        if path not in need:
            swapped = params is not None and path in leaves_by_path(params, is_none)
            how = f": were {name} and params swapped? None stands for a leaf without a gradient" if swapped else ""
            raise ValueError(f"{this} has no parameter: params has {_listed(need)}{how}")
        p = need[path]
        if is_float0(p):
            raise TypeError(f"{place('params', path)} is float0, a gradient: were {name} and params swapped?")
        for leaf_of, leaf in ((this, u), (place("params", path), p)):
            _has_values(leaf_of, leaf)
            if not differentiable(leaf_of, leaf):
                raise TypeError(f"{leaf_of} must be floating or complex, got {jnp.result_type(leaf)}")
        if jnp.shape(u) != jnp.shape(p):
            raise ValueError(f"{this} has shape {jnp.shape(u)}, its parameter has {jnp.shape(p)}")
        if jnp.iscomplexobj(u) != jnp.iscomplexobj(p):
            raise TypeError(f"{this} is {jnp.result_type(u)}, its parameter {jnp.result_type(p)}")
    try:
        jax.tree.structure(updates, is_leaf=is_none).flatten_up_to(updates if params is None else params)
    except ValueError:
        a, b = jax.tree.structure(updates), jax.tree.structure(params)
        raise ValueError(f"{name} is the tree {a}, params is {b}: their containers differ") from None


def of_trees(name: str, function: Any, params: Any, own: Any, dtype: Any) -> Callable[..., Any]:
    """Wrap a user's function for trees of the working dtype; where one has None, it sees `params`, and `hvp` zero.

    It receives the nodes of `own`, the user's parameters, of which `params` are the opened form.
    """

    def call(tree, *more, **named):
        absent = zero_from_primal(params) if name == "hvp" else params
        full = jax.tree.map(lambda x, p: p if x is None else narrow(x, p), tree, absent, is_leaf=is_none)
        full = arranged(full, own)
        if why := misfit(name, function, (full, *more), named):
            raise TypeError(f"{why}: it must be a function of a tree like the parameters")
        out = function(full, *more, **named)
        if name == "value_fn":
            return out
        if missing := sorted(leaves_by_path(tree).keys() - leaves_by_path(out)):
            raise ValueError(f"{name}(…) has nothing for {place('params', missing[0])}: it is {said(out)}")
        check_updates(out, own, f"{name}(…)")
        out = opened(out)
        return jax.tree.map(lambda x, u: x if x is None else widen(u, dtype), tree, out, is_leaf=is_none)

    return function if params is None else call


def check_made(place: str, made: Any, given: Any) -> None:
    """Raise for emitted updates that differ in structure or shape from the incoming ones."""
    if _form(made) == _form(given):
        return
    have, need = leaves_by_path(made, is_none), leaves_by_path(given, is_none)
    for path, u in need.items():
        new = have.get(path)
        if (new is None) != (u is None) or (u is not None and not is_array(new) and not isinstance(new, (float, int))):
            raise TypeError(f"{place}: the update of {path!r} must be {_like(u)}, got {said(new)}")
        if u is not None and new is not None and jnp.shape(new) != jnp.shape(u):
            raise ValueError(f"{place}: the update of {path!r} came in as {_like(u)}, and out with {jnp.shape(new)}")
        if u is not None:
            _check_kind(f"{place}: the update of {path!r}", new, u)
    if more := have.keys() - need.keys():
        raise ValueError(f"{place}: there is an update {min(more)!r} of nothing that came in")
    if (after := jax.tree.structure(made)) != (before := jax.tree.structure(given)):
        raise ValueError(f"{place}: the updates came in as the tree {before}, and out as {after}: containers differ")


def check_run(place: str, made: Any, given: Any, new: Any, old: Any) -> None:
    """Raise for emitted updates or new slots that differ from the incoming updates or the old slots."""
    if made is not NOTHING:
        check_made(place, made, given)
    if _form(new) == _form(old):
        return
    if (after := jax.tree.structure(new)) != (before := jax.tree.structure(old)):
        raise TypeError(f"{place}: an update must return the slots that it began with: {after} is not {before}")
    have, need = leaves_by_path(new), leaves_by_path(old)
    for path, x in have.items():
        this, slot = f"{place}: the slot {path!r}", need[path]
        if not is_array(x) and not isinstance(x, (float, int)):
            raise TypeError(f"{this} must be an array, got {said(x)}")
        if jnp.shape(x) != jnp.shape(slot):
            raise ValueError(f"{this} had shape {jnp.shape(slot)}, now {jnp.shape(x)}")
        _check_kind(this, x, slot)


def _check_kind(this: str, new: Any, old: Any) -> None:
    """Raise for a dtype that the old one cannot hold: floating for integers, complex for real numbers."""
    a, b = jnp.result_type(new), jnp.result_type(old)
    if _rank(a) > _rank(b):
        raise TypeError(f"{this} was {b}, now {a}, which {b} cannot hold")


def _rank(dtype: Any) -> int:
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating, jax.dtypes.prng_key)
    return next(i for i, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind))


def _form(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(getattr(x, "shape", None), getattr(x, "dtype", None)) for x in leaves]


def _like(u: Any) -> str:
    return "None" if u is None else f"an array of shape {jnp.shape(u)}"


def check_leaf(piece: Any, path: str, g: Any, slots: Any, made: Any) -> tuple[Any, Any]:
    """Return what `update_leaf` returned, an update and slots like those it was given, or raise."""
    place = f"{type(piece).__name__}: update_leaf"
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[1], dict):
        raise TypeError(f"{place} must return (update, slots), with a dict of slots, got {said(made)}")
    if getattr(made[0], "shape", None) != g.shape:
        check_made(place, {path: made[0]}, {path: g})
    if made[1].keys() != slots.keys():
        raise ValueError(f"{place} must return the slots {_listed(slots)} of {path!r}, got {_listed(made[1])}")
    for name, slot in slots.items():
        before, now = (jax.tree.map(np.shape, x) for x in (slot, made[1][name]))
        if before != now:
            raise ValueError(f"{place}: the slot {name!r} of {path!r} had shape {before}, now {now}")
        jax.tree.map(
            functools.partial(_check_kind, f"{type(piece).__name__}: the slot {f'{name}/{path}'!r}"),
            made[1][name],
            slot,
        )
    _check_kind(f"{type(piece).__name__}: the update of {path!r}", made[0], g)
    return made


def check_row(piece: Any, path: str, row: Any) -> Any:
    """Return the slots that `init_leaf` returned, a dict of arrays, or raise."""
    place = f"{type(piece).__name__}: init_leaf"
    if not isinstance(row, dict):
        raise TypeError(f"{place} must return a dict of arrays, got {said(row)}")
    for name, slot in row.items():
        if not is_array(slot):
            raise TypeError(f"{place}: the slot {name!r} of {path!r} must be an array, got {said(slot)}")
    return row


def check_names(piece: Any, params: Any, rows: list[Any]) -> list[str]:
    """Return the names of the slots, or raise unless they are the same for all parameters."""
    first = next((row for row in rows if row is not None), {})
    if any(row is not None and row.keys() != first.keys() for row in rows):
        named = {path: _listed(row, none="none") for path, row in zip(leaves_by_path(params), rows) if row is not None}
        (path, one), *others = named.items()
        other = next(path for path, row in others if row != one)
        raise ValueError(
            f"{type(piece).__name__}: init_leaf must return the same slots for every leaf, got {one} for {path!r} and "
            f"{named[other]} for {other!r}: use partition to give the leaves different pieces"
        )
    return [*first]


def check_slots(slots: Any, expected: Any, exact: bool) -> None:
    """Raise for slots of another optimizer or of other parameters. Unless `exact`, extra slots and dtypes pass."""
    have, need = leaves_by_path(slots), leaves_by_path(expected)
    for path in (*need, *(have if exact else ())):
        if path not in have or path not in need:
            raise ValueError(
                f"the state is not this optimizer's: slot {path!r} is {'missing' if path in need else 'unknown'}. This "
                f"optimizer keeps {_listed(need)}: make the state with init of this optimizer and these parameters"
            )
        if not is_array(a := have[path]) and not isinstance(a, (float, int)):
            raise TypeError(f"the state's slot {path!r} must be an array, got {said(a)}: make the state with init")
        live(f"the state's slot {path!r}", a)
        a, b = jnp.asarray(a), need[path]
        if a.shape != b.shape or (exact and a.dtype != b.dtype):
            raise ValueError(f"the state is not of these parameters: slot {path!r} is {describe(a)}, not {describe(b)}")
    try:
        jax.tree.structure(expected, is_leaf=is_none).flatten_up_to(_common(slots, expected))
    except ValueError:
        a, b = jax.tree.structure(slots), jax.tree.structure(expected)
        raise ValueError(f"the state is not this optimizer's: its slots are the tree {a}, not {b}") from None


def _common(slots: Any, expected: Any) -> Any:
    """The slots without unexpected ones."""
    both = type(slots) is type(expected) is dict
    return {name: _common(slots[name], x) for name, x in expected.items()} if both else slots


def updated(piece: Any, updates: Any, slots: Any, context: Any) -> tuple[Any, Any]:
    """Call `update_tree` and return its updates and its dict of slots, or raise."""
    name = type(piece).__name__
    try:
        made = piece.update_tree(updates, slots, context)
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
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[1], dict):
        raise TypeError(f"{name}: update_tree must return (updates, slots), with a dict of slots, got {said(made)}")
    return made


def initial(piece: Any, params: Any) -> Any:
    """Call `init_tree` and return its slots, a dict of trees of arrays, or raise."""
    place = f"{type(piece).__name__}: init_tree"
    try:
        slots = piece.init_tree(params)
    except (TypeError, AttributeError) as error:
        if not hasattr(piece, "update_leaf") or piece.init_tree.__module__.startswith("gradtx."):
            raise
        how = "for a rule on one array, define init_leaf(self, param); for trees, use jax.tree.map"
        raise TypeError(f"{place} failed on the whole tree of parameters, which it receives: {how}") from error
    if not isinstance(slots, dict):
        raise TypeError(f"{place} must return a dict of slots, got {said(slots)}")
    for path, x in leaves_by_path(slots).items():
        if not is_array(x) and not isinstance(x, (float, int, complex, jax.ShapeDtypeStruct)):
            raise TypeError(f"{place}: the slot {path!r} must be an array, got {said(x)}")
    for name, slot in slots.items() if hasattr(piece, "update_leaf") else ():
        try:
            jax.tree.structure(params, is_leaf=is_none).flatten_up_to(slot)
        except ValueError:
            how = "for a slot of one array, define init_leaf(self, param)"
            raise ValueError(f"{place} must return trees like params, got {said(slot)} as {name!r}: {how}") from None
    return slots


@functools.cache
def check_class(piece: Any) -> None:
    """Raise for a class with methods of another signature, or with `needs` that is not a tuple of names."""
    if isinstance(needs := piece.needs, str):
        raise TypeError(f"{piece.__name__}: needs must be a tuple of names, got {needs!r}: write ({needs!r},)")
    for name, takes in METHODS.items():
        if (method := getattr(piece, name, None)) and misfit(name, method, ("self", *takes), {}):
            raise TypeError(f"{piece.__name__}: {name} must take (self, {', '.join(takes)})")


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
