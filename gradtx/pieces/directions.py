"""Remove a direction from the updates: the mean over the inputs, or the direction of the parameters."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, PerLeaf, Slots
from gradtx.core.axes import refuse_doubt
from gradtx.pieces.formulas import norm, safe_divide, tangent


class centralize(PerLeaf):
    """Gradient centralization: subtract, for each output, the mean over the inputs (Yong et al., 2020).

    u = g − mean(g)

    The sum of the weights of each output then stays constant. Vectors and tables of embeddings, which have no inputs,
    are left unchanged. Optax takes the mean over all axes but the first, the outputs of PyTorch's weights.

    Raises:
      ValueError: The axes of a leaf are in doubt: declare them with `layout`.

    Source: Yong et al. 2020, arXiv 2004.01461, section 3.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.centralize()
    >>> tx.update(jnp.array([[1.0, 2.0], [3.0, 8.0]]), tx.init(jnp.zeros((2, 2))))[0]
    Array([[-1., -3.],
           [ 1.,  3.]], dtype=float32)
    """

    formula = "u = g - input_mean(g)"

    def init_tree(self, params: Any) -> Slots:
        refuse_doubt(self, params)
        return {}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        axes = context.axes
        return g - jnp.mean(g, axis=axes.of("in"), keepdims=True) if axes.is_linear and g.size else g, slots


class project_out(PerLeaf):
    """Remove the component along the parameters from the updates, leaf by leaf.

    u = g − θ̂⟨θ̂, g⟩, θ̂ = θ/‖θ‖

    To first order, the remaining update rotates the parameter and does not stretch it. Needs `params`.

    Args:
      keep_norm: If True, rescale the remaining update to the norm of g, as OrthoGrad does. If only rounding errors
        remain, u is 0.

    Source: with keep_norm, OrthoGrad: Prieto et al. 2025, arXiv 2501.04697.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> params = jnp.array([0.0, 10.0])
    >>> for tx in (gx.project_out(), gx.project_out(keep_norm=True)):
    ...     tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)[0]
    Array([3., 0.], dtype=float32)
    Array([5., 0.], dtype=float32)
    """

    keep_norm: bool = False

    formula = "v = g - dot(θ, g) / norm(θ) ** 2 * θ; u = norm(g) / norm(v) * v if keep_norm else v"
    needs = ("params",)

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        left = tangent(g, context.params)
        if not self.keep_norm:
            return left, slots
        before, after = norm(g), norm(left)
        rounding = after <= 4 * jnp.finfo(g.dtype).eps * before
        return left * jnp.where(rounding, 0, safe_divide(before, jnp.where(rounding, 1, after))), slots
