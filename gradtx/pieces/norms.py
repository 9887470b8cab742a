"""Transformations by the norm or the root mean square of a leaf, or of the whole tree."""

import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.core import Context, Kind, NonNegative, PerLeaf, Positive, Slots, Transformation, working_dtype
from gradtx.core.axes import refuse_doubt
from gradtx.core.errors import said
from gradtx.core.where import Where, choose
from gradtx.pieces.formulas import norm, safe_divide, safe_sqrt, unit
from gradtx.pieces.measures import global_norm


def _bounds(place: str, value: Any) -> Any:
    if value is None:
        return None
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        raise TypeError(f"{place} must be None or two numbers, (lower, upper), got {said(value)}") from None
    if not 0 <= low <= high or math.isinf(low):
        raise ValueError(f"{place} must be two numbers, 0 or more and in order, got {said(value)}")
    return low, high


Bounds = Annotated[Any, Kind(_bounds)]


class _PerVector(PerLeaf):
    """Base of pieces that treat each leaf, or each of its rows, columns, inputs or outputs, as one vector."""

    over: Literal["leaf", "rows", "columns", "inputs", "outputs", "both"] = "leaf"

    def init_tree(self, params: Any) -> Slots:
        if self.over in ("inputs", "outputs", "both"):
            refuse_doubt(self, params)
        return {}

    def axes_of(self, g: Array, context: Context, over: str) -> tuple[int, ...] | None:
        """The axes of the vectors; None for all."""
        kept = () if over == "leaf" else context.axes.kept(over)
        return tuple(axis for axis in range(g.ndim) if axis not in kept) if kept else None


class normalize(_PerVector):
    """Divide the updates of each leaf, or of each of its vectors, by their norm.

    u = g / ‖g‖;  0 stays 0

    The result is accurate for coordinates of any magnitude. `clip_by_global_norm` instead scales all leaves by one
    factor. Before `orthogonalize`, `over="inputs"` is the row normalization of MuonEq (Chang et al., 2026), and
    `over="both"` its two-sided form.

    Args:
      over: The vectors: `"leaf"`, all of a leaf; `"rows"`, each x[i]; `"columns"`, each x[..., j]; `"inputs"`, the
        weights into each output, or each row of a table of embeddings; or `"outputs"`, the weights out of each input,
        or each column of a table. A parameter with one axis is one vector. `"both"` divides each coordinate by the
        norms of its two vectors over inputs and outputs, both of g, and multiplies by ‖g‖, so that the scale of g does
        not matter: u is the matrix of signs where g has rank 1.

    Raises:
      ValueError: With `"inputs"`, `"outputs"` or `"both"`, the axes of a leaf are in doubt: declare them with `layout`.

    Source: Chang et al. 2026, arXiv 2603.28254 (inputs, outputs and both: the forms R, C and RC, without their ε).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.normalize()
    >>> tx.update({"w": jnp.array([3.0, 4.0]), "b": jnp.zeros(1)}, tx.init({"w": jnp.zeros(2), "b": jnp.zeros(1)}))[0]
    {'b': Array([0.], dtype=float32), 'w': Array([0.6, 0.8], dtype=float32)}
    """

    formula = (
        "u = g / norm(g) if over == 'leaf' else g / row_norm(g) if over == 'rows' else "
        "g / column_norm(g) if over == 'columns' else g / input_norm(g) if over == 'inputs' else "
        "g / output_norm(g) if over == 'outputs' else norm(g) * g / (input_norm(g) * output_norm(g))"
    )

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        if self.over != "both":
            return unit(g, self.axes_of(g, context, self.over)), slots
        inputs, outputs = (self.axes_of(g, context, over) for over in ("inputs", "outputs"))
        across = norm(unit(g), outputs)
        vanishes = across == 0
        return jnp.where(vanishes, 0, unit(g, inputs) / jnp.where(vanishes, 1, across)), slots


