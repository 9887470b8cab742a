"""Combinators that change the norm of a direction, or project it off the parameters."""

import math
from typing import Any

import jax.numpy as jnp

from gradtx.core import Context, Part, Positive, Slots, Transformation
from gradtx.core.axes import refuse_doubt
from gradtx.core.layers import map_layers
from gradtx.core.root import separable
from gradtx.pieces.formulas import cosine, norm, tangent, unit


class graft(Transformation):
    """Combine the direction of one transformation with the norm of another, leaf by leaf.

    u = d·‖m‖/‖d‖;  0 where d is 0

    Both transformations see the same updates. Grafting gives a new direction the step norms of an optimizer that is
    already tuned.

    Args:
      magnitude: The transformation that makes m of the updates; only its norm is used.
      direction: The transformation that makes d of the updates.

    Source: Agarwal et al. 2020, arXiv 2002.11803, algorithm 1, by layer.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.graft(gx.sgd(0.1), gx.sign())
    >>> tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))[0].round(4)
    Array([0.3536, 0.3536], dtype=float32)
    """

    magnitude: Part
    direction: Part

    fed = ("magnitude", "direction")
    formula = "d = direction(g); u = norm(magnitude(g)) / norm(d) * d"

    @separable
    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        magnitude = self.part("magnitude", updates, slots, context, new := {})
        direction = self.part("direction", updates, slots, context, new)
        return map_layers(lambda axes, m, d: norm(m) * unit(d), magnitude, direction), new


class project_if_orthogonal(Transformation):
    r"""Remove the component of the update along the parameters where the gradient is orthogonal to them (AdamP, SGDP).

    $$u = Π(a) \text{ if } |\cos(g, θ)| < \frac{δ}{\sqrt n}, \text{ else } a; \qquad Π(a) = a − \hatθ⟨\hatθ, a⟩$$

    A weight whose norm does not matter, because a normalization follows, has a gradient orthogonal to it. A momentum
    step is not orthogonal, and makes the norm grow; the same learning rate then turns the weight less.

    For a linear map, the condition is tested by channel: the weights of one output, n of them. If it holds for every
    channel, each channel is projected; otherwise the leaf is tested, and projected, as a whole. Vectors and tables of
    embeddings are left unchanged. Needs `params`.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. It makes a of
        g, the gradient.
      threshold: δ, the bound on |cos(g, θ)|·√n below which the update is projected, above 0.
    Raises:
      ValueError: The axes of a leaf are in doubt: declare them with `layout`.

    Source: Heo et al. 2021, arXiv 2006.08217, algorithms 1 and 2; channel and layer as in its published code.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.project_if_orthogonal(gx.add_constant(1.0)), jnp.array([[3.0], [4.0]])
    >>> tx.update(jnp.array([[4.0], [-3.0]]), tx.init(params), params)[0].round(2).T
    Array([[ 4.16, -3.12]], dtype=float32)
    >>> tx.update(jnp.array([[4.0], [0.0]]), tx.init(params), params)[0].T
    Array([[5., 1.]], dtype=float32)
    """

    inner: Part
    threshold: Positive = 0.1

    fed = ("inner",)
    formula = "u = tangent(inner(g), θ, g, threshold)"
    needs = ("params",)

    def init_tree(self, params: Any) -> Slots:
        refuse_doubt(self, params)
        return super().init_tree(params)

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made = self.part("inner", updates, slots, context, new := {})

        def project(axes, a, g, param):
            if not axes.is_linear or not g.size:
                return a
            channel = tuple(i for i in range(g.ndim) if i not in axes.of("out"))
            in_channel = math.prod(g.shape[i] for i in channel)
            of_channels = jnp.max(jnp.abs(cosine(g, param, channel))) < self.threshold / math.sqrt(in_channel)
            of_layer = jnp.abs(cosine(g, param)) < self.threshold / math.sqrt(g.size)
            return jnp.where(of_channels, tangent(a, param, channel), jnp.where(of_layer, tangent(a, param), a))

        return map_layers(project, made, updates, context.params), new
