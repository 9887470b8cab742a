"""Transformations by the norm or the root mean square of a leaf, or of the whole tree."""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, Kind, NonNegative, PerLeaf, Positive, Slots, Transformation, working_dtype
from gradtx.core.errors import said
from gradtx.core.where import Where, choose, chooser
from gradtx.pieces.elementwise import Map
from gradtx.pieces.formulas import norm, safe_divide, safe_sqrt, unit
from gradtx.pieces.measures import global_norm


def _bounds(place: str, value: Any) -> Any:
    if value is None:
        return None
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        raise TypeError(f"{place} must be None or two numbers, the least and the greatest, got {said(value)}") from None
    if not 0 <= low <= high or math.isinf(low):
        raise ValueError(f"{place} must be two numbers, 0 or more and in order, got {said(value)}")
    return low, high


Bounds = Annotated[Any, Kind(_bounds)]


class normalize(Map):
    """Gives the updates of each leaf, as one vector, the length 1.   u = g / ‖g‖;  0 stays 0

    Right for coordinates of any size. `clip_by_global_norm` is the piece that shortens all leaves alike.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.normalize()
    >>> tx.update({"w": jnp.array([3.0, 4.0]), "b": jnp.zeros(1)}, tx.init({"w": jnp.zeros(2), "b": jnp.zeros(1)}))[0]
    {'b': Array([0.], dtype=float32), 'w': Array([0.6, 0.8], dtype=float32)}
    """

    formula = "u = g / norm(g)"

    def map(self, g: Array) -> Array:
        return unit(g)


class trust_ratio(PerLeaf):
    r"""Makes the updates of each leaf as long as its parameter, times a coefficient.   u = r·g, r = c·‖θ‖ / ‖g‖

    $$u = r\,(g + λθ), \qquad r = \frac{c\,φ(‖θ‖)}{‖g‖ + λ‖θ‖ + ε}, \qquad φ(z) = \min(\max(z, a), b)$$

    r is 1 where φ(‖θ‖) or ‖g‖ is 0: a parameter at 0 is to leave it. So the biases, which start there, first move
    as without this piece; `masked(trust_ratio(), is_matrix, otherwise="identity")` leaves them out. Needs `params`.

    Args:
      coefficient: c, above 0: how far a step goes at a rate of 1, as a share of the parameter.
      eps: ε, in units of the updates.
      weight_decay: λ, 0 or more. Here, as in LARS, ‖g‖ and λ‖θ‖ are added; `add_weight_decay` before this piece, as in
        LAMB, makes it ‖g + λθ‖.
      where: Which parameters decay, of `add_weight_decay`. The ratio is for all.
      bounds: a and b, the least and the greatest ‖θ‖ to reckon with, in units of the parameters, b may be infinite;
        None for ‖θ‖ as it is. They are part of the structure: numbers only.

    Raises:
      TypeError: The bounds are not two numbers.
      ValueError: They are negative or not in order.

    Source: You, Gitman and Ginsburg 2017, arXiv 1708.03888, equation 6 (λ); You et al. 2020, arXiv 1904.00962,
    section 3 (φ).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.trust_ratio(), jnp.array([0.0, 10.0])
    >>> tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)[0]
    Array([6., 8.], dtype=float32)
    """

    coefficient: Positive = 1.0
    eps: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    where: Where = None
    bounds: Bounds = None

    formula = (
        "n = norm(θ); r = coefficient * (clip(n, bounds[0], bounds[1]) if bounds else n) "
        "/ (norm(g) + weight_decay * among(where) * n + eps); "
        "u = r ** (((clip(n, bounds[0], bounds[1]) if bounds else n) > 0) * (norm(g) > 0)) "
        "* (g + weight_decay * among(where) * θ)"
    )
    needs = ("params",)

    def init_tree(self, params: Any) -> Slots:
        choose("trust_ratio: where", self.where, params)
        return {}

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        chosen = chooser(self.where)(context.path, context.params)
        of_param, of_update = norm(context.params), norm(g)
        size = jnp.clip(of_param, *self.bounds) if self.bounds else of_param
        total = of_update + self.eps
        if chosen:
            g, total = g + self.weight_decay * context.params, total + self.weight_decay * of_param
        rest = (size == 0) | (of_update == 0)
        length, total = jnp.where(rest, 1, self.coefficient * size), jnp.where(rest, 1, total)
        return length * (g / total), slots  # never length / total, which may be too large a number, or too small


