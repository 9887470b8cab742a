"""Dual averaging: steps from the initial parameters."""

import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, NonNegative, PerLeaf, Positive, Slots
from gradtx.pieces.formulas import safe_divide, safe_power


class from_start(PerLeaf):
    """Dual averaging: move to θ₀ + g, the incoming updates applied to the initial point (Nesterov, 2009).

    u = θ₀ + g − θ

    After a sum of gradients, this piece turns gradient descent into dual averaging. Needs `params`; θ₀ is the tree that
    `init` received.

    Source: Nesterov 2009, Primal-dual subgradient methods for convex problems.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, start = gx.from_start(), jnp.array([1.0])
    >>> tx.update(jnp.array([-0.5]), tx.init(start), jnp.array([3.0]))[0]
    Array([-2.5], dtype=float32)
    """

    elementwise = True
    formula = "x0 = θ; x = x; u = x + g - θ"
    needs = ("params",)

    def init_leaf(self, param: Array) -> Slots:
        return {"start": jnp.array(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        return slots["start"] + g - context.params, slots


class ftrl_proximal(PerLeaf):
    r"""FTRL-Proximal: follow the regularised leader, with a proximal term for each step (McMahan et al., 2013).

    $$n ← n + g^2, \quad s = \frac{n^p}{η}, \quad z = v + g − s\,θ, \quad
    x = \frac{\mathrm{clip}(z, ±λ_1) − z}{s + 2λ_2}, \quad v ← z + s\,x; \qquad u = x − θ$$

    Each update moves to the minimiser of the sum of the linearised losses so far, the penalties and the proximal
    terms. The penalties, λ₁·‖θ‖₁ + λ₂·‖θ‖², are weighed against the sum of all losses, not against each loss: a
    coordinate stays exactly 0 while its gradients sum to less than λ₁. The squares before the first update,
    `initial_value`, pull an initial point that is not 0 towards 0; a coordinate without any gradient goes there at
    once. Needs `params`.

    Args:
      learning_rate: η, above 0; without penalties a step is η·g/nᵖ, as in AdaGrad.
      l1: λ₁, the penalty on absolute values, 0 or more, in units of the gradient.
      l2: λ₂, the penalty on squares, 0 or more: half of the paper's λ₂.
      power: p, 0 or more. ½ is AdaGrad's; at 0 the rate does not fall.
      initial_value: n before the first update, 0 or more, in squared units of the gradient.

    Source: McMahan et al. 2013, Ad click prediction: a view from the trenches, algorithm 1, without its β, which is an
    l2 of β/(2η); λ₂, the power and the initial value are Keras's. The paper's z is v − s·θ here: v, the pull of the
    penalties, does not grow, and loses no digits.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.ftrl_proximal(0.5, l1=0.1, initial_value=0.0), jnp.zeros(2)
    >>> tx.update(jnp.array([-2.0, 0.05]), tx.init(params), params)[0]
    Array([ 0.475, -0.   ], dtype=float32)
    """

    learning_rate: Positive = 1e-3
    l1: NonNegative = 0.0
    l2: NonNegative = 0.0
    power: NonNegative = 0.5
    initial_value: NonNegative = 0.1

    elementwise = True
    formula = (
        "n0 = initial_value; n = n + g**2; s = n**power / learning_rate; "
        "v0 = initial_value**power / learning_rate * θ; "
        "z = v + g - s * θ; x = (clip(z, -l1, l1) - z) / (s + 2 * l2); v = z + s * x; u = x - θ"
    )
    needs = ("params",)

    def init_leaf(self, param: Array) -> Slots:
        total = jnp.full_like(param, self.initial_value)
        return {
            "pull": safe_power(total, jnp.asarray(self.power, total.dtype)) / self.learning_rate * param,
            "sum": total,
        }

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        total, point = slots["sum"] + g * g, context.params
        size = safe_power(total, self.power) / self.learning_rate
        linear = slots["pull"] + g - size * point
        pull = jnp.clip(linear, -self.l1, self.l1)
        # (pull − linear)/(size + 2·l2) − point, without cancellation
        step = safe_divide(pull - slots["pull"] - g - 2 * self.l2 * point, size + 2 * self.l2)
        step = jnp.where(jnp.abs(linear) <= self.l1, -point, step)
        return step, {"pull": pull - 2 * self.l2 * (point + step), "sum": total}
