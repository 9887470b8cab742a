"""Access to the extra arguments `value` and `weight` of `update`."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, Transformation
from gradtx.core.errors import describe, said


def value_of(tx: Transformation, context: Context, dtype: Any, name: str = "value") -> Array:
    """Return the extra argument `value`, or another one, one real number, in the given dtype."""
    value = context.extra[name]
    kind = "f" if isinstance(value, (int, float, complex)) else getattr(getattr(value, "dtype", None), "kind", "O")
    if kind == "O":  # not an array, or a random key
        raise TypeError(f"{type(tx).__name__}: {name} must be one real number, got {said(value)}")
    if jnp.shape(value) or jnp.iscomplexobj(value):
        raise ValueError(f"{type(tx).__name__}: {name} must be one real number, got {describe(jnp.asarray(value))}")
    return jnp.asarray(value, dtype)
