"""Coin betting: learning without a learning rate."""

import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, PerLeaf, Positive, Slots
from gradtx.pieces.formulas import safe_divide


class coin_betting(PerLeaf):
    r"""Coin betting: per-coordinate steps without a learning rate (COCOB; Orabona and Tommasi, 2017).

    $$l ← \max(l, |g|), \quad s ← s + |g|, \quad r ← \max(r − g·b, 0), \quad c ← c − g$$
    $$b ← \frac{c}{\max(s + l, α·l)}\,(1 + r / l), \qquad u = b − b_{-1}$$

    The displacement b of each coordinate from its initial value is a bet, staked from the wealth that earlier bets
    have won. The parameters are θ₀ + b if no other transformation moves them, so neither θ₀ nor b is stored. The wealth
    is in units of l, the largest gradient so far: no rate needs tuning, and scaling all gradients changes nothing.

    Args:
      alpha: α, above 0: the first bet is 1/α, in units of the parameters.

    Source: Orabona and Tommasi 2017, arXiv 1705.07795, algorithm 2 (COCOB-Backprop), from l = 0.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.coin_betting(10.0)
    >>> gradients, start = jnp.array([2.0, 2.0, -1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1].round(1)
    Array([-0.1, -0.1,  0.1], dtype=float32)
    """

    alpha: Positive = 100.0

    elementwise = True
    formula = (
        "l = max(l, abs(g)); s = s + abs(g); r = max(r - g * b, 0); c = c - g; "
        "p = b; b = c / max(s + l, alpha * l) * (1 + r / l); u = b - p"
    )

    def init_leaf(self, param: Array) -> Slots:
        return {name: jnp.zeros_like(param) for name in ("largest", "total", "reward", "sum")}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        before = self._bet(slots)
        new = {
            "largest": jnp.maximum(slots["largest"], jnp.abs(g)),
            "total": slots["total"] + jnp.abs(g),
            "reward": jnp.maximum(slots["reward"] - g * before, 0),
            "sum": slots["sum"] - g,
        }
        return self._bet(new) - before, new

    def _bet(self, slots: Slots) -> Array:
        largest, most = slots["largest"], jnp.maximum(slots["total"] + slots["largest"], self.alpha * slots["largest"])
        return safe_divide(slots["sum"], most) * (1 + safe_divide(slots["reward"], largest))
