"""Transformations of reductions over many coordinates, whose state is as small as these reductions."""

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import tree_map_with_path

from gradtx.combinators.combinator import refuse_functions
from gradtx.core import Context, Kind, Part, Slots, Transformation, init_slots, path_of, run
from gradtx.core.errors import said
from gradtx.core.kinds import Count
from gradtx.core.trees import differentiable, widen
from gradtx.pieces.formulas import safe_divide

HOW = {"mean": jnp.mean, "sum": jnp.sum, "max": jnp.max}


def _over(place: str, value: Any) -> Any:
    if value in ("leaf", "rows", "columns"):
        return value
    axes = (value,) if isinstance(value, int) else value
    if isinstance(axes, (tuple, list)) and all(isinstance(a, int) and not isinstance(a, bool) for a in axes):
        return tuple(axes)
    raise ValueError(f"{place} must be 'leaf', 'rows', 'columns', or the axes to reduce, got {said(value)}")


class OnFewer(Transformation):
    """Base of combinators whose inner transformation sees fewer numbers than there are coordinates."""

    inner: Part

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_functions(self, self.inner, "reductions of the leaves")


class reduced(OnFewer):
    """Apply a transformation to block means, and broadcast the result back to each block.

    u = a(mean g), with one mean, sum or maximum for each block

    The inner transformation sees only these numbers, and the means of the parameters, so its state has their shape:
    `reduced(scale_by_ema(b), "rows")` keeps n numbers for an (n, m) matrix.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. It makes a of
        the numbers.
      over: The coordinates that are reduced to one number: `"leaf"`, all of a leaf; `"rows"`, each x[i]; `"columns"`,
        each x[..., j]; or the axes to reduce, such as `(0, 2)`. A leaf of fewer than two axes is one row, and one
        column. In a matrix of shape (in, out), the weights into one neuron are a column; in one of (out, in), and in a
        table of embeddings, a row. A complex leaf has one more axis, the last, of real and imaginary parts.
      blocks: The number of blocks of equal size into which neighbouring rows or columns are gathered; None for one
        block for each. With `"columns"` and as many blocks as heads, the weights of a head have one number.
      how: The reduction of a block: `"mean"`, `"sum"` or `"max"`.

    Raises:
      ValueError: A leaf does not have an axis of `over`, or `blocks` does not divide its rows or columns.

    Source: Ginsburg et al. 2019, arXiv 1905.11286 (the leaf); Zhang et al. 2024, arXiv 2406.16793 (blocks).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, w = gx.reduced(gx.running_sum(), over="columns"), jnp.array([[1.0, 4.0], [3.0, 0.0]])
    >>> u, state = tx.update(w, tx.init(w))
    >>> u, state.slots["reduced"]["inner"]["running_sum"]["sum"]
    (Array([[2., 2.],
           [2., 2.]], dtype=float32), Array([2., 2.], dtype=float32))
    """

    over: Annotated[Any, Kind(_over)] = "leaf"
    blocks: Count | None = None
    how: Literal["mean", "sum", "max"] = "mean"

    @property
    def formula(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        over = "_".join(["axes", *map(str, self.over)]) if isinstance(self.over, tuple) else self.over.rstrip("s")
        return f"u = inner({over if self.blocks is None else f'{over}_block'}_{self.how}(g))".replace("-", "m")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks is not None and self.over not in ("rows", "columns"):
            raise ValueError(f"reduced: blocks needs over='rows' or over='columns', got over={self.over!r}")

    def init_tree(self, params: Any) -> Slots:
        return super().init_tree(self._numbers(params, "mean"))

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        own = context._replace(params=self._numbers(context.params, "mean"))
        made = self.part("inner", self._numbers(updates, self.how), slots, own, new := {})

        def expand(g, a):
            shape, axes = self._cut("", g.shape)
            return jnp.broadcast_to(jnp.expand_dims(a, axes), shape).reshape(g.shape)

        return jax.tree.map(expand, updates, made), new

    def _numbers(self, tree: Any, how: str) -> Any:
        def reduce(path, x):
            if not differentiable("params", x):
                return x
            shape, axes = self._cut(path_of(path), jnp.shape(x := widen(x)))
            return (HOW[how] if x.size else jnp.sum)(x.reshape(shape), axis=axes)

        return tree_map_with_path(reduce, tree)

    def _cut(self, path: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shape with the blocks on a separate axis, and the axes to reduce."""
        every = range(len(shape))
        if isinstance(self.over, tuple):
            if out := [a for a in self.over if a not in range(-len(shape), len(shape))]:
                raise ValueError(
                    f"reduced: over={self.over}, but the leaf {path!r} of shape {shape} has no axis {out[0]}"
                )
            return shape, tuple(sorted({a % len(shape) for a in self.over}))
        if self.over == "leaf" or len(shape) < 2:
            return shape, tuple(every)
        kept = 0 if self.over == "rows" else len(shape) - 1
        if self.blocks is None:
            return shape, tuple(a for a in every if a != kept)
        size, left = divmod(shape[kept], self.blocks)
        if left:
            raise ValueError(
                f"reduced: blocks={self.blocks} must divide the number of {self.over}, but the leaf {path!r} "
                f"of shape {shape} has {shape[kept]}"
            )
        gathered = (*shape[:kept], self.blocks, size, *shape[kept + 1 :])
        return gathered, tuple(a for a in range(len(gathered)) if a != kept)


class factored(OnFewer):
    r"""Apply a transformation to the row means and column means of a matrix, and emit their rank-one matrix.

    $$u_{ij} = \frac{r_i\, c_j}{\mathrm{mean}(r)}, \qquad r_i = a(\mathrm{mean}_j\, g_{ij}), \qquad
    c_j = a(\mathrm{mean}_i\, g_{ij})$$

    The state of the inner transformation has n + m numbers instead of n·m. Use it for nonnegative updates, such as
    squares: if a is linear, no matrix of rank one is nearer, by the I-divergence, to a of the full matrix. A leaf of
    more than two axes is a stack of matrices, which are its last two axes.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. It makes a of
        the means, and of a leaf that is not factored.
      min_size: The smallest size of both axes of a leaf that is factored; smaller leaves keep their full shape. The
        same holds for leaves with fewer than two axes. `min_size=1` gives the same updates as the default, 2.

    Source: Shazeer and Stern 2018, arXiv 1804.04235, section 3.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, w = gx.factored(gx.running_sum()), jnp.array([[1.0, 3.0], [2.0, 6.0]])
    >>> u, state = tx.update(w, tx.init(w))
    >>> u, state.slots["factored"]["rows"]["running_sum"]["sum"]
    (Array([[1., 3.],
           [2., 6.]], dtype=float32), Array([2., 4.], dtype=float32))
    """

    min_size: Count = 2

    formula = "r = inner(row_mean(g)); c = inner(column_mean(g)); u = r * c / mean(r)"

    def init_tree(self, params: Any) -> Slots:
        slots = {name: init_slots(self.inner, part) for name, part in self._parts(params).items()}
        return {name: kept for name, kept in slots.items() if kept}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made, new, params = [], {}, self._parts(context.params)
        for name, part in self._parts(updates).items():
            out, kept = run(self.inner, part, slots.get(name, {}), context._replace(params=params[name]))
            new |= {name: kept} if kept else {}
            made.append(out)

        def join(g, r, c, whole):
            if whole is not None:
                return whole
            mean = jnp.mean(r, -1, keepdims=True)
            scale = jax.lax.stop_gradient(jnp.where(mean > 0, mean, 1))
            share = safe_divide(r / scale, mean / scale)  # r·c, and r/mean² in the derivative, may overflow
            return share[..., :, None] * c[..., None, :]

        return jax.tree.map(join, updates, *made), new

    def _parts(self, tree: Any) -> dict[str, Any]:
        """Return the row means, the column means and the leaves that are not factored, with None elsewhere."""

        def parts(x: Any) -> tuple[Any, Any, Any]:
            if not differentiable("params", x):
                return None, None, x
            matrix: Array = widen(x)
            if matrix.ndim < 2 or min(matrix.shape[-2:]) < self.min_size:
                return None, None, matrix
            if not matrix.size:
                return jnp.sum(matrix, -1), jnp.sum(matrix, -2), None
            return jnp.mean(matrix, -1), jnp.mean(matrix, -2), None

        leaves, structure = jax.tree.flatten(tree)
        columns = zip(*map(parts, leaves)) if leaves else ((), (), ())
        return {n: structure.unflatten(column) for n, column in zip(("rows", "columns", "whole"), columns)}
