"""Pieces that map each coordinate by itself and remember nothing."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, NonNegative, PerLeaf, Scalar, Slots, Transformation
from gradtx.pieces.formulas import safe_sqrt


class identity(Transformation):
    """Leaves the updates as they are: the unit of `chain`.   u = g"""

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        return updates, slots


class Map(PerLeaf):
    """A function of each coordinate, without memory: a subclass defines `map`."""

    def map(self, g: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} must define map")

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        return self.map(g), slots


class scale(Map):
    """Multiplies the updates by a factor.   u = c·g

    Args:
      factor: c, of any sign.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.scale(0.5)
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))[0]
    Array([1.], dtype=float32)
    """

    factor: Scalar

    def map(self, g: Array) -> Array:
        return self.factor * g


class scale_by_learning_rate(Map):
    """Turns a direction of ascent into a step downhill: the last piece of a recipe.   u = −η·g

    Args:
      learning_rate: η, 0 or more, in units of the parameters for one unit of the incoming updates.
    """

    learning_rate: NonNegative = 1e-3

    def map(self, g: Array) -> Array:
        return -self.learning_rate * g


class add_constant(Map):
    """Adds a constant to each coordinate.   u = g + c

    Args:
      constant: c, in units of the updates.
    """

    constant: Scalar

    def map(self, g: Array) -> Array:
        return g + self.constant


class square(Map):
    """u = g²"""

    def map(self, g: Array) -> Array:
        return g * g


class sqrt(Map):
    """u = √g, and 0 where g ≤ 0; its derivative at 0 is taken as 0, so that hypergradients stay finite."""

    def map(self, g: Array) -> Array:
        return safe_sqrt(g)


class absolute(Map):
    """u = |g|"""

    def map(self, g: Array) -> Array:
        return jnp.abs(g)


class sign(Map):
    """u = sign(g): −1, 0 or 1.

    Source: Bernstein et al. 2018, arXiv 1802.04434 (signSGD).
    """

    def map(self, g: Array) -> Array:
        return jnp.sign(g)
