"""Accessors for the extra arguments of `update`: `value`, `weight`, `key`."""

from typing import Any
from zlib import crc32

import jax
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


def one_key(place: str, key: Any) -> Array:
    """Return `key` if it is one random key, typed or uint32[2]; else raise a TypeError that names the place."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if shape != () if typed else (dtype, shape) != (jnp.uint32, (2,)):
        raise TypeError(f"{place}: key must be one random key, jax.random.key(0), got {said(key)}")
    return key


def key_of(tx: Transformation, context: Context, path: str) -> Array:
    """Derive a random key for a leaf at this step from the extra argument `key`, which may stay the same."""
    key = one_key(type(tx).__name__, context.extra["key"])
    return jax.random.fold_in(jax.random.fold_in(key, context.step), crc32(path.encode()))
