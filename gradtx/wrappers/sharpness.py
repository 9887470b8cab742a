"""Sharpness-aware minimization: wrappers that take the gradient where the loss is larger, to prefer flat minima."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import Context, NonNegative, Part, Slots, Transformation
from gradtx.pieces.formulas import safe_divide
from gradtx.pieces.measures import global_norm


class sam(Transformation):
    r"""SAM, sharpness-aware minimization: use the gradient at the worst point nearby (Foret et al., 2021).

    $$u = \mathrm{inner}(∇L(θ + ε)), \qquad ε = ρ\, \frac{g}{‖g‖}$$

    g is the gradient at θ, passed to `update` as usual; the norm is over all leaves, and ε is 0 where g is 0. `update`
    needs `params` and `grad_fn`, a function from parameters to their gradient: the cost is a second gradient. In a
    group of `partition`, ε covers that group and all other parameters stay fixed.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      radius: ρ, 0 or more, in units of the parameters.

    Raises:
      ValueError: `update` is called without `params` and `grad_fn`, or `grad_fn` returns a tree unlike the parameters.

    Source: Foret et al. 2021, arXiv 2010.01412, algorithm 1.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx, params = gx.sam(gx.sgd(0.1), radius=0.5), {"w": jnp.array([3.0, 4.0])}
    >>> grad_fn = jax.grad(lambda params: jnp.sum(params["w"] ** 2))  # of the loss on this batch
    >>> tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)[0]
    {'w': Array([-0.66      , -0.88000005], dtype=float32)}
    """

    inner: Part
    radius: NonNegative = 0.05

    needs = ("params", "grad_fn")
    formula = "d = radius * g / norm(g); hat = gradient(θ + d); u = inner(hat)"

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        worst = jax.tree.map(jnp.add, context.params, self.away(updates, context.params))
        return self.part("inner", context.extra["grad_fn"](worst), slots, context, new := {}), new

    def away(self, updates: Any, params: Any) -> Any:
        """Return ε."""
        norm = global_norm(updates)
        return jax.tree.map(lambda g: self.radius * safe_divide(g, norm), updates)


class asam(sam):
    r"""ASAM, adaptive SAM: a ball that scales with each parameter (Kwon et al., 2021).

    $$u = \mathrm{inner}(∇L(θ + ε)), \qquad ε = ρ\, \frac{T^2 g}{‖T g‖}, \quad T = |θ| + η$$

    The ball is as wide in each coordinate as the parameter is large, so the scales of the parameters do not matter. g
    is the gradient at θ, passed to `update` as usual; the norm is over all leaves. `update` needs `params` and
    `grad_fn`, a function from parameters to their gradient: the cost is a second gradient. In a group of `partition`, ε
    covers that group and all other parameters stay fixed.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      radius: ρ, 0 or more, without unit: relative to the parameters.
      eps: η, 0 or more, in units of the parameters. The paper's code has T = 1 for biases.

    Raises:
      ValueError: `update` is called without `params` and `grad_fn`, or `grad_fn` returns a tree unlike the parameters.

    Source: Kwon et al. 2021, arXiv 2102.11600, algorithm 1.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx, params = gx.asam(gx.sgd(0.1), radius=0.5, eps=0.0), jnp.array([2.0, 0.1])
    >>> grad_fn = jax.grad(lambda w: jnp.sum(jnp.log(w)))  # whatever the units of w
    >>> (tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)[0] * params).round(4)
    Array([-0.0739, -0.0739], dtype=float32)
    """

    radius: NonNegative = 0.5
    eps: NonNegative = 0.01

    formula = "h = abs(θ) + eps; d = radius * h**2 * g / norm(h * g); hat = gradient(θ + d); u = inner(hat)"

    def away(self, updates: Any, params: Any) -> Any:
        widths = jax.tree.map(lambda p: jnp.abs(p) + self.eps, params)
        scaled = super().away(jax.tree.map(jnp.multiply, widths, updates), params)
        return jax.tree.map(jnp.multiply, widths, scaled)
