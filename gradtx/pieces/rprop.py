"""Rprop: steps that grow while the gradient keeps its sign."""

import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, NonNegative, PerLeaf, Positive, Slots


class rprop_steps(PerLeaf):
    r"""Rprop: a step size for each coordinate, adapted by the signs of the updates (Riedmiller and Braun, 1993).

    $$s ← \mathrm{clip}(s · (\text{grow if } g·g_{-1} > 0,\ \text{shrink if} < 0)), \qquad u = s · \mathrm{sign}(g)$$

    Only the signs of the updates matter.

    Args:
      initial_value: s before the first update, above 0, in units of the parameters.
      grow: The factor of s while the sign stays the same, at least 1.
      shrink: The factor of s when the sign flips, above 0.
      smallest: The lower bound of s, 0 or more.
      largest: The upper bound of s, above 0.
      wait_on_flip: If True, a coordinate whose sign flips does not move at that update, and its sign counts as 0 at the
        next. If False, it steps back by the shrunken step.

    Source: Riedmiller and Braun 1993; `wait_on_flip` is Igel and Hüsken's iRprop⁻, 2000.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.rprop_steps(1.0, grow=2.0, shrink=0.5)
    >>> gradients, start = jnp.array([0.1, 7.0, -0.1]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([ 1.,  2., -1.], dtype=float32)
    """

    initial_value: Positive = 1e-2
    grow: Positive = 1.2
    shrink: Positive = 0.6
    smallest: NonNegative = 1e-6
    largest: Positive = 50.0
    wait_on_flip: bool = False

    elementwise = True
    formula = (
        "a = σ * sign(g); s0 = initial_value; s = clip(s * grow ** (a > 0) * shrink ** (a < 0), smallest, largest); "
        "σ = sign(g) * (a >= 0) if wait_on_flip else sign(g); u = s * σ"
    )

    def init_leaf(self, param: Array) -> Slots:
        return {"step_size": jnp.full_like(param, self.initial_value), "sign": jnp.zeros_like(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        sign = jnp.sign(g)
        agreement = sign * slots["sign"]
        factor = jnp.where(agreement > 0, self.grow, jnp.where(agreement < 0, self.shrink, 1.0))
        size = jnp.clip(factor * slots["step_size"], self.smallest, self.largest)
        if self.wait_on_flip:
            sign = jnp.where(agreement < 0, 0, sign)
        return size * sign, {"step_size": size, "sign": sign}
