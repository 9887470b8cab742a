"""Pieces that take a direction out of the updates: that of the mean, or that of the parameters."""

from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, Kind, PerLeaf, Slots
from gradtx.core.errors import said
from gradtx.pieces.formulas import norm, safe_divide, tangent


def _axis(place: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{place} must be a whole number, got {said(value)}")
    return value


Axis = Annotated[int, Kind(_axis)]
"""The number of an axis, from 0, or from −1 backwards."""


def all_but(name: str, path: str, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The axes of a leaf that are not its axis of outputs."""
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{name}: output_axis={axis} is no axis of {path!r}, which has shape {shape}: mask that leaf")
    return tuple(i for i in range(len(shape)) if i != axis % len(shape))


class centralize(PerLeaf):
    """Takes the mean over the inputs out of the updates of a matrix, for each output.   u = g − mean(g)

    So the sum of the weights of an output stays what it is. Leaves of fewer than two axes are left as they are.

    Args:
      output_axis: The axis of outputs; the mean is over all others. −1 is right for the kernels of Flax and Keras,
        (…, inputs, outputs), 0 for those of Equinox and PyTorch, and what Optax takes.

    Raises `ValueError` for an axis that a leaf of two axes or more does not have.

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
    r"""Takes out of the updates what is along the parameters, leaf by leaf.   u = g − θ̂⟨θ̂, g⟩, θ̂ = θ/‖θ‖

    What is left turns the parameter and does not stretch it, to first order. Needs `params`.

    Args:
      keep_norm: Whether what is left is made as long as g was. Where nothing is left but rounding, u is 0.

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
