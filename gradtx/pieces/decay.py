"""Weight decay: pull the parameters towards 0."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, NonNegative, PerLeaf, Slots
from gradtx.core.where import Where, choose


class add_weight_decay(PerLeaf):
    """Add weight decay, a multiple of the parameters, to the updates (Loshchilov and Hutter, 2019).

    u = g + λ·w

    After the preconditioner and before the learning rate, the decay is decoupled from the gradient's magnitude (AdamW):
    each step shrinks w by the fraction η·λ. First in a chain, the added term is the gradient of the penalty ½λ‖w‖² (L2
    regularisation). Needs `params`.

    Args:
      weight_decay: λ, the factor of the parameters, 0 or more.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
        In a pattern, such as `"**/kernel"`, `*` matches any name and `**` any number of names; it must match at least
        one parameter. `is_matrix` is such a function. A leaf of a tree of booleans may stand for a whole branch.

      cautious: If True, a coordinate decays only where the decay and the update move it in one direction, g·w ≥ 0: the
        update then wins where the two conflict, as in cautious weight decay (Chen et al., 2025). Put it before the
        learning rate.

    Source: Loshchilov and Hutter 2019, arXiv 1711.05101; `cautious`, Chen et al. 2025, arXiv 2510.12402, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> params = {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}
    >>> tx = gx.add_weight_decay(0.1, where="*kernel")
    >>> tx.update({"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}, tx.init(params), params)[0]
    {'bias': Array([0., 0.], dtype=float32), 'kernel': Array([[0.1, 0.1]], dtype=float32)}
    """

    weight_decay: NonNegative = 1e-2
    where: Where = None
    cautious: bool = False

    elementwise = True
    formula = (
        "u = g + weight_decay * θ * among(where) * (g * θ >= 0) if cautious else g + weight_decay * θ * among(where)"
    )
    needs = ("params",)

    def init_tree(self, params: Any) -> Slots:
        choose("add_weight_decay: where", self.where, params)
        return {}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        chosen = context.chooses(self.where)
        if chosen and self.cautious:
            agree = jnp.sign(g) * jnp.sign(context.params) >= 0  # the product itself may overflow, or round to 0
            return g + jnp.where(agree, self.weight_decay * context.params, 0), slots
        return g + self.weight_decay * context.params if chosen else g, slots
