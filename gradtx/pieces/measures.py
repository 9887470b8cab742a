"""Measures of trees, with all leaves as one vector: for `monitor`, and for pieces."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.dtypes import prng_key

from gradtx.core import leaves_by_path, working_dtype
from gradtx.core.arguments import checked, is_array
from gradtx.core.errors import said
from gradtx.core.trees import as_dtype
from gradtx.pieces.formulas import safe_divide, safe_sqrt


@checked
def global_norm(tree: Any) -> Array:
    """Return the Euclidean norm of a tree, with all leaves as one vector.

    ‖x‖ = √Σ x², in at least float32

    Where the sum of squares overflows or underflows, it is computed again from coordinates scaled by a power of two.

    Args:
      tree: A tree of arrays of numbers. None leaves are skipped.

    Returns:
      The norm, an array of shape ().

    Raises:
      TypeError: A leaf is not an array of numbers.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> float(gx.global_norm({"w": jnp.full((2, 2), 1e30), "b": None})) == jnp.float32(2e30)
    Array(True, dtype=bool)
    """
    _check("global_norm: tree", tree)
    dtype = working_dtype(tree)
    leaves = [x for x in jax.tree.leaves(tree) if jnp.size(x)]

    def squares_of(scaled):
        total = jnp.zeros((), dtype)
        for x in leaves:  # with jax.lax, which traces thousands of leaves faster than jax.numpy
            x = lax.square(scaled(as_dtype(jnp.abs(x) if jnp.iscomplexobj(x) else x, dtype)))
            total = lax.add(total, lax.reduce_sum(x, tuple(range(x.ndim))))
        return total

    info = jnp.finfo(dtype)
    most, plainly = info.max, lambda x: x
    # It raises at squares that overflow: keep them below a bound.
    if jax.config.jax_debug_infs:  # pyright: ignore[reportAttributeAccessIssue]
        root = 2.0 ** ((info.maxexp - sum(map(jnp.size, leaves)).bit_length()) // 2 - 1)
        most, plainly = root**2, lambda x: jnp.clip(x, -root, root)
    squares = squares_of(plainly)
    plain = (squares > info.tiny / info.eps) & (squares < most)
    large = jnp.asarray(2.0 ** (info.maxexp * 5 // 8), dtype)  # divided by it, a billion squares do not overflow
    # A division: XLA turns (f·x)² with a constant f into f²·x², which overflows.
    divisor = jnp.where(plain, 1, jnp.where(squares < 1, 1 / large, large))
    return lax.cond(
        plain,
        lambda: jnp.sqrt(jnp.where(plain, squares, 1)),
        lambda: safe_sqrt(squares_of(lambda x: x / divisor)) * divisor,
    )


@checked
def norm_ratio(a: Any, b: Any) -> Array:
    """Return the ratio of the global norms of two trees, such as updates and parameters.

    ‖a‖ / ‖b‖, and 0 where both are 0

    For updates and parameters, the ratio is the norm of a step relative to the norm of the parameters.

    Args:
      a: The tree of the numerator, arrays of numbers.
      b: The tree of the denominator, arrays of numbers.

    Returns:
      The ratio, an array of shape ().

    Raises:
      TypeError: A leaf is not an array of numbers.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> gx.norm_ratio({"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.0, 10.0])})
    Array(0.5, dtype=float32)
    """
    return safe_divide(global_norm(a), global_norm(b))


@checked
def cosine_similarity(a: Any, b: Any) -> Array:
    """Return the cosine of the angle between two trees, with all leaves as one vector.

    ⟨a, b⟩ / (‖a‖·‖b‖), from −1 to 1, and 0 where either is 0

    Args:
      a: A tree of arrays of numbers.
      b: Another such tree, with the same paths and shapes.

    Returns:
      The cosine, an array of shape ().

    Raises:
      TypeError: A leaf is not an array of numbers.
      ValueError: The paths or shapes of the trees differ.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> gx.cosine_similarity({"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.0, 10.0])})
    Array(0.8, dtype=float32)
    """
    _check("cosine_similarity: a", a)
    _check("cosine_similarity: b", b)
    shapes_a, shapes_b = ({path: jnp.shape(x) for path, x in leaves_by_path(x).items()} for x in (a, b))
    if shapes_a != shapes_b:
        raise ValueError(f"cosine_similarity: a and b must have the same shapes, got {shapes_a} and {shapes_b}")
    of_a, of_b = global_norm(a), global_norm(b)
    products = jax.tree.map(lambda x, y: jnp.sum(safe_divide(x, of_a) * safe_divide(y, of_b)), a, b)
    return sum(jax.tree.leaves(products), jnp.zeros((), of_a.dtype))


def all_finite(*several: Any) -> Array:
    """Return whether every number in the trees is finite. Trees of the first one's structure are traversed together."""
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
    """Return whether any number is NaN, if all others are 0.

    The maximum is first taken over a few neighbours: XLA on a CPU makes and compares many of these at a time, but not
    a maximum over the whole. It compares integers, because a sum of floats may not be reordered.
    """
    integer = jnp.dtype(f"int{8 * zero.dtype.itemsize}")
    marks = lax.bitcast_convert_type(zero, integer) & jnp.iinfo(integer).max  # without the sign bit: 0 may have it
    few = next((n for n in range(32, 1, -1) if marks.ndim and marks.shape[-1] % n == 0), 1)
    if few > 1 and jax.typeof(marks).sharding.spec[-1] is None:  # leave an axis that an explicit mesh divides whole
        marks = jnp.max(marks.reshape(*marks.shape[:-1], -1, few), axis=-1)
    return (marks != 0).any()


def inner_product(a: Any, b: Any) -> Array:
    """Return ⟨a, b⟩, with all leaves as one vector."""
    return _total(jax.tree.map(jnp.multiply, a, b))


def sum_of_sizes(tree: Any) -> Array:
    """Return ‖x‖₁, with all leaves as one vector."""
    return _total(jax.tree.map(jnp.abs, tree))


def _total(tree: Any) -> Array:
    return sum((jnp.sum(x) for x in jax.tree.leaves(tree)), jnp.zeros((), working_dtype(tree)))


def _check(name: str, tree: Any) -> None:
    for path, x in leaves_by_path(tree).items():
        if not isinstance(x, (int, float, complex)) and (not is_array(x) or jnp.issubdtype(x.dtype, prng_key)):
            raise TypeError(f"{name}{path and f'[{path!r}]'} must be an array of numbers, got {said(x)}")
