"""Polyak's step size."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import Context, Positive, Scalar, Slots, Transformation
from gradtx.pieces.extra import value_of
from gradtx.pieces.measures import global_norm


class polyak_step(Transformation):
    r"""Polyak's step size: the step along the updates that takes a linear loss to its lowest value (Polyak, 1987).

    $$u = \min\left(c, \frac{\max(f − f_*, 0)}{‖g‖^2}\right) g$$

    The norm is over all leaves. g must be the gradient of the loss f, and every update needs f as the extra argument
    `value`: `update(g, state, value=loss)`.

    Args:
      max_rate: The upper bound of the learning rate, above 0. It is c, in units of the parameters for one unit of the
        updates.
      lowest: f*, the minimum of the loss, or a lower bound on it. A loss below f* gives no step.

    Raises:
      ValueError: `update` lacks `value`, or `value` is an array of several numbers, or complex.
      TypeError: `value` is not a number.

    Source: Polyak 1987; with c, Loizou et al. 2021, arXiv 2002.10542; with the positive part, Garrigos, Gower and
    Schaipp 2023, arXiv 2307.14528.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.polyak_step()
    >>> params = jnp.array([2.0, 0.0])  # of the loss ‖θ‖²
    >>> tx.update(2 * params, tx.init(params), value=params @ params)[0]
    Array([1., 0.], dtype=float32)
    """

    max_rate: Positive = 1.0
    lowest: Scalar = 0.0

    formula = "u = min(max_rate, max(value - lowest, 0) / norm(g)**2) * g"
    needs = ("value",)

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        above = jnp.maximum(value_of(self, context, self.lowest.dtype) - self.lowest, 0)
        return rated(self.max_rate, above, global_norm(updates), updates), slots


def rated(max_rate: Any, above: Any, norm: Any, direction: Any) -> Any:
    """Return the direction times min(max_rate, above / norm²); avoid the square, which may over- or underflow."""
    size = jnp.where(norm == 0, 1, norm)
    length = jnp.minimum(max_rate * size, above / size)
    return jax.tree.map(lambda u: length * (u / size), direction)
