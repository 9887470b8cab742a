"""Numbers that measure trees, all leaves as one vector: for `monitor`, and for pieces."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.arguments import checked, is_array, said
from gradtx.core import leaves_by_path, working_dtype
from gradtx.pieces.formulas import safe_divide, safe_sqrt


@checked
def global_norm(tree: Any) -> Array:
    r"""The Euclidean norm of all leaves as one vector, √Σ g², in at least float32.

    Where the plain sum of squares overflows or underflows, it is taken again of the coordinates divided by the largest.

    >>> import jax.numpy as jnp
    >>> float(global_norm({"w": jnp.full((2, 2), 1e30), "b": None})) == jnp.float32(2e30)
    Array(True, dtype=bool)
    """
    _check("global_norm: tree", tree)
    dtype = working_dtype(tree)
    leaves = [jnp.abs(x).astype(dtype) for x in jax.tree.leaves(tree) if jnp.size(x)]
    if not leaves:
        return jnp.zeros((), dtype)

    def of(divisor):
        return safe_sqrt(sum(jnp.sum(jnp.square(x / divisor)) for x in leaves))

    def scaled():
        largest = jnp.max(jnp.stack([jnp.max(x) for x in leaves]))
        usable = (largest > 0) & jnp.isfinite(largest)
        return jnp.where(usable, largest * of(jnp.where(usable, largest, 1)), largest)

    squares = sum(jnp.sum(jnp.square(x)) for x in leaves)
    low, high = jnp.finfo(dtype).tiny / jnp.finfo(dtype).eps, jnp.finfo(dtype).max
    plain = (squares > low) & (squares < high)
    return jax.lax.cond(plain, lambda: jnp.sqrt(jnp.where(plain, squares, 1)), scaled)


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
        if not is_array(x) and not isinstance(x, (int, float, complex)):
            raise TypeError(f"{name}{path and f'[{path!r}]'} must be an array, got {said(x)}")
