"""Pieces that pull the parameters towards a point."""

from typing import Any

from jax import Array

from gradtx.core import Context, NonNegative, PerLeaf, Slots
from gradtx.core.where import Where, choose, chooser


class add_weight_decay(PerLeaf):
    r"""Adds the parameters, times a factor, to the updates.   u = g + λ·w

    After the size and before the rate, the decay is decoupled from the gradient's size (AdamW): w shrinks by η·λ of
    itself a step. First in a chain, it is the gradient of the penalty ½λ‖w‖² (L2). Needs `params`.

    Args:
      weight_decay: λ, 0 or more.
      where: Which parameters decay: None for all; a pattern of paths, `"**/kernel"` (`*` is any name, `**` any number
        of names), which must choose something; a function of (path, leaf), such as `is_matrix`; or a tree of booleans,
        whose leaves may stand for whole branches.

    Source: Loshchilov and Hutter 2019, arXiv 1711.05101.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> params = {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}
    >>> tx = gx.add_weight_decay(0.1, where="*kernel")
    >>> tx.update({"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}, tx.init(params), params)[0]
    {'bias': Array([0., 0.], dtype=float32), 'kernel': Array([[0.1, 0.1]], dtype=float32)}
    """

    weight_decay: NonNegative = 1e-2
    where: Where = None

    formula = "u = g + weight_decay * θ * among(where)"
    needs = ("params",)

    def init_tree(self, params: Any) -> Slots:
        choose("add_weight_decay: where", self.where, params)
        return {}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        chosen = chooser(self.where)(context.path, context.params)
        return g + self.weight_decay * context.params if chosen else g, slots
