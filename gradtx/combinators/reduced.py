"""Transformations of reductions over many coordinates, whose state is as small as these reductions."""

import math
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.combinators.combinator import refuse_functions
from gradtx.core import Context, Kind, Part, Slots, Transformation, init_slots, path_of, run
from gradtx.core.axes import axes_of, refuse_doubt, within
from gradtx.core.errors import said
from gradtx.core.kinds import Count
from gradtx.core.trees import differentiable, flatten_with_path, map_with_path, widen
from gradtx.pieces.formulas import safe_divide

HOW = {"mean": jnp.mean, "sum": jnp.sum, "max": jnp.max}


WORDS = ("leaf", "rows", "columns", "inputs", "outputs")


def _over(place: str, value: Any) -> Any:
    if value in WORDS:
        return value
    axes = (value,) if isinstance(value, int) else value
    if isinstance(axes, (tuple, list)) and all(isinstance(a, int) and not isinstance(a, bool) for a in axes):
        return tuple(axes)
    words = ", ".join(map(repr, WORDS))
    raise ValueError(f"{place} must be {words}, or the axes to reduce, got {said(value)}")


class OnFewer(Transformation):
    """Base of combinators whose inner transformation sees fewer numbers than there are coordinates."""

    inner: Part

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_functions(self, self.inner, "reductions of the leaves")

    def evaluate(self, params: Any, slots: Slots) -> Any:
        """Return the parameters unchanged: the inner transformation does not see them."""
        return params


class reduced(OnFewer):
    """Apply a transformation to block means, and broadcast the result back to each block.

    u = a(mean g), with one mean, sum or maximum for each block

    The inner transformation sees only these numbers, and the means of the parameters, so its state has their shape:
    `reduced(scale_by_ema(b), "rows")` keeps n numbers for an (n, m) matrix.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. It makes a of
        the numbers.
      over: The coordinates that are reduced to one number: `"leaf"`, all of a leaf; `"rows"`, each x[i]; `"columns"`,
        each x[..., j]; `"inputs"`, the weights into each output, or each row of a table of embeddings; `"outputs"`, the
        weights out of each input, or each column of a table; or the axes to reduce, such as `(0, 2)`. A vector is one
        row, one column, and the weights into one output. Layers that `layout` declares to be stacked are reduced one at
        a time, and real and imaginary parts together.
      blocks: The number of blocks of equal size into which neighbouring rows, columns, outputs (over their inputs) or
        inputs (over their outputs) are gathered; None for one block for each. With as many blocks as heads, the weights
        of a head have one number.
      how: The reduction of a block: `"mean"`, `"sum"` or `"max"`.

    Raises:
      ValueError: A leaf does not have an axis of `over`, `blocks` does not divide its rows or columns, or, with
        `"inputs"` or `"outputs"`, the axes of a leaf are in doubt: declare them with `layout`.

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
        if self.blocks is not None and self.over not in WORDS[1:]:
            words = "'rows', 'columns', 'inputs' or 'outputs'"
            raise ValueError(f"reduced: blocks needs over={words}, got over={self.over!r}")

    def init_tree(self, params: Any) -> Slots:
        if self.over in ("inputs", "outputs"):
            refuse_doubt(self, params)
        numbers = self._numbers(params, "mean")
        with within(fewer=True):
            return super().init_tree(numbers)

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        own = context._replace(params=self._numbers(context.params, "mean"))
        numbers = self._numbers(updates, self.how)
        with within(fewer=True):
            made = self.part("inner", numbers, slots, own, new := {})

        def expand(path, g, a):
            shape, axes = self._cut(path_of(path), g)
            return jnp.broadcast_to(jnp.expand_dims(a, axes), shape).reshape(g.shape)

        return map_with_path(expand, updates, made), new

    def _numbers(self, tree: Any, how: str) -> Any:
        def reduce(path, x):
            if not differentiable("params", x):
                return x
            shape, axes = self._cut(path_of(path), x := widen(x))
            return (HOW[how] if x.size else jnp.sum)(x.reshape(shape), axis=axes)

        return map_with_path(reduce, tree)

    def _cut(self, path: str, x: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shape with the blocks on a separate axis, and the axes to reduce."""
        own = axes_of(path, x)
        shape = own.sizes(x.shape)
        every = range(len(shape))
        if isinstance(self.over, tuple):
            if out := [a for a in self.over if a not in range(-x.ndim, x.ndim)]:
                raise ValueError(
                    f"reduced: over={self.over}, but the leaf {path!r} of shape {x.shape} has no axis {out[0]}"
                )
            return x.shape, tuple(sorted({a % x.ndim for a in self.over}))
        kept, of_block = list(own.of("batch")), own.kept(self.over)
        if self.blocks is not None and of_block:
            chosen, *others = of_block
            size, left = divmod(shape[chosen], self.blocks)
            if left or others:
                what = {"inputs": "outputs", "outputs": "inputs"}.get(self.over, self.over)
                raise ValueError(
                    f"reduced: blocks={self.blocks} must divide the number of {what}, but the leaf {path!r} "
                    f"of shape {x.shape} has {' by '.join(str(shape[a]) for a in of_block)}"
                )
            shape = (*shape[:chosen], self.blocks, size, *shape[chosen + 1 :])
            kept = [a + (a > chosen) for a in kept]
            every = range(len(shape))
        kept += of_block
        return shape, tuple(a for a in every if a not in kept)


