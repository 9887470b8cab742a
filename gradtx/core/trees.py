"""Words for trees of arrays: compilation, paths, checks and precision."""

import functools
import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.dtypes import float0, prng_key
from jax.tree_util import DictKey, GetAttrKey, keystr, tree_flatten_with_path

from gradtx.core.record import describe

Function = TypeVar("Function", bound=Callable[..., Any])
_ARRAYS: set[type] = {float, int, complex, bool, np.ndarray}  # types of concrete leaves: these, and those met since


def compiled(function: Function) -> Function:
    """`function`, run through one cached `jax.jit` when every leaf of its arguments is a concrete array."""
    jitted = jax.jit(function)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        for leaf in jax.tree.leaves(args):
            if type(leaf) not in _ARRAYS:
                if isinstance(leaf, Tracer) or not isinstance(leaf, (jax.Array, np.generic)):
                    return function(*args)
                _ARRAYS.add(type(leaf))
        return jitted(*args)

    return cast(Function, call)


is_none = functools.partial(operator.is_, None)


def is_float0(x: Any) -> bool:
    """Whether `x` is what `jax.grad` gives for an integer: no gradient."""
    return getattr(x, "dtype", None) == float0


def path_of(path: Any) -> str:
    """A leaf's path as a person types it: `layers/0/weight`. What a dict holds in a box, as Flax does, has its name."""
    boxed = path[-1:] == (GetAttrKey("value"),) and isinstance((None, *path)[-2], DictKey)  # some updates are unboxed
    return keystr(path[:-1] if boxed else path, simple=True, separator="/")


def leaves_by_path(tree: Any, is_leaf: Any = None) -> dict[str, Any]:
    return {path_of(path): leaf for path, leaf in tree_flatten_with_path(tree, is_leaf)[0]}


def differentiable(place: str, leaf: Any) -> bool:
    """Whether a leaf is floating or complex. What is no array, or a random key, is refused."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None and not isinstance(leaf, (float, int, complex)):
        raise TypeError(f"{place} is {leaf!r}: keep arrays and None only (equinox.filter(model, is_inexact_array))")
    if dtype is not None and jnp.issubdtype(dtype, prng_key):
        raise TypeError(f"{place} is a random key, not a parameter: put None in its place")
    return jnp.issubdtype(jnp.result_type(leaf) if dtype is None else dtype, jnp.inexact)


def check_updates(updates: Any, params: Any, name: str = "updates") -> None:
    """Refuses updates (their `name`) that do not fit the parameters: structure, shape, dtype. None or float0 fits."""
    have, need = leaves_by_path(updates, is_none), leaves_by_path(updates if params is None else params)
    absent = [path for path, u in have.items() if u is None]
    if missing := [p for p in need if p not in have and not any(p.startswith(f"{a}/") or not a for a in absent)]:
        raise ValueError(f"params[{missing[0]!r}] has no update: put None there to leave it as it is")
    for path, u in have.items():
        if u is None or is_float0(u):
            continue
        if path not in need:
            raise ValueError(f"{name}[{path!r}] has no parameter: params has {_listed(need)}")
        p = need[path]
        if jnp.shape(u) != jnp.shape(p):
            raise ValueError(f"{name}[{path!r}] has shape {jnp.shape(u)}, its parameter has {jnp.shape(p)}")
        for place, leaf in ((name, u), ("params", p)):
            if not differentiable(f"{place}[{path!r}]", leaf):
                raise TypeError(f"{place}[{path!r}] must be floating or complex, got {jnp.result_type(leaf)}")
        if jnp.iscomplexobj(u) != jnp.iscomplexobj(p):
            raise TypeError(f"{name}[{path!r}] is {jnp.result_type(u)}, its parameter {jnp.result_type(p)}")
    try:
        jax.tree.structure(updates, is_leaf=is_none).flatten_up_to(updates if params is None else params)
    except ValueError:
        a, b = jax.tree.structure(updates), jax.tree.structure(params)
        raise ValueError(f"{name} is the tree {a}, params is {b}: their containers differ") from None


def check_slots(slots: Any, expected: Any, exact: bool) -> None:
    """Refuses slots of another optimizer or of other parameters; not `exact`: more slots, or other dtypes, may be."""
    have, need = leaves_by_path(slots), leaves_by_path(expected)
    for path in (*need, *(have if exact else ())):
        if path not in have or path not in need:
            raise ValueError(
                f"the state is not this optimizer's: slot {path!r} is {'missing' if path in need else 'unknown'}. This "
                f"optimizer keeps {_listed(need)}: make the state with init of this optimizer and these parameters"
            )
        a, b = jnp.asarray(have[path]), need[path]
        if a.shape != b.shape or (exact and a.dtype != b.dtype):
            raise ValueError(f"the state is not of these parameters: slot {path!r} is {describe(a)}, not {describe(b)}")
    if exact and (a := jax.tree.structure(slots)) != (b := jax.tree.structure(expected)):
        raise ValueError(f"the state is not this optimizer's: its slots are the tree {a}, not {b}")


def _listed(paths: Any, most: int = 6) -> str:
    shown = ", ".join(map(repr, list(paths)[:most]))
    return f"{shown}, …" if len(paths) > most else shown or "no leaves"


def working_dtype(*trees: Any) -> Any:
    """The widest real dtype of the trees' floating leaves, at least float32."""
    dtypes = {jnp.dtype("float32"), *(jnp.result_type(leaf) for leaf in jax.tree.leaves(trees) if not is_float0(leaf))}
    return max((jnp.finfo(d).dtype for d in dtypes if jnp.issubdtype(d, jnp.inexact)), key=lambda d: d.itemsize)


def widen(x: Any, dtype: Any = None) -> jax.Array:
    """A real array of at least float32, or of `dtype`. A complex one becomes pairs of reals: shape (…, 2)."""
    x = jnp.stack([jnp.real(x), jnp.imag(x)], -1) if jnp.iscomplexobj(x) else x
    return jnp.asarray(x, dtype or working_dtype(x))


def narrow(x: jax.Array, like: Any) -> jax.Array:
    """Undoes `widen`: `x` with the dtype of `like`."""
    x = jax.lax.complex(x[..., 0], x[..., 1]) if jnp.iscomplexobj(like) else x
    return jnp.asarray(x, jnp.result_type(like))
