"""Mechanic: a wrapper that tunes the scale of an optimizer's steps."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, NonNegative, Part, Positive, Slots, Transformation, init_slots, run, working_dtype
from gradtx.core.kinds import Count
from gradtx.pieces.accumulators import running_sum
from gradtx.pieces.formulas import hypot
from gradtx.pieces.measures import global_norm, inner_product


class mechanic(Transformation):
    r"""Mechanic: tune the scale of an optimizer's steps (Cutkosky, Defazio and Mehta, 2023).

    $$v_+ = v + a(g), \qquad u = s_+·v_+ − s·v, \qquad s = s_1 + … + s_n$$

    a(g) is the inner optimizer's update, and v the sum of these updates: the parameters are θ₀ + s·v. Each sᵢ is the
    bet of a tuner that discounts the past by βᵢ = 1 − 10⁻ⁱ per step. It bets on the worth of the displacement v so far,
    h = −⟨v, g + λ·s·‖g‖·θ/‖θ‖⟩, with products and norms over all leaves:

    $$r ← β\,r + s_i·\mathrm{clip}(h, −m, m), \quad m ← \max(β\,m, |h| + ε), \quad q ← \sqrt{β^2 q^2 + h^2}, \quad
      s_i ← \frac{m·s_0/n + \max(r, 0)}{q + ε}$$

    Only the shape of the inner learning rate matters: give one that would be too large, or a schedule that starts at 1.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
        Its update a(g) is scaled before it is added to the parameters.
      tuners: n, the number of tuners, an integer, 1 or more.
      initial_value: s₀, the initial scale, above 0: too small rather than too large.
      weight_decay: λ, 0 or more: the weight decay in the tuners' bets; the parameters do not decay.
      eps: ε, above 0, in units of h.

    Raises:
      TypeError: `tuners` is not an integer.
      ValueError: `tuners` is below 1.

    Source: Cutkosky, Defazio and Mehta 2023, arXiv 2306.00144, algorithm 1, with ε in m and the clipping of h as in the
    authors' code for Optax, and v stored where that code stores θ₀.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.mechanic(gx.sgd(1.0))
    >>> def step(carry, _):
    ...     w, state = carry
    ...     u, state = tx.update(2 * (w - 3), state, w)
    ...     return (w + u, state), w
    >>> jax.lax.scan(step, (jnp.zeros(()), tx.init(jnp.zeros(()))), length=51)[1][-1].round(1)
    Array(3., dtype=float32)
    """

    inner: Part
    tuners: Count = 6
    initial_value: Positive = 1e-6
    weight_decay: NonNegative = 1e-2
    eps: Positive = 1e-8

    formula = "v = v + inner(g); u = θ0 + s * v - θ"
    needs = ("params",)

    def init_tree(self, params: Any) -> Slots:
        dtype, names = working_dtype(params), ("scale", "reward", "largest", "root")
        tuners = {f"tuner_{i}": {n: jnp.zeros((), dtype) for n in names} for i in range(1, self.tuners + 1)}
        return super().init_tree(params) | init_slots(running_sum(), params) | tuners

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made = self.part("inner", updates, slots, context, new := {})
        way, _ = run(running_sum(), jax.tree.map(jnp.zeros_like, made), slots, context)
        further, kept = run(running_sum(), made, slots, context)
        tuners = {f"tuner_{i}": i for i in range(1, self.tuners + 1)}
        scale = sum(slots[name]["scale"] for name in tuners)
        decay = self.weight_decay * scale * global_norm(updates) / (global_norm(context.params) + self.eps)
        worth = -(inner_product(way, updates) + decay * inner_product(way, context.params))
        tuned = {name: self._tune(slots[name], worth, 1 - 0.1**i) for name, i in tuners.items()}
        new_scale = sum(tuner["scale"] for tuner in tuned.values())
        return jax.tree.map(lambda v, w: new_scale * v - scale * w, further, way), new | kept | tuned

    def _tune(self, tuner: Slots, worth: Array, decay: float) -> Slots:
        reward = decay * tuner["reward"] + tuner["scale"] * jnp.clip(worth, -tuner["largest"], tuner["largest"])
        largest = jnp.maximum(decay * tuner["largest"], jnp.abs(worth) + self.eps)
        root = hypot(decay * tuner["root"], worth)
        wealth = self.initial_value / self.tuners * largest + jnp.maximum(reward, 0)
        return {"scale": wealth / (root + self.eps), "reward": reward, "largest": largest, "root": root}
