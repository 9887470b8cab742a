"""Remove a direction from the updates: the mean over the inputs, or the direction of the parameters."""

import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, PerLeaf, Slots
from gradtx.core.kinds import Axis
from gradtx.pieces.formulas import norm, safe_divide, tangent


def all_but(name: str, path: str, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return the axes of a leaf other than its output axis."""
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{name}: output_axis={axis} must be an axis of {path!r}, got shape {shape}: mask that leaf")
    return tuple(i for i in range(len(shape)) if i != axis % len(shape))


class centralize(PerLeaf):
    """Gradient centralization: subtract, for each output, the mean over the inputs (Yong et al., 2020).

    u = g − mean(g)

    The sum of the weights of each output then stays constant. Leaves of fewer than two axes are left unchanged.

    Args:
      output_axis: The axis of the outputs, an integer; the mean is over all other axes. −1 fits the kernels of Flax and
        Keras, (…, inputs, outputs). 0 fits the kernels of Equinox and PyTorch, and is Optax's choice.

    Raises:
      ValueError: A leaf of two axes or more does not have this axis.

    Source: Yong et al. 2020, arXiv 2004.01461, section 3.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.centralize()
    >>> tx.update(jnp.array([[1.0, 2.0], [3.0, 8.0]]), tx.init(jnp.zeros((2, 2))))[0]
    Array([[-1., -3.],
           [ 1.,  3.]], dtype=float32)
    """

    output_axis: Axis = -1

    formula = "u = g - input_mean(g)"

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        if g.ndim < 2 or not g.size:
            return g, slots
        inputs = all_but("centralize", context.path, g.shape, self.output_axis)
        return g - jnp.mean(g, axis=inputs, keepdims=True), slots


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
