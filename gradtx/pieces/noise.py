"""Gradient noise."""

import jax
from jax import Array

from gradtx.core import Context, NonNegative, PerLeaf, Slots
from gradtx.pieces.formulas import safe_sqrt


class add_noise(PerLeaf):
    """Add normal noise whose variance decays (Neelakantan et al., 2015).

    u = g + n,  n ~ N(0, η/tᵞ)

    Needs `key`. The noise depends on the key, the step and the leaf's path, so one key may be used at every step; two
    `add_noise` pieces in one optimizer add the same noise.

    Args:
      variance: η, the variance of the first noise, 0 or more, in squared units of the updates.
      power: γ, the exponent of the variance's decay, 0 or more.

    Source: Neelakantan et al. 2015, arXiv 1511.06807, equation 1, with steps from 0 there.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.add_noise(0.01)
    >>> state = tx.init(jnp.zeros(10_000))
    >>> u, _ = tx.update(jnp.zeros(10_000), state, key=jax.random.key(0))
    >>> bool(abs(u.var() - 0.01) < 0.001)
    True
    """

    variance: NonNegative = 1e-2
    power: NonNegative = 0.55

    formula = "u = g + normal(0, variance / t**power)"
    needs = ("key",)
    counts = True

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        variance = self.variance / context.age.astype(g.dtype) ** self.power
        return g + safe_sqrt(variance) * jax.random.normal(context.key, g.shape, g.dtype), slots