class trust_ratio(PerLeaf):
    r"""Trust ratio: scale the updates of each leaf to the norm of its parameter (LARS; You et al., 2017).

    u = r·g, r = c·‖θ‖ / ‖g‖

    $$u = r\,(g + λθ), \qquad r = \frac{c\,φ(‖θ‖)}{‖g‖ + λ‖θ‖ + ε}, \qquad φ(z) = \min(\max(z, a), b)$$

    The first formula holds for λ = 0, ε = 0 and no bounds. r is 1 where φ(‖θ‖) or ‖g‖ is 0, so that a parameter at 0
    can leave it. Biases start at 0, so they first move as without this piece. To exclude them, use
    `masked(trust_ratio(), is_matrix, otherwise="identity")`. Needs `params`.

    Args:
      coefficient: c, above 0: the norm of a step at a learning rate of 1, as a fraction of the parameter's norm.
      eps: ε, added to the denominator, 0 or more. It is in units of the updates.
      weight_decay: λ, 0 or more. Here, as in LARS, ‖g‖ and λ‖θ‖ are added; `add_weight_decay` before this piece, as in
        LAMB, makes it ‖g + λθ‖.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
        The ratio applies to all parameters.
      bounds: a and b, the lower and upper bounds of ‖θ‖ in φ, in units of the parameters; b may be infinite. None
        leaves ‖θ‖ as it is. The bounds are part of the structure, so they must be numbers.

    Raises:
      TypeError: The bounds are not two numbers.
      ValueError: The bounds are negative or not in order.

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
        chosen = context.chooses(self.where)
        of_param, of_update = norm(context.params), norm(g)
        size = jnp.clip(of_param, *self.bounds) if self.bounds else of_param
        total = of_update + self.eps
        if chosen:
            g, total = g + self.weight_decay * context.params, total + self.weight_decay * of_param
        rest = (size == 0) | (of_update == 0)
        length, total = jnp.where(rest, 1, self.coefficient * size), jnp.where(rest, 1, total)
        return length * (g / total), slots  # not length / total, which may over- or underflow


class fromage_rescale(PerLeaf):
    r"""Rescale the parameters after a step, to undo their growth (Fromage; Bernstein et al., 2020).

    $$u = \frac{θ + g}{\sqrt{1 + c^2}} − θ$$

    An orthogonal step of relative norm c makes the norm of a parameter grow by the factor √(1 + c²). Put this piece
    last in a chain: the incoming update is the step, and the outgoing update is the step with the rescaling. Needs
    `params`.

    Args:
      relative_step: c, the norm of a step as a fraction of the parameter's norm, 0 or more: Fromage's learning rate.

    Source: Bernstein et al. 2020, arXiv 2002.03432, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.fromage_rescale(0.75), jnp.array([4.0, 0.0])
    >>> u, _ = tx.update(jnp.array([0.0, 3.0]), tx.init(params), params)
    >>> params + u  # (4, 3), rescaled to the norm 4
    Array([3.2, 2.4], dtype=float32)
    """

    relative_step: NonNegative

    elementwise = True
    formula = "u = (θ + g) / sqrt(1 + relative_step**2) - θ"
    needs = ("params",)

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        root = jnp.sqrt(1 + self.relative_step**2)
        growth = self.relative_step**2 / (1 + root)  # root − 1, without cancellation
        return 1 / root * (g - growth * context.params), slots


def root_mean_square(x: Array) -> Array:
    """Return √mean(x²), also where the squares overflow or underflow; its derivative at 0 is 0."""
    return norm(x) / math.sqrt(max(x.size, 1))


class unit_rms(_PerVector):
    """Divide the updates of each leaf, or of each of its vectors, by their root mean square (Pethick et al., 2025).

    u = g / rms(g), and 0 for 0

    Args:
      over: The vectors: `"leaf"`, all of a leaf; `"rows"`, each x[i]; `"columns"`, each x[..., j]; `"inputs"`, the
        weights into each output, or each row of a table of embeddings; or `"outputs"`, the weights out of each input,
        or each column of a table. A parameter with one axis is one vector.

    Raises:
      ValueError: With `"inputs"` or `"outputs"`, the axes of a leaf are in doubt: declare them with `layout`.

    Source: Pethick et al. 2025, arXiv 2502.07529 (biases); Glentis et al. 2025, arXiv 2506.16659 (inputs); Scetbon et
    al. 2025, arXiv 2502.06742 (inputs and outputs).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.unit_rms()
    >>> tx.update(jnp.array([1.0, -7.0]), tx.init(jnp.zeros(2)))[0]
    Array([ 0.2, -1.4], dtype=float32)
    """

    over: Literal["leaf", "rows", "columns", "inputs", "outputs"] = "leaf"

    formula = (
        "u = g / rms(g) if over == 'leaf' else g / row_rms(g) if over == 'rows' else "
        "g / column_rms(g) if over == 'columns' else g / input_rms(g) if over == 'inputs' else g / output_rms(g)"
    )

    def update_leaf(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        axes = self.axes_of(g, context, self.over)
        size = g.size if axes is None else math.prod(g.shape[axis] for axis in axes)
        return math.sqrt(size) * unit(g, axes), slots


class scale_by_param_rms(PerLeaf):
    """Multiply the updates of each leaf by the root mean square of its parameters (Shazeer and Stern, 2018).

    u = max(rms(θ), c) · g

    After updates of magnitude 1, the learning rate is the fraction by which a step changes the parameters. Needs
    `params`.

    Args:
      floor: c, the lower bound of rms(θ), 0 or more, in units of the parameters: parameters that start at 0 can leave
        it.

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
    r"""Divide the updates by the norm of all updates so far, over all leaves (AdaGrad-Norm; Ward et al., 2019).

    $$s ← \sqrt{s^2 + ‖g‖^2}; \qquad u = g / s$$

    s is AdaGrad's denominator as a norm, one number for all leaves.

    Args:
      eps: s² before the first update, 0 or more, in squared units of the updates.

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
        norm = global_norm((slots["norm"], updates))  # of the root, not the sum of squares: accurate at any scale
        return jax.tree.map(lambda g: safe_divide(g, norm), updates), {"norm": norm}
