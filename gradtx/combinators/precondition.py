"""Preconditioning: a direction divided by a denominator, or their angle."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import Context, NonNegative, Part, Positive, Slots, Transformation
from gradtx.core.layers import map_layers
from gradtx.core.root import separable
from gradtx.pieces.elementwise import identity
from gradtx.pieces.formulas import safe_divide, safe_sqrt


class precondition(Transformation):
    r"""Divide a direction by a denominator, coordinate by coordinate; both are made of the same updates.

    $$u = \frac{d}{s + ε} \qquad\text{or, with } ε \text{ in the root,}\qquad u = \frac{d}{\sqrt{s^2 + ε}}$$

    Adam is `precondition(momentum(b1), by=rms(b2))`. Every textbook method changes the direction, the
    denominator, or both. Where the direction and the denominator (with ε) are both 0, the update is 0.

    Args:
      direction: The transformation that makes d of the updates.
      by: The transformation that makes s of the updates, 0 or more.
      eps: ε, added to the denominator, 0 or more. It keeps a small s from making a large update; it is in units of s,
        or of s² inside the square root.
      eps_in_sqrt: If True, add ε inside the square root instead.
      centered: If True, make s of g − d, the deviation of the updates from the direction, instead of g.

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

    elementwise = True
    fed = ("direction", "by")
    formula = (
        "u = direction(g) / (sqrt(by(g - direction(g) if centered else g) ** 2 + eps) if eps_in_sqrt "
        "else by(g - direction(g) if centered else g) + eps)"
    )

    @separable
    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        direction = self.part("direction", updates, slots, context, new := {})
        measured = jax.tree.map(jnp.subtract, updates, direction) if self.centered else updates
        size = self.part("by", measured, slots, context, new)

        def divide(d, s):
            return safe_divide(d, safe_sqrt(s * s + self.eps) if self.eps_in_sqrt else s + self.eps)

        return jax.tree.map(divide, direction, size), new


class clipped_precondition(Transformation):
    r"""Divide a direction by a denominator, and clip leaves whose gradients outgrow it (Wortsman et al., 2023).

    $$u = \frac{1}{k}\; \mathrm{then}\!\left(\frac{d}{s + ε}\right), \qquad k = \max(1, \mathrm{rms}(g / \max(s, ε)))$$

    An average of squares lags behind growing gradients: k, one number for each leaf, is then above 1. The clipping also
    scales the output of `then`, such as a weight decay, as a smaller learning rate would.

    Args:
      direction: The transformation that makes d of the updates.
      by: The transformation that makes s of the updates, 0 or more.
      then: The transformation of the quotient, applied before the clipping. The default is the identity.
      eps: ε, added to the denominator, 0 or more. It is also the lower bound of s in k.

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

    fed = ("direction", "by")
    formula = "k = max(1, rms(g / max(by(g), eps))); u = then(direction(g) / (by(g) + eps)) / k"

    @separable
    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        direction = self.part("direction", updates, slots, context, new := {})
        size = self.part("by", updates, slots, context, new)
        quotient = jax.tree.map(lambda d, s: safe_divide(d, s + self.eps), direction, size)
        made = self.part("then", quotient, slots, context, new)

        def shorten(axes, u, g, s):
            surprise = safe_divide(g, jnp.maximum(s, self.eps))
            return u / jnp.maximum(1, safe_sqrt(jnp.mean(surprise * surprise))) if g.size else u

        return map_layers(shorten, made, updates, size), new


class atan2_precondition(Transformation):
    r"""Take the angle of a direction and a denominator in place of their quotient (Adam-atan2; Everett et al., 2024).

    $$u = a\,\mathrm{atan2}(d, b\,s)$$

    The angle is about a·d/(b·s) for small quotients, and at most a·π/2, where s is 0. It needs no ε, and multiplying
    the updates by any factor leaves it as it is. Where d and s are both 0, the update is 0.

    Args:
      direction: The transformation that makes d of the updates.
      by: The transformation that makes s of the updates, 0 or more.
      scale: a, the factor of the angle, above 0. The default makes the update about 1 where d = s: 1.27·π/4.
      width: b, the factor of s, above 0: larger values make the update closer to proportional to d/s.

    Source: Everett et al. 2024, arXiv 2407.05872, the constants a and b of Adam-atan2.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.atan2_precondition(gx.identity(), by=gx.abs())
    >>> tx.update(jnp.array([4.0, -1e-30, 0.0]), tx.init(jnp.zeros(3)))[0].round(2)
    Array([ 1., -1.,  0.], dtype=float32)
    """

    direction: Part
    by: Part
    scale: Positive = 1.27
    width: Positive = 1.0

    elementwise = True
    fed = ("direction", "by")
    formula = "u = scale * atan2(direction(g), width * by(g))"

    @separable
    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        direction = self.part("direction", updates, slots, context, new := {})
        size = self.part("by", updates, slots, context, new)

        def angle(d, s):
            s = self.width * s
            largest = jax.lax.stop_gradient(jnp.maximum(jnp.abs(d), jnp.abs(s)))
            unit = jnp.where(
                (largest > 0) & jnp.isfinite(largest), largest, 1
            )  # d² + s², of the derivative, underflows
            return self.scale * jnp.where(largest == 0, 0, jnp.arctan2(d / unit, jnp.where(largest == 0, 1, s / unit)))

        return jax.tree.map(angle, direction, size), new