class factored(OnFewer):
    r"""Apply a transformation to the row means and column means of a matrix, and emit their rank-one matrix.

    $$u_{ij} = \frac{r_i\, c_j}{\mathrm{mean}(r)}, \qquad r_i = a(\mathrm{mean}_j\, g_{ij}), \qquad
    c_j = a(\mathrm{mean}_i\, g_{ij})$$

    The state of the inner transformation has n + m numbers instead of n·m. Use it for nonnegative updates, such as
    squares: if a is linear, no matrix of rank one is nearer, by the I-divergence, to a of the full matrix. The
    rows are the inputs of a linear map, or the rows of a table, and the columns its outputs; several inputs, as in the
    kernel of a convolution, act as one axis. Where the axes of a leaf are in doubt, its last two axes are factored, and
    all others count matrices. Vectors are not factored, and real and imaginary parts are averaged together.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. It makes a of
        the means, and of a leaf that is not factored.
      min_size: The smallest size of both axes of a leaf that is factored; smaller leaves keep their full shape. So do
        vectors. `min_size=1` gives the same updates as the default, 2.

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
        slots = {}
        for name, part in self._parts(params).items():
            with within(fewer=name != "whole"):
                slots[name] = init_slots(self.inner, part)
        return {name: kept for name, kept in slots.items() if kept}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made, new, params = [], {}, self._parts(context.params)
        for name, part in self._parts(updates).items():
            with within(fewer=name != "whole"):
                out, kept = run(self.inner, part, slots.get(name, {}), context._replace(params=params[name]))
            new |= {name: kept} if kept else {}
            made.append(out)

        def join(path, g, r, c, whole):
            if whole is not None:
                return whole
            return _of_rank_one(r, c, *_sides(path_of(path), g)).reshape(g.shape)

        return map_with_path(join, updates, *made), new

    def _parts(self, tree: Any) -> dict[str, Any]:
        """Return the row means, the column means and the leaves that are not factored, with None elsewhere."""

        def parts(path: str, x: Any) -> tuple[Any, Any, Any]:
            if not differentiable("params", x):
                return None, None, x
            shape, rows, columns, rest = _sides(path, x := widen(x))
            if not rows or min(math.prod(shape[i] for i in side) for side in (rows, columns)) < self.min_size:
                return None, None, x
            mean, x = jnp.mean if x.size else jnp.sum, x.reshape(shape)
            return mean(x, (*columns, *rest)), mean(x, (*rows, *rest)), None

        leaves, structure = flatten_with_path(tree)
        several = zip(*(parts(path_of(path), x) for path, x in leaves)) if leaves else ((), (), ())
        return {n: structure.unflatten(column) for n, column in zip(("rows", "columns", "whole"), several)}


@partial(jax.jit, static_argnums=(2, 3, 4, 5))  # traced once for all leaves of one shape
def _of_rank_one(r: Array, c: Array, shape: Any, rows: Any, columns: Any, rest: Any) -> Array:
    """Return the matrix of these row means and column means."""
    r, c = jnp.expand_dims(r, (*columns, *rest)), jnp.expand_dims(c, (*rows, *rest))
    mean = jnp.mean(r, rows, keepdims=True)
    scale = jax.lax.stop_gradient(jnp.where(mean > 0, mean, 1))
    share = safe_divide(r / scale, mean / scale)  # r·c, and r/mean² in the derivative, may overflow
    # A product below what the dtype resolves is not 0 unless a factor is: a direction is divided by its root.
    least = jnp.where((r > 0) & (c > 0), jnp.finfo(r.dtype).tiny, 0)
    made = jnp.where(jnp.abs(share * c) < least, least, share * c)
    return jnp.broadcast_to(made, shape)


def _sides(path: str, x: Array) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the shape of a leaf with its axes split, and the axes of its rows, its columns, and its pairs of reals."""
    own = axes_of(path, x)
    rows, columns = own.of("in", "row"), own.of("out")
    if own.doubt:
        *_, row, column = own.of("?")
        rows, columns = (row,), (column,)
    shape = own.sizes(x.shape)
    return shape, rows if columns else (), columns, tuple(range(len(own.roles), len(shape)))
