"""Combinators of a transformation's output with its input."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import Context, Part, Positive, Scalar, Slots, Transformation
from gradtx.core.layers import map_layers
from gradtx.core.root import separable
from gradtx.pieces.formulas import lerp


class blend(Transformation):
    """Interpolate between the output of a transformation and its input.

    u = c·a(g) + (1 − c)·g

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. It makes a(g).
      weight: c, the weight of a(g): 1 is the transformation alone, and 0 the unchanged updates.

    Source: Ma and Yarats 2019, arXiv 1810.06801 (quasi-hyperbolic momentum, of an average).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.blend(gx.scale(3.0), 0.5)
    >>> tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))[0]
    Array([2.], dtype=float32)
    """

    inner: Part
    weight: Scalar

    elementwise = True
    fed = ("inner",)

    @property
    def linear(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.linear

    formula = "u = weight * inner(g) + (1 - weight) * g"

    @separable
    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made = self.part("inner", updates, slots, context, new := {})
        return jax.tree.map(lambda a, g: lerp(a, g, self.weight), made, updates), new


class cautious(Transformation):
    """Zero the coordinates whose update opposes the descent direction, and rescale the rest (Liang et al., 2024).

    u = a·φ / max(mean φ, floor), φ = [a·g < 0]

    The mean is over the leaf, so the rescaling roughly preserves the overall magnitude of the step. A weight decay
    inside `inner` is masked too; put it after `cautious` to keep it whole.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. It makes a of
        g, with the sign that is added to the parameters.
      floor: The lower bound of the mean in the denominator, above 0.

    Source: Liang et al. 2024, arXiv 2411.16085, with the mean and the floor of its published code.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.cautious(gx.heavy_ball(1.0, decay=0.5))
    >>> _, state = tx.update(jnp.array([4.0, 4.0]), tx.init(jnp.zeros(2)))
    >>> tx.update(jnp.array([-1.0, 1.0]), state)[0]
    Array([ 0., -6.], dtype=float32)
    """

    inner: Part
    floor: Positive = 1e-3

    fed = ("inner",)
    formula = "a = inner(g); φ = (a * g < 0); u = a * φ / max(mean(φ), floor)"

    @separable
    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made = self.part("inner", updates, slots, context, new := {})

        def masked(axes, a, g):
            if not a.size:
                return a
            uphill = a * g >= 0  # False for NaN, which passes through
            share = jnp.mean(jnp.where(uphill, 0, jnp.ones_like(a)))
            return jnp.where(uphill, 0, a) / jnp.maximum(share, self.floor)

        return map_layers(masked, made, updates), new
