"""Random search over normally distributed parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from gradtx.core.arguments import checked, one_key
from gradtx.core.errors import said
from gradtx.training.gradient_check import _floating, _number, _value_of
from gradtx.typing import PyTree


class Found(NamedTuple):
    """Best draw of a random search: its parameters and its loss."""

    params: Any
    loss: Array


@checked
def random_search(
    loss: Callable[[Any], Any], params: PyTree, key: Array, draws: int = 10_000, scale: float = 1.0
) -> Found:
    """Random search: draw parameters from N(0, scale²) and return the draw of the lowest loss.

    Draws whose loss is NaN are skipped. The search is compiled as one loop, which holds two draws in memory.

    Args:
      loss: A function from parameters to one real number.
      params: A tree of float32 or float64 arrays that gives the shapes of the draws; its values are not used.
      key: A random key, from `jax.random.key`.
      draws: The number of draws, 1 or more.
      scale: The standard deviation of each coordinate, in units of the parameters.

    Returns:
      `(params, loss)` of the best draw; parameters of NaN and a loss of ∞ if no draw had a loss below ∞.

    Raises:
      ValueError: `draws` is below 1, or the loss is not one real number.
      TypeError: A parameter is not float32 or float64.

    >>> import jax, jax.numpy as jnp
    >>> params, loss = random_search(lambda w: jnp.sum((w - 1) ** 2), jnp.zeros(2), jax.random.key(0))
    >>> bool(loss < 1e-2)
    True
    """
    if type(draws) is not int or draws < 1:
        raise ValueError(f"random_search: draws must be an integer, at least 1, got {said(draws)}")
    scale, key = _number("random_search: scale", scale), one_key("random_search", key)
    _floating("random_search", params)
    flat, unravel = ravel_pytree(params)

    def draw(best, key):
        candidate = scale * jax.random.normal(key, flat.shape, flat.dtype)
        value = _value_of(loss, unravel(candidate))
        better = value < best[1]
        return (jnp.where(better, candidate, best[0]), jnp.where(better, value, best[1])), None

    dtype = jax.eval_shape(lambda w: _value_of(loss, w), params).dtype
    start = (jnp.full_like(flat, jnp.nan), jnp.asarray(jnp.inf, dtype))
    (best, value), _ = jax.lax.scan(draw, start, jax.random.split(key, draws))
    return Found(unravel(best), value)
