"""MoMo: step sizes from a model of the loss."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.combinators.combinator import refuse_functions
from gradtx.core import (
    Context,
    NonNegative,
    Part,
    Positive,
    Scalar,
    Slots,
    Transformation,
    init_slots,
    walk,
    working_dtype,
)
from gradtx.pieces.elementwise import ones
from gradtx.pieces.extra import value_of
from gradtx.pieces.formulas import safe_divide, safe_sqrt
from gradtx.pieces.measures import global_norm, inner_product
from gradtx.pieces.polyak import rated


class momo_step(Transformation):
    r"""Scale a direction by MoMo's model-based Polyak step (Schaipp et al., 2024).

    $$u = \min\left(c, \frac{\max(h − f_*, 0)}{⟨d, d/s⟩}\right) \frac{d}{s}, \qquad
      h = \bar f − \overline{⟨g, θ⟩} + ⟨d, θ⟩$$

    The direction d averages the gradients g; the bars are the same average of the losses f and of ⟨g, θ⟩. So h is the
    average, at θ, of the tangents of the losses seen. Products are over all leaves. Needs `params` and the loss:
    `update(g, state, params, value=loss)`.

    Args:
      direction: The transformation that makes d of the updates, and the bars. It must be linear, and the same for every
        coordinate.
      by: The transformation that makes the denominator s of the updates, 0 or more; the step is the shortest in this
        metric. The default is 1.
      eps: ε, added to the denominator, 0 or more.
      max_rate: The upper bound of the learning rate, above 0. It is c, in units of the parameters for one unit of d/s.
      lowest: f*: the minimum of the loss, or a lower bound on it.

    Raises:
      ValueError: `update` is not given a `value`, or one that is not one number; or the direction needs a function of
        all parameters: `grad_fn`, `hvp` or `value_fn`; or it averages parameters, as `lookahead` does.

    Source: Schaipp et al. 2024, arXiv 2305.07583, algorithms 1 and 2.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.momo_step(gx.momentum(0.9))
    >>> params = jnp.array([2.0, 0.0])  # of the loss ‖θ‖²
    >>> tx.update(2 * params, tx.init(params), params, value=params @ params)[0].round(4)
    Array([1., 0.], dtype=float32)
    """

    direction: Part
    by: Part = ones()  # pyright: ignore[reportAssignmentType]
    eps: NonNegative = 0.0
    max_rate: Positive = 1.0
    lowest: Scalar = 0.0

    formula = (
        "h = sum(direction(g) * θ) + direction(value) - direction(sum(g * θ)); "
        "u = min(max_rate, max(h - lowest, 0) / sum(direction(g)**2 / (by(g) + eps))) * direction(g) / (by(g) + eps)"
    )
    needs = ("params", "value")

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_functions(self, self.direction, "the losses beside the updates")
        for piece in walk(self.direction):
            if hasattr(piece, "evaluate") and "params" in piece.needs:  # it averages them
                name = type(piece).__name__
                raise ValueError(f"momo_step: direction must be linear, got {name}: write {name}(momo_step(…)) instead")

    def init_tree(self, params: Any) -> Slots:
        zero = jnp.zeros((), working_dtype(params))
        slots = {
            "direction": init_slots(self.direction, _beside(params, zero, zero)),
            "by": init_slots(self.by, params),
        }
        return {name: kept for name, kept in slots.items() if kept}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        value, zero = value_of(self, context, self.lowest.dtype), jnp.zeros_like(self.lowest)
        seen = _beside(updates, value, inner_product(updates, context.params))
        at = context._replace(params=_beside(context.params, zero, zero))
        mean = self.part("direction", seen, slots, at, new := {})
        direction = mean["updates"]
        size = jax.tree.map(lambda s: s + self.eps, self.part("by", updates, slots, context, new))
        above = mean["value"] - mean["product"] + inner_product(direction, context.params) - self.lowest
        norm = global_norm(jax.tree.map(lambda d, s: safe_divide(d, safe_sqrt(s)), direction, size))
        quotient = jax.tree.map(safe_divide, direction, size)
        return rated(self.max_rate, jnp.maximum(above, 0), norm, quotient), new


def _beside(updates: Any, value: Any, product: Any) -> dict[str, Any]:
    """Return the tree that the direction runs on."""
    return {"updates": updates, "value": value, "product": product}
