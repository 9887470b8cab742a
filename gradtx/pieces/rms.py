"""Pieces that go by the root mean square of a leaf."""

import math

import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, NonNegative, PerLeaf, Positive, Slots
from gradtx.pieces.formulas import norm, unit
from gradtx.pieces.scaling import Map


def root_mean_square(x: Array) -> Array:
    """√mean(x²), also where the squares are no floats; its derivative at 0 is 0."""
    return norm(x) / math.sqrt(max(x.size, 1))


class clip_by_rms(PerLeaf):
    r"""Shortens each leaf of the updates to a root mean square of at most c.   u = g · min(1, c / rms(g))

    Right wherever the norm of the leaf is within the dtype, if its square is not. A NaN or an infinity makes every
    coordinate of its leaf NaN.

    Args:
      max_rms: c, above 0, in units of the updates.

    Source: Shazeer and Stern 2018, arXiv 1804.04235, section 6.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.clip_by_rms(1.0)
    >>> tx.update(jnp.array([4.0, 0.0, 0.0, 0.0]), tx.init(jnp.zeros(4)))[0]
    Array([2., 0., 0., 0.], dtype=float32)
    """

    max_rms: Positive = 1.0

    formula = "u = g * min(1, max_rms / rms(g))"

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        rms = root_mean_square(g)
        factor = jnp.where(rms > self.max_rms, self.max_rms / jnp.where(rms > 0, rms, 1), 1)
        return jnp.where(jnp.isfinite(rms), factor, jnp.nan) * g, slots


class unit_rms(Map):
    """Divides each leaf by its root mean square.   u = g / rms(g), and 0 for 0

    Source: Pethick et al. 2025, arXiv 2502.07529 (biases).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.unit_rms()
    >>> tx.update(jnp.array([1.0, -7.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 0.2, -1.4], dtype=float32)
    """

    formula = "u = g / rms(g)"

    def map(self, g: Array) -> Array:
        return math.sqrt(g.size) * unit(g)


class scale_by_param_rms(PerLeaf):
    r"""Multiplies each leaf of the updates by the size of its parameters.   u = max(rms(θ), c) · g

    Behind updates of size 1, the learning rate is then a share of the parameters a step.

    Args:
      floor: c, 0 or more, the least size, in units of the parameters: what starts at 0 can leave it.

    Source: Shazeer and Stern 2018, arXiv 1804.04235, section 8.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.scale_by_param_rms(), jnp.array([3.0, -3.0, 3.0, 3.0])
    >>> tx.update(jnp.array([1.0, 0.5, 0.0, 0.0]), tx.init(params), params)[0]
    Array([3. , 1.5, 0. , 0. ], dtype=float32)
    """

    floor: NonNegative = 1e-3

    formula = "u = max(rms(θ), floor) * g"
    needs = ("params",)

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        return jnp.maximum(root_mean_square(context.params), self.floor) * g, slots
