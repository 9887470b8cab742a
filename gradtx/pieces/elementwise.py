"""Stateless transformations of each coordinate."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, NonNegative, PerLeaf, Scalar, Slots, Transformation
from gradtx.core.root import separable
from gradtx.pieces.formulas import safe_power, safe_sqrt


class identity(Transformation):
    """Return the updates unchanged: the neutral element of `chain`.

    u = g

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.identity()
    >>> tx.update(jnp.array([4.0, -1.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 4., -1.], dtype=float32)
    """

    linear = True
    elementwise = True
    emits = "updates"
    formula = "u = g"

    @separable
    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        return updates, slots


class Map(PerLeaf):
    """Base class of stateless functions of a leaf: a subclass defines `map`."""

    init_tree = Transformation.init_tree  # no slots, and no traversal of the leaves

    def map(self, g: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} must define map")

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        return self.map(g), slots


class zero_nonfinite(Map):
    """Replace each coordinate of the updates that is NaN or infinite by 0.

    u = g where g is finite, else 0

    It hides the fault: the other coordinates of a gradient that is not finite are often wrong too. `skip_nonfinite`
    skips the whole update instead, and counts it. A complex number becomes 0 in the part that is not finite.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.zero_nonfinite()
    >>> tx.update(jnp.array([4.0, jnp.nan, -jnp.inf]), tx.init(jnp.zeros(3)))[0]
    Array([4., 0., 0.], dtype=float32)
    """

    elementwise = True
    emits = "updates"
    formula = "u = finite(g)"

    def map(self, g: Array) -> Array:
        return jnp.where(jnp.isfinite(g), g, 0)


class scale(Map):
    """Multiply the updates by a factor.

    u = c·g

    Args:
      factor: c, of any sign.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.scale(0.5)
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))[0]
    Array([1.], dtype=float32)
    """

    factor: Scalar

    linear = True
    elementwise = True
    formula = "u = factor * g"

    def map(self, g: Array) -> Array:
        return self.factor * g


class scale_by_learning_rate(Map):
    """Multiply the updates by the negative learning rate: the last piece of a recipe.

    u = −η·g

    The incoming updates point in a direction of ascent, such as the gradient; the outgoing step goes downhill.

    A rate below 0 would go uphill. It raises an error where it is known: a number, or a schedule at step 0. A schedule
    that falls below 0 later is not seen inside a compiled update: bound your own with `jnp.maximum(rate, 0)`. The
    schedules of gradtx are 0 or more at all steps if their numbers are.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. It is in units of the
        parameters for one unit of the incoming updates.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.scale_by_learning_rate(0.5)
    >>> tx.update(jnp.array([4.0, -1.0]), tx.init(jnp.zeros(2)))[0]
    Array([-2. ,  0.5], dtype=float32)
    """

    learning_rate: NonNegative = 1e-3

    linear = True
    elementwise = True
    formula = "u = -learning_rate * g"

    def map(self, g: Array) -> Array:
        return -self.learning_rate * g


class scale_by_step(PerLeaf):
    """Multiply the updates by a power of the step number.

    u = tᵖ·g

    Args:
      power: p, of any sign.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.scale_by_step(2.0)
    >>> gradients, start = jnp.array([1.0, 1.0, 1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([1., 4., 9.], dtype=float32)
    """

    power: Scalar

    linear = True
    elementwise = True
    formula = "u = t**power * g"
    counts = True

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        return context.age.astype(g.dtype) ** self.power * g, slots


class add_constant(Map):
    """Add a constant to each coordinate of the updates.

    u = g + c

    Args:
      constant: c, of any sign, in units of the updates.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.add_constant(0.5)
    >>> tx.update(jnp.array([4.0, -1.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 4.5, -0.5], dtype=float32)
    """

    constant: Scalar

    elementwise = True
    emits = "updates"  # the constant is 0 or more where the sign matters: an ε added to squares
    formula = "u = g + constant"

    def map(self, g: Array) -> Array:
        return g + self.constant


class lower_bound(Map):
    """Raise each coordinate of the updates to at least a lower bound.

    u = max(g, c)

    Args:
      least: c, the lower bound, of any sign, in units of the updates.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.lower_bound(0.5)
    >>> tx.update(jnp.array([4.0, -1.0]), tx.init(jnp.zeros(2)))[0]
    Array([4. , 0.5], dtype=float32)
    """

    least: Scalar

    elementwise = True
    formula = "u = max(g, least)"

    def map(self, g: Array) -> Array:
        return jnp.maximum(g, self.least)


class ones(Map):
    """Return 1 for every coordinate, whatever the updates are: a denominator that leaves the direction unscaled.

    u = 1

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.ones()
    >>> tx.update(jnp.array([4.0, -1.0]), tx.init(jnp.zeros(2)))[0]
    Array([1., 1.], dtype=float32)
    """

    elementwise = True
    emits = "nonnegative"
    formula = "u = 1"

    def map(self, g: Array) -> Array:
        return jnp.ones_like(g)


class square(Map):
    """Square each coordinate of the updates.

    u = g²

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.square()
    >>> tx.update(jnp.array([4.0, -1.0]), tx.init(jnp.zeros(2)))[0]
    Array([16.,  1.], dtype=float32)
    """

    elementwise = True
    emits = "nonnegative"
    formula = "u = g**2"

    def map(self, g: Array) -> Array:
        return g * g


class sqrt(Map):
    """Take the square root of each coordinate of the updates.

    u = √g, and 0 where g ≤ 0

    The derivative at 0 is taken as 0, so that hypergradients stay finite.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.sqrt()
    >>> tx.update(jnp.array([4.0, -1.0]), tx.init(jnp.zeros(2)))[0]
    Array([2., 0.], dtype=float32)
    """

    elementwise = True
    emits = "nonnegative"
    formula = "u = sqrt(g)"

    def map(self, g: Array) -> Array:
        return safe_sqrt(g)


class power(Map):
    """Raise each coordinate of the updates to a power.

    u = gᵖ, and 0 where g ≤ 0

    The derivative at 0 is taken as 0, so that hypergradients stay finite.

    Args:
      exponent: p, 0 or more; 0 gives 1 everywhere.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.power(1.5)
    >>> tx.update(jnp.array([4.0, -1.0]), tx.init(jnp.zeros(2)))[0]
    Array([8., 0.], dtype=float32)
    """

    exponent: NonNegative

    elementwise = True
    emits = "nonnegative"
    formula = "u = max(g, 0) ** exponent"

    def map(self, g: Array) -> Array:
        return safe_power(g, self.exponent)


class sigmoid(Map):
    """Apply the logistic sigmoid to each coordinate of the updates.

    u = 1 / (1 + e⁻ᵍ)

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.sigmoid()
    >>> tx.update(jnp.array([0.0, 100.0]), tx.init(jnp.zeros(2)))[0]
    Array([0.5, 1. ], dtype=float32)
    """

    elementwise = True
    emits = "nonnegative"
    formula = "u = 1 / (1 + exp(-g))"

    def map(self, g: Array) -> Array:
        return jax.nn.sigmoid(g)


class abs(Map):
    """Take the absolute value of each coordinate of the updates.

    u = |g|

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.abs()
    >>> tx.update(jnp.array([4.0, -1.0]), tx.init(jnp.zeros(2)))[0]
    Array([4., 1.], dtype=float32)
    """

    elementwise = True
    emits = "nonnegative"
    formula = "u = abs(g)"

    def map(self, g: Array) -> Array:
        return jnp.abs(g)


class sign(Map):
    """Take the sign of each coordinate of the updates (signSGD; Bernstein et al., 2018).

    u = sign(g): −1, 0 or 1

    Source: Bernstein et al. 2018, arXiv 1802.04434 (signSGD).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.sign()
    >>> tx.update(jnp.array([4.0, -1.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 1., -1.], dtype=float32)
    """

    elementwise = True
    formula = "u = sign(g)"

    def map(self, g: Array) -> Array:
        return jnp.sign(g)
