"""Numeric gradients by finite differences, and gradient checking."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from gradtx.core import leaves_by_path, working_dtype
from gradtx.core.arguments import checked, is_array, outside_traces, traced
from gradtx.core.errors import said
from gradtx.typing import PyTree


@checked
def numeric_gradient(
    loss: Callable[[Any], Any], params: PyTree, step: float = 1e-4, method: Literal["forward", "central"] = "forward"
) -> Any:
    """Approximate the gradient by finite differences, one coordinate at a time.

    Forward: (f(w + h) − f(w)) / h, with an error of about h·f''/2.
    Central: (f(w + h) − f(w − h)) / 2h, with an error of about h²·f'''/6.

    The rounding error of f, divided by h, is added to both: in float32 about 1e-3·f for h = 1e-4. Where it matters, use
    float64 (`jax_enable_x64`) or a larger step. Each difference is divided by the step actually taken, after rounding.

    Args:
      loss: A function from parameters to one real number.
      params: A tree of float32 or float64 arrays.
      step: h, above 0, in units of the parameters.
      method: `"forward"`, one evaluation of the loss per coordinate, or `"central"`, two.

    Returns:
      The gradient, a tree like `params`.

    Raises:
      ValueError: `step` is not above 0, `method` is unknown, or the loss is not one real number.
      TypeError: A parameter is not float32 or float64.

    >>> import jax.numpy as jnp
    >>> numeric_gradient(lambda w: jnp.sum(w["a"] ** 2), {"a": jnp.array([1.0, 2.0])}, step=0.5, method="central")
    {'a': Array([2., 4.], dtype=float32)}
    """
    if not _number("numeric_gradient: step", step) > 0:
        raise ValueError(f"numeric_gradient: step must be above 0, got {said(step)}")
    if method not in ("forward", "central"):
        raise ValueError(f"numeric_gradient: method must be 'forward' or 'central', got {said(method)}")
    _floating("numeric_gradient", params)
    flat, unravel = ravel_pytree(params)
    if not flat.size:
        return params
    at_params = _value_of(loss, params)

    def moved(i, by):
        tree = unravel(flat.at[i].add(by))
        return _value_of(loss, tree), ravel_pytree(tree)[0][i]

    def slope(i):
        ahead, high = moved(i, step)
        behind, low = moved(i, -step) if method == "central" else (at_params, flat[i])
        return ((ahead - behind) / (high - low)).astype(flat.dtype)

    return unravel(jax.lax.map(slope, jnp.arange(flat.size)))


@checked
def check_gradient(
    loss: Callable[[Any], Any],
    params: PyTree,
    gradient: PyTree = None,
    tolerance: float = 1e-2,
    step: float | None = None,
) -> Any:
    """Check a gradient against central differences, leaf by leaf.

    The relative error of a leaf is max|a − n| / max(|a|, |n|), with maxima over its coordinates of the gradient a and
    the numeric gradient n; it is 0 where both are 0.

    Args:
      loss: A function from parameters to one real number.
      params: A tree of float32 or float64 arrays.
      gradient: The gradient to check: a tree like `params`, or a function from parameters to such a tree; None for
        `jax.grad(loss)`.
      tolerance: The largest relative error that passes.
      step: h, the step of the central differences, above 0; None for the cube root of the machine epsilon, 6e-6 in
        float64 and 5e-3 in float32.

    Returns:
      The relative errors, a tree of numbers like `params`.

    Raises:
      ValueError: An error is above `tolerance` or NaN (the message has the path of the worst leaf), or the gradient has
        another structure or other shapes than the parameters.
      TypeError: A parameter is not float32 or float64.

    >>> import jax.numpy as jnp
    >>> check_gradient(lambda w: jnp.sum(w["a"] ** 2), {"a": jnp.ones(2)}, gradient={"a": jnp.ones(2)})
    Traceback (most recent call last):
    ValueError: check_gradient: the gradient at 'a' is off by 0.5, more than 0.01
    """
    outside_traces("check_gradient")
    _floating("check_gradient", params)
    _number("check_gradient: tolerance", tolerance)
    if gradient is None:
        gradient = jax.grad(partial(_value_of, loss))
    if callable(gradient):
        gradient = gradient(params)
    if jax.tree.map(jnp.shape, gradient) != jax.tree.map(jnp.shape, params):
        raise ValueError("check_gradient: the gradient must have the structure and shapes of the parameters")
    cube_root = float(jnp.finfo(working_dtype(params)).eps) ** (1 / 3)
    numeric = numeric_gradient(loss, params, cube_root if step is None else step, "central")

    def error(a, n):
        a, n = np.asarray(a), np.asarray(n)
        size = max(np.max(np.abs(a), initial=0), np.max(np.abs(n), initial=0))
        return float(np.max(np.abs(a - n), initial=0) / size) if size else 0.0

    errors = jax.tree.map(error, gradient, numeric)
    ranked = sorted(leaves_by_path(errors).items(), key=lambda item: (item[1] == item[1], -item[1]))
    if ranked and not ranked[0][1] <= tolerance:
        path, worst = ranked[0]
        place = f" at {path!r}" if path else ""
        raise ValueError(f"check_gradient: the gradient{place} is off by {worst:.3g}, more than {tolerance:g}")
    return errors


def _value_of(loss: Callable[[Any], Any], params: Any) -> Array:
    value = traced("the loss", loss, params)
    if not is_array(value) and not isinstance(value, (float, int)):
        raise TypeError(f"the loss must return one floating number, got {said(value)}")
    value = jnp.asarray(value)
    if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"the loss must return one floating number, got {value.dtype} of shape {value.shape}")
    return value


def _number(place: str, x: Any) -> Any:
    if isinstance(x, bool) or not isinstance(x, (int, float, np.number)):
        raise TypeError(f"{place} must be a number, got {said(x)}")
    return x


def _floating(name: str, params: Any) -> None:
    for path, leaf in leaves_by_path(params).items():
        if not is_array(leaf) and not isinstance(leaf, (float, int, complex)):
            raise TypeError(f"{name}: params[{path!r}] must be an array, got {said(leaf)}")
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits < 32:
            raise TypeError(f"{name}: params[{path!r}] must be float32 or float64, got {dtype}")
