"""Trees of arrays: compilation, paths, precision and sharding."""

import functools
import operator
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jax.dtypes import float0, prng_key
from jax.tree_util import DictKey, GetAttrKey, keystr, tree_flatten_with_path

from gradtx.core.arguments import is_array, live
from gradtx.core.errors import said

Function = TypeVar("Function", bound=Callable[..., Any])
NOTHING: Any = object()  # what is emitted where the parameters stay as they are: see `Transformation.finish_tree`
_ARRAYS: set[type] = {float, int, complex, bool}  # types of concrete leaves: these, and those met since


def compiled(function: Function) -> Function:
    """`function`, run through one cached `jax.jit` when every leaf of its arguments is a concrete array."""
    jitted = jax.jit(function)

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        for leaf in jax.tree.leaves((args, named)):
            if type(leaf) not in _ARRAYS:
                if isinstance(leaf, (Tracer, jax.ShapeDtypeStruct)) or not is_array(leaf):
                    return function(*args, **named)
                if isinstance(leaf, jax.Array):
                    _ARRAYS.add(type(leaf))
        try:
            return jitted(*args, **named)
        except (RuntimeError, OverflowError):
            for path, leaf in leaves_by_path(dict(zip(function.__code__.co_varnames, args)) | named).items():
                live(path, leaf)
            raise

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
    several = tree_flatten_with_path(tree, is_leaf)[0]
    leaves = {path_of(path): leaf for path, leaf in several}
    if len(leaves) < len(several):
        raise ValueError(f"two leaves have one path, of {list(leaves)}: a name with / in it is another's path")
    return leaves


def differentiable(place: str, leaf: Any) -> bool:
    """Whether a leaf is floating or complex. What is no array, or a random key, is refused."""
    if not isinstance(leaf, (float, int, complex)) and not is_array(leaf):
        raise TypeError(f"{place} is {said(leaf)}: keep arrays and None only (equinox.filter(model, is_inexact_array))")
    live(place, leaf)
    dtype = getattr(leaf, "dtype", None) or jnp.result_type(leaf)
    if jnp.issubdtype(dtype, prng_key):
        raise TypeError(f"{place} is a random key, not a parameter: put None in its place")
    return jnp.issubdtype(dtype, jnp.inexact)


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


def sharded(slot: Any, param: Any) -> Any:
    """The slot, sharded as its parameter under `jit` too, which would replicate it or leave it on one device."""
    if not isinstance(param, Tracer) or slot.shape != (param := widen(param)).shape:
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
