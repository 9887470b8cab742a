"""A direction divided by a size."""

from typing import Any

import jax

from gradtx.core import Context, NonNegative, Slots, Transformation, init_slots, run
from gradtx.pieces.formulas import safe_divide, safe_sqrt


class precondition(Transformation):
    r"""Divides a direction by a size, coordinate by coordinate; both are made of the same updates.

    $$u = \frac{d}{s + ε} \qquad\text{or, with } ε \text{ in the root,}\qquad u = \frac{d}{\sqrt{s^2 + ε}}$$

    Adam is `precondition(momentum(b1), by=rms(b2))`: every method of the textbook changes the direction, the size, or
    both. Where direction and size (with ε) are both 0, the update is 0.

    Args:
      direction: Makes d of the updates.
      by: Makes s of the updates; 0 or more.
      eps: ε, what keeps a small size from making a large update; in units of the size, or of its square in the root.
      eps_in_sqrt: Whether ε stands inside the root of the size.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.precondition(gx.identity(), by=gx.absolute(), eps=0.0)
    >>> tx.update(jnp.array([4.0, -2.0, 0.0]), tx.init(jnp.zeros(3)))[0]
    Array([ 1., -1.,  0.], dtype=float32)
    """

    direction: Transformation
    by: Transformation
    eps: NonNegative = 1e-8
    eps_in_sqrt: bool = False

    formula = "u = direction(g) / (sqrt(by(g) ** 2 + eps) if eps_in_sqrt else by(g) + eps)"

    def init_tree(self, params: Any) -> Slots:
        slots = {"direction": init_slots(self.direction, params), "by": init_slots(self.by, params)}
        return {name: kept for name, kept in slots.items() if kept}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        direction, of_direction = run(self.direction, updates, slots.get("direction", {}), context)
        size, of_size = run(self.by, updates, slots.get("by", {}), context)

        def divide(d, s):
            return safe_divide(d, safe_sqrt(s * s + self.eps) if self.eps_in_sqrt else s + self.eps)

        new = {"direction": of_direction, "by": of_size}
        return jax.tree.map(divide, direction, size), {name: kept for name, kept in new.items() if kept}
