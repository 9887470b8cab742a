"""A piece that measures the curvature of the loss."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import tree_map_with_path

from gradtx.core import Context, Slots, Transformation, path_of
from gradtx.core.errors import said
from gradtx.pieces.extra import key_of


class hessian_diagonal(Transformation):
    r"""Hutchinson's estimate of the diagonal of the loss's Hessian, whatever the updates are.   u = z ⊙ (H·z)

    z is ±1 at random, anew at every step and in every leaf. The mean of z ⊙ (H·z) is the diagonal, its variance that
    of the other elements of H: the estimate is exact where there are none. It needs `params`, a random `key`, which may
    be the same at every step, and `hvp`, which makes H·v of a tree v like the parameters, in three lines:

        grad = jax.grad(lambda params: loss(params, batch))
        hvp = lambda v: jax.jvp(grad, (params,), (v,))[1]
        updates, state = tx.update(grad(params), state, params, hvp=hvp, key=key)

    H·z costs about two gradients: `every` measures it less often.

    Args:
      spatial: For the kernels of convolutions, leaves of three axes or more: whether their spatial axes are the
        `"first"` (Flax: height, width, in, out) or the `"last"` (Equinox, PyTorch). The estimate is then averaged over
        these. None to leave it as it is.

    Raises `ValueError` if an update is not given what is needed, or if `hvp` makes no tree like the parameters.

    Source: Bekas, Kokiopoulou and Saad 2007; the average is Yao et al. 2020, arXiv 2006.00719, equation 10.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx, params = gx.hessian_diagonal(), jnp.array([1.0, 2.0])
    >>> grad = jax.grad(lambda w: jnp.sum(w**3))
    >>> hvp = lambda v: jax.jvp(grad, (params,), (v,))[1]
    >>> tx.update(grad(params), tx.init(params), params, hvp=hvp, key=jax.random.key(0))[0]
    Array([ 6., 12.], dtype=float32)
    """

    spatial: str | None = None

    needs = ("params", "hvp", "key")
    formula = "z = signs(t); u = averaged(z * hvp(z)) if spatial else z * hvp(z)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spatial not in (None, "first", "last"):
            raise ValueError(f"hessian_diagonal: spatial must be None, 'first' or 'last', got {said(self.spatial)}")

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        def signs(path, g):
            key = key_of(self, context, path_of(path))
            return jax.random.rademacher(key, g.shape, g.dtype, out_sharding=jax.typeof(g).sharding)

        z = tree_map_with_path(signs, updates)
        diagonal = jax.tree.map(jnp.multiply, z, context.extra["hvp"](z))
        return jax.tree.map(self._averaged, diagonal) if self.spatial else diagonal, slots

    def _averaged(self, h: jax.Array) -> jax.Array:
        axes = range(h.ndim - 2) if self.spatial == "first" else range(2, h.ndim)
        return jnp.broadcast_to(jnp.mean(h, tuple(axes), keepdims=True), h.shape)
