"""Preconditioning by a matrix for each side of a matrix."""

from typing import Any

import jax.numpy as jnp

from gradtx.core import Context, Part, Slots, Transformation, path_of
from gradtx.core.axes import axes_of
from gradtx.core.trees import Measurement, flatten_with_path, is_none
from gradtx.pieces.bases import gathered, matrix_of, placed
from gradtx.pieces.factors import Factors, covariance_roots


class kronecker(Transformation):
    r"""Precondition a direction by a matrix for each side of each matrix (Shampoo; Gupta et al., 2018).

    $$u = P_L\, d\, P_R$$

    `precondition` divides coordinates; this does the same with matrices. Both d and the factors are made of the same
    updates. A leaf that is not a linear map with known axes, such as a bias or a table of embeddings, is d: give it to
    another transformation with `partition`. The scale of u depends on the factors; `graft` gives it the norm of another
    optimizer's step.

    Where new factors are not finite, or the iteration of a root does not converge, the old ones stay;
    `gx.measurements(state)` counts these as `"factors refused"`.

    Args:
      direction: The transformation that makes d of the updates.
      by: The factors of the updates: `covariance_roots()` or `whitening()`.

    Raises:
      TypeError: `by` is not one of these.

    Source: Gupta, Koren and Singer 2018, arXiv 1802.09568, algorithm 1; Li 2018, arXiv 1512.04202 (PSGD).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.kronecker(gx.identity(), by=gx.covariance_roots(eps=0.0))
    >>> g = jnp.array([[4.0, 0.0], [0.0, -2.0]])
    >>> tx.update(g, tx.init(g))[0].round(3)  # all singular values become 1
    Array([[ 1.,  0.],
           [ 0., -1.]], dtype=float32)
    """

    direction: Part
    by: Factors = covariance_roots()

    fed = ("direction",)
    formula = "u = preconditioned(direction(g))"

    def init_tree(self, params: Any) -> Slots:
        return super().init_tree(params) | {"refused": {"factors refused": Measurement(jnp.zeros((), jnp.int32))}}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        direction = self.part("direction", updates, slots, context, new := {})
        self.part("by", updates, slots, context, new)
        leaves, tree = flatten_with_path(direction, is_leaf=is_none)
        kept = new["by"][type(self.by).__name__]
        left, right = (tree.flatten_up_to(kept[side]) for side in ("left", "right"))
        out = []
        for (keys, d), a, b in zip(leaves, left, right):
            fitted = a is not None or b is not None
            if d is not None and fitted and (view := matrix_of(axes_of(path_of(keys), d), d.shape)):
                row = {"left": a if a is None else gathered(a), "right": b if b is None else gathered(b)}
                d = placed(view.back(self.by.applied(view.of(gathered(d)), row), d.shape), d)
            out.append(d)
        refused = [jnp.sum(x, dtype=jnp.int32) for x in tree.flatten_up_to(kept["refused"]) if x is not None]
        new["refused"] = {"factors refused": Measurement(sum(refused, jnp.zeros((), jnp.int32)))}
        return tree.unflatten(out), new
