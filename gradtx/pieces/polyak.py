"""Polyak's step size."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import Context, Positive, Scalar, Slots, Transformation
from gradtx.pieces.extra import value_of
from gradtx.pieces.measures import global_norm


class polyak_step(Transformation):
    r"""Polyak's step: as far along the updates as would bring a linear loss to its lowest value.

    $$u = \min\left(c, \frac{\max(f − f_*, 0)}{‖g‖^2}\right) g$$

    The norm is over all leaves. Needs the loss, f: `update(g, state, value=loss)`, and g to be its gradient.

    Args:
      max_rate: c, the largest step, in units of the parameters for one unit of the updates.
      lowest: f*, the value of the loss at its minimum, or a bound below it; a loss below it gives no step.

    Raises `ValueError` if an update is not given a `value`, or if that is not one number.

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
    """The direction times min(max_rate, above / norm²), with no square on the way: it would overflow or underflow."""
    size = jnp.where(norm == 0, 1, norm)
    length = jnp.minimum(max_rate * size, above / size)
    return jax.tree.map(lambda u: length * (u / size), direction)
