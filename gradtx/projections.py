"""Projections of parameters onto sets."""

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, PerLeaf, Positive, Scalar, Slots
from gradtx.pieces.elementwise import Map
from gradtx.pieces.formulas import norm, unit

__all__ = ["box", "initial_norm", "l1_ball", "simplex"]


class box(Map):
    """Project each coordinate onto an interval: the nearest point of a box.

    u = min(max(g, low), high)

    Args:
      low: The lower bound of a coordinate.
      high: The upper bound of a coordinate, at least `low`.

    Raises:
      ValueError: `low` is above `high`.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.projections.box(0.0, 1.0)
    >>> tx.update(jnp.array([0.5, 3.0, -1.0]), tx.init(jnp.zeros(3)))[0]
    Array([0.5, 1. , 0. ], dtype=float32)
    """

    low: Scalar
    high: Scalar

    elementwise = True
    formula = "u = clip(g, low, high)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.low, float) and isinstance(self.high, float) and self.low > self.high:
            raise ValueError(f"box: low must be at most high, got {self.low} and {self.high}")

    def map(self, g: Array) -> Array:
        return jnp.clip(g, self.low, self.high)


class initial_norm(PerLeaf):
    """Project each leaf onto the sphere of the norm that its parameter had at the start (Hyperball; Wen et al., 2026).

    u = ‖θ₀‖·g/‖g‖, and 0 for 0

    The norm is of the leaf as one vector; layers that `layout` declares to be stacked have one each. A parameter that
    is 0 at the start, such as a bias, stays 0: exclude it with `partition`. In `projected`, g is a parameter after its
    step. As a piece of a chain, this makes the norm of each step a fraction of the norm of the parameter.

    Source: Wen et al. 2026, arXiv 2606.16899.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.projected(gx.sgd(1.0), gx.projections.initial_norm()), jnp.array([5.0, 0.0])
    >>> u, _ = tx.update(jnp.array([2.0, -4.0]), tx.init(params), params)
    >>> params + u  # (3, 4), which has the norm 5 of the start
    Array([3., 4.], dtype=float32)
    """

    formula = "u = norm(θ0) * g / norm(g)"

    def init_leaf(self, param: Array) -> Slots:
        return {"norm": norm(param)}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        exact = norm(g) == slots["norm"]  # a parameter without a step stays as it is, to the bit
        return jnp.where(exact, g, slots["norm"] * unit(g)), slots


class simplex(Map):
    """Project onto the simplex: the nearest point whose coordinates are 0 or more and sum to s.

    u = max(g − τ, 0), with τ such that Σu = s

    The sum is over the coordinates of each leaf.

    Args:
      total: s, the sum of the coordinates, above 0.

    Source: Held, Wolfe and Crowder 1974; the threshold τ is found as in Michelot 1986.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.projections.simplex()
    >>> tx.update(jnp.array([0.75, 0.5, -3.0]), tx.init(jnp.zeros(3)))[0]
    Array([0.625, 0.375, 0.   ], dtype=float32)
    """

    total: Positive = 1.0

    formula = "u = max(g - threshold(g, total), 0)"

    def map(self, g: Array) -> Array:
        return _onto_simplex(g, self.total)


class l1_ball(Map):
    """Project onto the ℓ1 ball: the nearest point with absolute values that sum to at most r (Duchi et al., 2008).

    u = sign(g)·max(|g| − τ, 0), with the least τ ≥ 0 such that Σ|u| ≤ r

    The sum is over the coordinates of each leaf. Many coordinates become 0, as with a penalty on |g|.

    Args:
      radius: r, the largest sum of absolute values, above 0.

    Source: Duchi et al. 2008, Efficient projections onto the ℓ1-ball.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.projections.l1_ball(1.0)
    >>> tx.update(jnp.array([0.75, -1.25, 0.125]), tx.init(jnp.zeros(3)))[0]
    Array([ 0.25, -0.75,  0.  ], dtype=float32)
    """

    radius: Positive = 1.0

    formula = "u = sign(g) * max(abs(g) - max(threshold(abs(g), radius), 0), 0)"

    def map(self, g: Array) -> Array:
        sizes = jnp.abs(g)
        inside = jnp.sum(sizes) <= self.radius
        return jnp.where(inside, g, jnp.sign(g) * _onto_simplex(sizes, self.radius))


def _onto_simplex(x: Array, total: Array) -> Array:
    """Return max(x − τ, 0) with the sum `total`; τ comes from a shrinking set of coordinates that may be above 0."""
    if not x.size:
        return x
    x = x - jax.lax.stop_gradient(jnp.max(x))  # shifts τ equally; from here on τ is in [−total, 0)

    def threshold(candidates, x, total):
        return (jnp.sum(jnp.where(candidates, x, 0)) - total) / jnp.sum(candidates, dtype=x.dtype)

    def fewer(candidates):
        return candidates & (still > threshold(candidates, still, limit))

    still, limit = jax.lax.stop_gradient((x, total))
    first = ~(still <= -limit)
    _, candidates = jax.lax.while_loop(
        lambda pair: jnp.any(pair[0] != pair[1]), lambda pair: (pair[1], fewer(pair[1])), (first, fewer(first))
    )
    return jnp.maximum(x - threshold(candidates, x, total), 0)


def __dir__() -> list[str]:
    return __all__
