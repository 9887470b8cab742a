"""Words for trees of arrays: precision, paths, checks, and the few formulas that need care."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.dtypes import float0
from jax.tree_util import keystr, tree_flatten_with_path

from gradtx.core.record import describe

Function = TypeVar("Function", bound=Callable[..., Any])
_ARRAYS: set[type] = {float, int, complex, bool, np.ndarray}  # types of concrete leaves, and those met since


def is_none(x: Any) -> bool:
    return x is None


# ---------------------------------------------------------------- compilation
def compiled(function: Function) -> Function:
    """`function`, run through one cached `jax.jit` when every leaf of its arguments is a concrete array."""
    jitted = jax.jit(function)

    @functools.wraps(function)
    def call(*args):
        for leaf in jax.tree.leaves(args):
            if type(leaf) not in _ARRAYS:
                if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, (jax.Array, np.generic)):
                    return function(*args)
                _ARRAYS.add(type(leaf))
        return jitted(*args)

    call.jitted = jitted  # pyright: ignore[reportAttributeAccessIssue]
    return call  # pyright: ignore[reportReturnType]


# ---------------------------------------------------------------- paths and checks
def path_of(path: Any) -> str:
    """A leaf's path as a person types it: `layers/0/weight`."""
    return keystr(path, simple=True, separator="/")


def leaves_by_path(tree: Any) -> dict[str, Any]:
    return {path_of(path): leaf for path, leaf in tree_flatten_with_path(tree)[0]}


def differentiable(place: str, leaf: Any) -> bool:
    """Whether a parameter takes updates: integers, booleans and keys of a model do not."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None and not isinstance(leaf, (float, int, complex)):
        raise TypeError(
            f"{place} is {leaf!r}, not an array; give arrays and None only, as equinox.filter(model, is_inexact_array)"
        )
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(f"{place} is a random key, not a parameter; keep it out of the tree, or put None in its place")
    return jnp.issubdtype(dtype or jnp.result_type(leaf), jnp.inexact)


def is_float0(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) == float0


def check_updates(updates: Any, params: Any, name: str = "the update") -> None:
    """Refuses updates that do not fit the parameters: structure, shape, or a dtype that no gradient has."""
    for path, u in leaves_by_path(updates).items():
        if not is_float0(u) and not differentiable(f"updates[{path!r}]", u):
            raise TypeError(f"updates[{path!r}] has dtype {jnp.result_type(u)}; {name} must be floating or complex")
    if params is None:
        return
    have, need = tree_flatten_with_path(updates, is_leaf=is_none)[0], leaves_by_path(params)
    for path, u in have:
        place = path_of(path)
        if u is None:
            need = {k: p for k, p in need.items() if k != place and not k.startswith(place + "/")}
            continue
        if place not in need:
            raise ValueError(f"updates[{place!r}] has no parameter; params has {_list(need)}")
        p = need.pop(place)
        if jnp.shape(u) != jnp.shape(p):
            raise ValueError(f"updates[{place!r}] has shape {jnp.shape(u)}, its parameter has {jnp.shape(p)}")
        if is_float0(u):
            continue
        if not differentiable(f"params[{place!r}]", p):
            raise TypeError(
                f"params[{place!r}] has dtype {jnp.result_type(p)} and cannot take {jnp.result_type(u)} updates; "
                "make it floating, or leave its update None"
            )
        if jnp.iscomplexobj(u) != jnp.iscomplexobj(p):
            raise TypeError(f"updates[{place!r}] is {jnp.result_type(u)}, its parameter {jnp.result_type(p)}")
    if need:
        raise ValueError(f"params{[next(iter(need))]} has no update; put None there to leave it as it is")
    try:
        jax.tree.map(lambda u, p: None, updates, params, is_leaf=is_none)
    except ValueError:
        shapes = jax.tree.structure(updates), jax.tree.structure(params)
        raise ValueError(f"updates is the tree {shapes[0]}, params is {shapes[1]}; their containers differ") from None


def check_slots(slots: Any, expected: Any, dtypes: bool) -> None:
    """Refuses a state that another optimizer, or other parameters, made."""
    have, need = leaves_by_path(slots), leaves_by_path(expected)
    for path in need.keys() | have.keys():
        a, b = have.get(path), need.get(path)
        if a is None or b is None:
            raise ValueError(
                f"the state is not this optimizer's: {path!r} is {'missing' if a is None else 'unknown'}; "
                f"it keeps {_list(need)}. Make the state with init of the same optimizer and parameters"
            )
        if jnp.shape(a) != b.shape or (dtypes and jnp.result_type(a) != b.dtype):
            got = describe(jnp.asarray(a))
            raise ValueError(f"the state is not of these parameters: {path!r} is {got}, expected {describe(b)}")
    if jax.tree.structure(slots) != jax.tree.structure(expected):
        raise ValueError(f"the state's slots are {jax.tree.structure(slots)}, not {jax.tree.structure(expected)}")


def _list(names: Any, most: int = 8) -> str:
    names = list(names)
    return (", ".join(map(repr, names[:most])) or "no leaves") + (", …" if len(names) > most else "")


# ---------------------------------------------------------------- precision
def at_least_float32(dtype: Any) -> Any:
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def widen(x: Any, dtype: Any = None) -> Array:
    """A real array of at least float32. A complex one becomes pairs of reals: shape (…, 2)."""
    x = x if hasattr(x, "dtype") else jnp.asarray(x)
    if jnp.iscomplexobj(x):
        x = jnp.stack([x.real, x.imag], -1)
    return jnp.asarray(x, dtype or at_least_float32(x.dtype))


def narrow(x: Array, like: Any) -> Array:
    """Undoes `widen`: `x` with the dtype of `like`."""
    if jnp.iscomplexobj(like):
        x = jax.lax.complex(x[..., 0], x[..., 1])
    return jnp.asarray(x, jnp.result_type(like))


def working_dtype(*trees: Any) -> Any:
    """The widest real dtype of the trees' floating leaves, at least float32."""
    dtypes = {jnp.dtype(x.dtype) if hasattr(x, "dtype") else jnp.result_type(x) for x in jax.tree.leaves(trees)}
    widths = {at_least_float32(jnp.finfo(d).dtype) for d in dtypes if jnp.issubdtype(d, jnp.inexact)}
    return max(widths, key=lambda d: jnp.finfo(d).bits, default=jnp.dtype(jnp.float32))


# ---------------------------------------------------------------- formulas
def lerp(a: Array, b: Array, keep: Array) -> Array:
    """`keep·a + (1 − keep)·b`."""
    return keep * a + (1 - keep) * b


def safe_sqrt(x: Array) -> Array:
    """√x, with derivative 0 at 0; a negative number, the rounding of a 0, gives 0."""
    zero = x <= 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def safe_divide(a: Array, b: Array) -> Array:
    """a / b, where 0/0 is 0 and has derivative 0."""
    zero = (a == 0) & (b == 0)
    return jnp.where(zero, 0, a / jnp.where(zero, 1, b))
