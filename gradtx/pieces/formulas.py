"""Numerically careful formulas on arrays."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

inlined = partial(jax.jit, inline=True)  # traced once for all leaves of one shape


@inlined
def lerp(a: Array, b: Array, keep: Array) -> Array:
    """Return `keep·a + (1 − keep)·b`."""
    return keep * a + (1 - keep) * b


@inlined
def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return a + b, rounded, and its rounding error, exactly (Knuth's TwoSum). XLA does not reassociate it."""
    total = a + b
    added = total - a
    return total, (a - (total - added)) + (b - added)


@inlined
def safe_sqrt(x: Any) -> Array:
    """Return √x, with derivative 0 at 0; a negative number, a rounded 0, gives 0."""
    zero = x <= 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


@inlined
def hypot(a: Array, b: Array) -> Array:
    """Return √(a² + b²), also where the squares overflow or underflow, with derivative 0 at 0."""
    large, small = jnp.maximum(jnp.abs(a), jnp.abs(b)), jnp.minimum(jnp.abs(a), jnp.abs(b))
    return large * jnp.sqrt(1 + jnp.square(safe_divide(small, large)))


@inlined
def safe_power(x: Any, exponent: Any) -> Array:
    """Return xᵖ for p of 0 or more, with derivative 0 at 0; a negative number gives 0, as 0 does, or 1 where p is 0."""
    zero = x <= 0
    return jnp.where(zero & (exponent > 0), 0, jnp.where(zero, 1, x) ** exponent)


@inlined
def safe_divide(a: Any, b: Any) -> Array:
    """Return a / b, where 0/0 is 0 and has derivative 0."""
    zero = (a == 0) & (b == 0)  # the first `where` also keeps XLA from making a / (b·c) of a / b / c: it overflows
    return jnp.where(zero, 0, a / jnp.where(zero, 1, b))


def maximum(x: Array, axes: tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """Return the maximum over all axes or over some; 0 if there are no numbers, of which `jnp.max` is −∞."""
    return (jnp.max if x.size else jnp.sum)(x, axis=axes, keepdims=keepdims)


def norm(x: Array, axes: tuple[int, ...] | None = None) -> Array:
    """Return ‖x‖ over all axes, or over some, kept with size 1; accurate at any scale, with derivative 0 at 0."""
    keep = axes is not None
    largest = jax.lax.stop_gradient(maximum(jnp.abs(x), axes, keep))
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return unit * safe_sqrt(jnp.sum(jnp.square(x / unit), axis=axes, keepdims=keep))


def unit(x: Array, axes: tuple[int, ...] | None = None) -> Array:
    """Return x / ‖x‖ over all axes or over some, at any scale; 0 for 0, with derivative 0 there."""
    largest = jax.lax.stop_gradient(maximum(jnp.abs(x), axes, True))
    x = x / jnp.where(largest > 0, largest, 1)  # the quotient does not depend on this scale
    return safe_divide(x, safe_sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True)))


def tangent(u: Array, x: Array, axes: tuple[int, ...] | None = None) -> Array:
    """Return the component of u orthogonal to x, over all axes or over some: u − x̂⟨x̂, u⟩, x̂ = x/‖x‖."""
    along = unit(x, axes)
    return u - along * jnp.sum(along * u, axis=axes, keepdims=axes is not None)


def cosine(a: Array, b: Array, axes: tuple[int, ...] | None = None) -> Array:
    """Return ⟨a, b⟩ / (‖a‖·‖b‖), over all axes or over some; 0 where either is 0."""
    return jnp.sum(unit(a, axes) * unit(b, axes), axis=axes, keepdims=axes is not None)
