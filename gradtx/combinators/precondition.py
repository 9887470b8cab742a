"""A direction divided by a size."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import Context, NonNegative, Part, Slots, Transformation
from gradtx.pieces.elementwise import identity
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
      centered: Whether the size is made of g − d, what the direction did not foresee, instead of g.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.precondition(gx.identity(), by=gx.abs(), eps=0.0)
    >>> tx.update(jnp.array([4.0, -2.0, 0.0]), tx.init(jnp.zeros(3)))[0]
    Array([ 1., -1.,  0.], dtype=float32)
    """

    direction: Part
    by: Part
    eps: NonNegative = 1e-8
    eps_in_sqrt: bool = False
    centered: bool = False

    formula = (
        "u = direction(g) / (sqrt(by(g - direction(g) if centered else g) ** 2 + eps) if eps_in_sqrt "
        "else by(g - direction(g) if centered else g) + eps)"
    )

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        direction = self.part("direction", updates, slots, context, new := {})
        measured = jax.tree.map(jnp.subtract, updates, direction) if self.centered else updates
        size = self.part("by", measured, slots, context, new)

        def divide(d, s):
            return safe_divide(d, safe_sqrt(s * s + self.eps) if self.eps_in_sqrt else s + self.eps)

        return jax.tree.map(divide, direction, size), new


class clipped_precondition(Transformation):
    r"""Divides a direction by a size, and shortens a leaf whose updates are larger than the size foresaw.

    $$u = \frac{1}{k}\; \mathrm{then}\!\left(\frac{d}{s + ε}\right), \qquad k = \max(1, \mathrm{rms}(g / \max(s, ε)))$$

    An average of squares lags behind when gradients grow: k is then above 1, one number for the leaf. What is done
    within `then`, such as a decay of the weights, is shortened too, as by a smaller learning rate.

    Args:
      direction: Makes d of the updates.
      by: Makes s of the updates; 0 or more.
      then: What is done with the quotient before it is shortened.
      eps: ε, of `precondition`.

    Source: Wortsman et al. 2023, arXiv 2304.13013, algorithm 2; the clipping is Shazeer and Stern's 2018, arXiv
    1804.04235.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.clipped_precondition(gx.identity(), by=gx.chain(gx.abs(), gx.scale(0.5)), eps=0.0)
    >>> tx.update(jnp.array([4.0, -2.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 1., -1.], dtype=float32)
    """

    direction: Part
    by: Part
    then: Part = identity()  # pyright: ignore[reportAssignmentType]
    eps: NonNegative = 1e-8

    formula = "k = max(1, rms(g / max(by(g), eps))); u = then(direction(g) / (by(g) + eps)) / k"

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        direction = self.part("direction", updates, slots, context, new := {})
        size = self.part("by", updates, slots, context, new)
        quotient = jax.tree.map(lambda d, s: safe_divide(d, s + self.eps), direction, size)
        made = self.part("then", quotient, slots, context, new)

        def shorten(u, g, s):
            surprise = safe_divide(g, jnp.maximum(s, self.eps))
            return u / jnp.maximum(1, safe_sqrt(jnp.mean(surprise * surprise))) if g.size else u

        return jax.tree.map(shorten, made, updates, size), new
