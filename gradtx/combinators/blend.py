"""What a transformation makes of the updates, and the updates themselves, in one."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import Context, Part, Positive, Scalar, Slots, Transformation
from gradtx.pieces.formulas import lerp


class blend(Transformation):
    r"""A weighted mean of what a transformation makes of the updates and the updates.   u = c·a(g) + (1 − c)·g

    Args:
      inner: Makes a(g).
      weight: c: 1 is the transformation alone, 0 the updates as they are.

    Source: Ma and Yarats 2019, arXiv 1810.06801 (quasi-hyperbolic momentum, of an average).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.blend(gx.scale(3.0), 0.5)
    >>> tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))[0]
    Array([2.], dtype=float32)
    """

    inner: Part
    weight: Scalar

    formula = "u = weight * inner(g) + (1 - weight) * g"

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made = self.part("inner", updates, slots, context, new := {})
        return jax.tree.map(lambda a, g: lerp(a, g, self.weight), made, updates), new


class cautious(Transformation):
    r"""Steps only where an optimizer goes downhill, and there further.   u = a·φ / max(mean φ, floor), φ = [a·g < 0]

    The mean is over the leaf, so that the step as a whole is about as long as it was. A decay of the weights inside is
    held back too; put it behind to keep it.

    Args:
      inner: The optimizer: makes a of g, which is added to the parameters.
      floor: The least mean to divide by.

    Source: Liang et al. 2024, arXiv 2411.16085, with the mean and the floor of its published code.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.cautious(gx.heavy_ball(1.0, decay=0.5))
    >>> _, state = tx.update(jnp.array([4.0, 4.0]), tx.init(jnp.zeros(2)))
    >>> tx.update(jnp.array([-1.0, 1.0]), state)[0]
    Array([ 0., -6.], dtype=float32)
    """

    inner: Part
    floor: Positive = 1e-3

    formula = "a = inner(g); φ = (a * g < 0); u = a * φ / max(mean(φ), floor)"

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made = self.part("inner", updates, slots, context, new := {})

        def masked(a, g):
            uphill = a * g >= 0  # NaN is not, and stays
            share = jnp.mean(jnp.where(uphill, 0, jnp.ones_like(a)))
            return jnp.where(uphill, 0, a) / jnp.maximum(share, self.floor) if a.size else a

        return jax.tree.map(masked, made, updates), new
