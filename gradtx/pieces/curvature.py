"""The curvature of the loss: a stochastic estimate of the Hessian's diagonal."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradtx.core import Context, Slots, Transformation, path_of
from gradtx.core.trees import map_with_path


class hessian_diagonal(Transformation):
    """Hutchinson's estimate of the diagonal of the loss's Hessian (Bekas, Kokiopoulou and Saad, 2007).

    u = z ⊙ (H·z)

    The values of the incoming updates are ignored. z is a vector of random signs, ±1, drawn anew at every step and in
    every leaf. The expectation of z ⊙ (H·z) is the diagonal. Its variance comes from the other elements of H, so the
    estimate is exact where these are 0. It needs `params`, a random `key`, which may be the same at every step, and
    `hvp`, a function that computes H·v for a tree v like the parameters, in three lines:

        grad = jax.grad(lambda params: loss(params, batch))
        hvp = lambda v: jax.jvp(grad, (params,), (v,))[1]
        updates, state = tx.update(grad(params), state, params, hvp=hvp, key=key)

    H·z costs about two gradients. Wrap the piece in `every` to estimate the diagonal less often.

    Args:
      spatial: The place of the spatial axes of convolution kernels, leaves of three axes or more: `"first"` (Flax:
        height, width, in, out) or `"last"` (Equinox, PyTorch). The estimate is then averaged over these axes. None
        leaves the estimate as it is.

    Raises:
      ValueError: `update` lacks `params`, `key` or `hvp`, or `hvp` does not return a tree like the parameters.
      TypeError: `key` is not one random key.

    Source: Bekas, Kokiopoulou and Saad 2007; the average is Yao et al. 2020, arXiv 2006.00719, equation 10.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx, params = gx.hessian_diagonal(), jnp.array([1.0, 2.0])
    >>> grad = jax.grad(lambda w: jnp.sum(w**3))
    >>> hvp = lambda v: jax.jvp(grad, (params,), (v,))[1]
    >>> tx.update(grad(params), tx.init(params), params, hvp=hvp, key=jax.random.key(0))[0]
    Array([ 6., 12.], dtype=float32)
    """

    spatial: Literal["first", "last"] | None = None

    needs = ("params", "hvp", "key")
    formula = "z = signs(t); u = averaged(z * hvp(z)) if spatial else z * hvp(z)"

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        def signs(path, g):
            key = context.key_of(path_of(path))
            return jax.random.rademacher(key, g.shape, g.dtype, out_sharding=jax.typeof(g).sharding)

        z = map_with_path(signs, updates)
        diagonal = jax.tree.map(jnp.multiply, z, context.extra["hvp"](z))
        return jax.tree.map(self._averaged, diagonal) if self.spatial else diagonal, slots

    def _averaged(self, h: jax.Array) -> jax.Array:
        axes = range(h.ndim - 2) if self.spatial == "first" else range(2, h.ndim)
        return jnp.broadcast_to(jnp.mean(h, tuple(axes), keepdims=True), h.shape)
