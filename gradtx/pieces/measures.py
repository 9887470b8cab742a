"""Numbers that measure trees, all leaves as one vector: for `monitor`, and for pieces."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.dtypes import prng_key

from gradtx.core import leaves_by_path, working_dtype
from gradtx.core.arguments import checked, is_array
from gradtx.core.errors import said
from gradtx.pieces.formulas import safe_divide, safe_sqrt


@checked
def global_norm(tree: Any) -> Array:
    r"""The Euclidean norm of all leaves as one vector, √Σ g², in at least float32.

    Where the sum of squares overflows or underflows, it is taken again of the coordinates times a power of two.

    >>> import jax.numpy as jnp
    >>> float(global_norm({"w": jnp.full((2, 2), 1e30), "b": None})) == jnp.float32(2e30)
    Array(True, dtype=bool)
    """
    _check("global_norm: tree", tree)
    dtype = working_dtype(tree)
    leaves = [x for x in jax.tree.leaves(tree) if jnp.size(x)]

    def squares_of(divisor):  # as a factor, of constants XLA would make (f·x)² = f²·x², which overflows
        return sum((jnp.sum(jnp.square(jnp.abs(x).astype(dtype) / divisor)) for x in leaves), jnp.zeros((), dtype))

    squares, info = squares_of(1), jnp.finfo(dtype)
    plain = (squares > info.tiny / info.eps) & (squares < info.max)
    large = jnp.asarray(2.0 ** (info.maxexp * 5 // 8), dtype)  # with it, a billion squares do not overflow
    divisor = jnp.where(squares < 1, 1 / large, large)
    return jax.lax.cond(
        plain, lambda: jnp.sqrt(jnp.where(plain, squares, 1)), lambda: safe_sqrt(squares_of(divisor)) * divisor
    )


@checked
def norm_ratio(a: Any, b: Any) -> Array:
    """‖a‖ / ‖b‖, and 0 where both are 0: of updates and parameters, how far a step goes.

    >>> import jax.numpy as jnp
    >>> norm_ratio({"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.0, 10.0])})
    Array(0.5, dtype=float32)
    """
    return safe_divide(global_norm(a), global_norm(b))


@checked
def cosine_similarity(a: Any, b: Any) -> Array:
    """⟨a, b⟩ / (‖a‖·‖b‖), from −1 to 1, and 0 where either is 0.

    >>> import jax.numpy as jnp
    >>> cosine_similarity({"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.0, 10.0])})
    Array(0.8, dtype=float32)
    """
    _check("cosine_similarity: a", a)
    _check("cosine_similarity: b", b)
    shapes_a, shapes_b = ({path: jnp.shape(x) for path, x in leaves_by_path(x).items()} for x in (a, b))
    if shapes_a != shapes_b:
        raise ValueError(f"cosine_similarity: a and b must be alike, got the shapes {shapes_a} and {shapes_b}")
    of_a, of_b = global_norm(a), global_norm(b)
    products = jax.tree.map(lambda x, y: jnp.sum(safe_divide(x, of_a) * safe_divide(y, of_b)), a, b)
    return sum(jax.tree.leaves(products), jnp.zeros((), of_a.dtype))


def all_finite(*several: Any) -> Array:
    """Whether every number in the trees is finite. Those of the first one's structure are gone through together."""
    structure = jax.tree.structure(several[0])

    def alike(x: Any) -> bool:
        return jax.tree.structure(x) == structure

    parts = jax.tree.leaves(several, is_leaf=alike)
    columns = [jax.tree.leaves(part) for part in parts if alike(part)]
    groups = {}
    for i, row in enumerate([*zip(*columns), *([part] for part in parts if not alike(part))]):
        for x in map(jnp.asarray, row):
            if x.size and jnp.issubdtype(x.dtype, jnp.inexact):
                zero = x * 0 if jnp.isrealobj(x) else jnp.real(x) * 0 + jnp.imag(x) * 0  # NaN where x is not finite
                groups.setdefault((i, zero.shape, zero.dtype), []).append(zero)
    return ~jnp.stack([_any_nan(sum(group)) for group in groups.values()] or [jnp.array(False)]).any()


def _any_nan(zero: Any) -> Array:
    """Whether any is NaN, the others being 0: first of a few neighbours, of which XLA on a CPU, unlike of the whole,
    makes and compares many at a time; as integers, for a sum of floats may not be taken in another order."""
    integer = jnp.dtype(f"int{8 * zero.dtype.itemsize}")
    marks = jax.lax.bitcast_convert_type(zero, integer) & jnp.iinfo(integer).max  # all but the sign, which 0 has too
    few = next((n for n in range(32, 1, -1) if marks.ndim and marks.shape[-1] % n == 0), 1)
    if few > 1 and jax.typeof(marks).sharding.spec[-1] is None:  # what an explicit mesh divides stays whole
        marks = jnp.max(marks.reshape(*marks.shape[:-1], -1, few), axis=-1)
    return (marks != 0).any()


def inner_product(a: Any, b: Any) -> Array:
    """⟨a, b⟩, of all leaves as one vector."""
    return _total(jax.tree.map(jnp.multiply, a, b))


def sum_of_sizes(tree: Any) -> Array:
    """‖x‖₁, of all leaves as one vector."""
    return _total(jax.tree.map(jnp.abs, tree))


def _total(tree: Any) -> Array:
    return sum((jnp.sum(x) for x in jax.tree.leaves(tree)), jnp.zeros((), working_dtype(tree)))


def _check(name: str, tree: Any) -> None:
    for path, x in leaves_by_path(tree).items():
        if not isinstance(x, (int, float, complex)) and (not is_array(x) or jnp.issubdtype(x.dtype, prng_key)):
            raise TypeError(f"{name}{path and f'[{path!r}]'} must be an array of numbers, got {said(x)}")