class fromage_rescale(PerLeaf):
    r"""Shrinks the parameters, after the step, by as much as an orthogonal step of relative length c makes them grow.

    $$u = \frac{θ + g}{\sqrt{1 + c^2}} − θ$$

    Last in a chain: what comes in is the step, what goes out the step with the shrinking. Needs `params`.

    Args:
      relative_step: c, the length of a step as a share of the parameter's: Fromage's learning rate.

    Source: Bernstein et al. 2020, arXiv 2002.03432, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.fromage_rescale(0.75), jnp.array([4.0, 0.0])
    >>> u, _ = tx.update(jnp.array([0.0, 3.0]), tx.init(params), params)
    >>> params + u  # (4, 3), back at the length 4
    Array([3.2, 2.4], dtype=float32)
    """

    relative_step: NonNegative

    formula = "u = (θ + g) / sqrt(1 + relative_step**2) - θ"
    needs = ("params",)

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        root = jnp.sqrt(1 + self.relative_step**2)
        growth = self.relative_step**2 / (1 + root)  # root − 1, without its cancellation
        return 1 / root * (g - growth * context.params), slots


def root_mean_square(x: Array) -> Array:
    """√mean(x²), also where the squares are no floats; its derivative at 0 is 0."""
    return norm(x) / math.sqrt(max(x.size, 1))


class unit_rms(Map):
    """Divides each leaf by its root mean square.   u = g / rms(g), and 0 for 0

    Source: Pethick et al. 2025, arXiv 2502.07529 (biases).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.unit_rms()
    >>> tx.update(jnp.array([1.0, -7.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 0.2, -1.4], dtype=float32)
    """

    formula = "u = g / rms(g)"

    def map(self, g: Array) -> Array:
        return math.sqrt(g.size) * unit(g)


class scale_by_param_rms(PerLeaf):
    r"""Multiplies each leaf of the updates by the size of its parameters.   u = max(rms(θ), c) · g

    Behind updates of size 1, the learning rate is then a share of the parameters a step.

    Args:
      floor: c, 0 or more, the least size, in units of the parameters: what starts at 0 can leave it.

    Source: Shazeer and Stern 2018, arXiv 1804.04235, section 8.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.scale_by_param_rms(), jnp.array([3.0, -3.0, 3.0, 3.0])
    >>> tx.update(jnp.array([1.0, 0.5, 0.0, 0.0]), tx.init(params), params)[0]
    Array([3. , 1.5, 0. , 0. ], dtype=float32)
    """

    floor: NonNegative = 1e-3

    formula = "u = max(rms(θ), floor) * g"
    needs = ("params",)

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        return jnp.maximum(root_mean_square(context.params), self.floor) * g, slots


class scale_by_total_norm(Transformation):
    r"""Divides the updates by the norm of all updates so far, one number for all leaves: AdaGrad's size as a norm.

    $$s ← \sqrt{s^2 + ‖g‖^2}; \qquad u = g / s$$

    Args:
      eps: s² before the first update, in squared units of the updates.

    Source: Ward, Wu and Bottou 2019, arXiv 1806.01811 (AdaGrad-Norm).

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.scale_by_total_norm(0.0)
    >>> gradients, start = jnp.array([3.0, 4.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([1. , 0.8], dtype=float32)
    """

    eps: NonNegative = 1e-8

    formula = "s0 = sqrt(eps); s = sqrt(s**2 + norm(g)**2); u = g / s"

    def init_tree(self, params: Any) -> Slots:
        return {"norm": safe_sqrt(jnp.asarray(self.eps, working_dtype(params)))}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        norm = global_norm((slots["norm"], updates))  # of the root, not the sum of squares: right at any size
        return jax.tree.map(lambda g: safe_divide(g, norm), updates), {"norm": norm}
