"""Differentially private gradients: each example's is clipped, and noise is added to their sum."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core.arguments import checked, function_of, is_array, one_key
from gradtx.core.errors import said
from gradtx.pieces.formulas import norm
from gradtx.training.gradient_check import _floating, _number, _value_of
from gradtx.typing import PyTree


@checked
def private_gradient(
    loss: Callable[..., Any],
    params: PyTree,
    batch: PyTree,
    key: Array,
    max_norm: float = 1.0,
    noise_multiplier: float = 1.0,
) -> tuple[Array, Any]:
    """Return the mean loss and a differentially private gradient, as DP-SGD uses it (Abadi et al., 2016).

    g = (1/B)·(Σᵢ gᵢ·min(1, C/‖gᵢ‖) + σ·C·z), with gᵢ the gradient of example i and z ~ N(0, I)

    The norms are over all leaves. The gradients of the B examples are computed at once, by `jax.vmap`, which needs the
    memory of B gradients. The mean loss is not private. Compute the privacy that σ, B and the number of steps give with
    an accountant, such as Google's dp-accounting; its batches are drawn at random.

    Args:
      loss: `loss(params, example)`, of one example without its batch axis; it returns one real number.
      params: The parameters, a tree of float32 or float64 arrays.
      batch: The examples: a tree of arrays, whose first axis is the batch.
      key: A random key, another one at each step.
      max_norm: C, the largest norm of an example's gradient, above 0; longer ones are scaled down.
      noise_multiplier: σ, the standard deviation of the noise in units of C, 0 or more.

    Returns:
      `(value, gradient)`: the mean of the losses, and a tree like `params`.

    Raises:
      ValueError: A number is out of its range, the arrays of the batch differ in their first axis, or the loss is not
        one real number.
      TypeError: A parameter is not float32 or float64, or `key` is not one random key.

    Source: Abadi et al. 2016, arXiv 1607.00133, algorithm 1.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> loss = lambda w, x: jnp.sum(w * x)  # whose gradient is x
    >>> batch = jnp.array([[3.0, 4.0], [0.3, 0.4]])
    >>> gx.private_gradient(loss, jnp.zeros(2), batch, jax.random.key(0), noise_multiplier=0.0)[1]
    Array([0.45000002, 0.6       ], dtype=float32)
    """
    if not 0 < _number("private_gradient: max_norm", max_norm) < float("inf"):
        raise ValueError(f"private_gradient: max_norm must be a finite number above 0, got {said(max_norm)}")
    if not 0 <= _number("private_gradient: noise_multiplier", noise_multiplier) < float("inf"):
        raise ValueError(f"private_gradient: noise_multiplier must be 0 or more, got {said(noise_multiplier)}")
    _floating("private_gradient", params)
    key = one_key("private_gradient", key)
    function_of("private_gradient: loss", loss, "params", "example")
    sizes = {jnp.shape(x)[:1] for x in jax.tree.leaves(batch) if is_array(x)}
    if len(sizes) != 1 or not (size := sum(next(iter(sizes)))):
        how = "with 1 example or more"
        raise ValueError(f"private_gradient: batch must be arrays of one first axis, {how}, got {said(batch)}")

    def clipped(example: Any) -> tuple[Array, Any]:
        value, g = jax.value_and_grad(lambda params: _value_of(lambda p: loss(p, example), params))(params)
        leaves = jax.tree.leaves(g)
        length = norm(jnp.stack([norm(x).astype(value.dtype) for x in leaves]))
        factor = max_norm / jnp.maximum(length, max_norm)
        return value, jax.tree.map(lambda x: factor.astype(x.dtype) * x, g)

    values, several = jax.vmap(clipped)(batch)
    leaves, tree = jax.tree.flatten(several)
    spread = noise_multiplier * max_norm
    noisy = [
        (jnp.sum(g, 0) + spread * jax.random.normal(own, g.shape[1:], g.dtype)) / size
        for g, own in zip(leaves, jax.random.split(key, len(leaves)))
    ]
    return jnp.mean(values), tree.unflatten(noisy)
