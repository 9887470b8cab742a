"""Accumulations over many coordinates at once: what they remember is as small as what they are given."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import tree_map_with_path

from gradtx.combinators.combinator import refuse_functions
from gradtx.core import Context, Kind, Part, Slots, Transformation, init_slots, path_of, run
from gradtx.core.errors import said
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


def _count(place: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{place} must be a whole number, 1 or more, got {said(value)}")
    return value


def _how(place: str, value: Any) -> Any:
    if not isinstance(value, str) or value not in HOW:
        raise ValueError(f"{place} must be 'mean', 'sum' or 'max', got {said(value)}")
    return value


class OnFewer(Transformation):
    """A combinator whose inner transformation sees fewer numbers than there are coordinates."""

    inner: Part

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_functions(self, self.inner, "fewer numbers")


class reduced(OnFewer):
    r"""Runs a transformation on one number for each block of a leaf; all of it gets what is emitted.   u = a(mean g)

    The inner transformation sees the numbers alone, also of the parameters (their mean), so that what it remembers has
    their shape: `reduced(scale_by_ema(b), "rows")` keeps n numbers for an (n, m) matrix.

    Args:
      inner: Makes a of the numbers.
      over: What has one number: `"leaf"`, all of a leaf; `"rows"`, each x[i]; `"columns"`, each x[..., j]; or the axes
        to reduce, such as `(0, 2)`. A leaf of fewer than two axes is one row, and one column. In a matrix of shape
        (in, out), the weights into one neuron are a column; in one of (out, in), and in a table of embeddings, a row.
        A complex leaf has a last axis more, of real and imaginary parts.
      blocks: Into how many blocks of neighbours the rows or columns are gathered, all of equal size; None, each is its
        own. With `"columns"` and as many as heads, the weights of a head have one number.
      how: What is made of a block: its `"mean"`, `"sum"` or `"max"`.

    Raises:
      ValueError: A leaf lacks an axis of `over`, or its rows or columns cannot be gathered into `blocks`.

    Source: Ginsburg et al. 2019, arXiv 1905.11286 (the leaf); Zhang et al. 2024, arXiv 2406.16793 (blocks).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, w = gx.reduced(gx.running_sum(), over="columns"), jnp.array([[1.0, 4.0], [3.0, 0.0]])
    >>> u, state = tx.update(w, tx.init(w))
    >>> u, state.slots["reduced"]["inner"]["running_sum"]["sum"]
    (Array([[2., 2.],
           [2., 2.]], dtype=float32), Array([2., 2.], dtype=float32))
    """

    over: Annotated[Any, Kind(_over)] = "leaf"
    blocks: Annotated[Any, Kind(lambda place, value: None if value is None else _count(place, value))] = None
    how: Annotated[str, Kind(_how)] = "mean"

    @property
    def formula(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        over = "_".join(["axes", *map(str, self.over)]) if isinstance(self.over, tuple) else self.over.rstrip("s")
        return f"u = inner({over if self.blocks is None else f'{over}_block'}_{self.how}(g))".replace("-", "m")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks is not None and self.over not in ("rows", "columns"):
            raise ValueError(f"reduced: blocks gathers rows or columns, not {self.over!r}")

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
        """The shape with the blocks on an axis of their own, and the axes to reduce."""
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
                f"reduced: the leaf {path!r} of shape {shape} has {shape[kept]} {self.over}, which do not make "
                f"blocks={self.blocks} equal blocks"
            )
        gathered = (*shape[:kept], self.blocks, size, *shape[kept + 1 :])
        return gathered, tuple(a for a in range(len(gathered)) if a != kept)


class factored(OnFewer):
    r"""Runs a transformation on a matrix's row means and column means, and emits the matrix of rank one with these.

    $$u_{ij} = \frac{r_i\, c_j}{\mathrm{mean}(r)}, \qquad r_i = a(\mathrm{mean}_j\, g_{ij}), \qquad
    c_j = a(\mathrm{mean}_i\, g_{ij})$$

    What the inner transformation remembers is n + m numbers instead of n·m. For sizes, 0 or more, such as squares: if a
    is linear, no matrix of rank one is nearer, by the I-divergence, to what a would make of the whole. A leaf of more
    than two axes is a stack of matrices, which are its last two.

    Args:
      inner: Makes a of the means, and of a leaf that is not factored.
      min_size: The least size of both axes; a leaf with smaller or fewer axes is not factored. At 1 the same comes out.

    Source: Shazeer and Stern 2018, arXiv 1804.04235, section 3.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, w = gx.factored(gx.running_sum()), jnp.array([[1.0, 3.0], [2.0, 6.0]])
    >>> u, state = tx.update(w, tx.init(w))
    >>> u, state.slots["factored"]["rows"]["running_sum"]["sum"]
    (Array([[1., 3.],
           [2., 6.]], dtype=float32), Array([2., 4.], dtype=float32))
    """

    min_size: Annotated[int, Kind(_count)] = 2

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
            share = safe_divide(r / scale, mean / scale)  # r·c, and r/mean² in the derivative, may be no float
            return share[..., :, None] * c[..., None, :]

        return jax.tree.map(join, updates, *made), new

    def _parts(self, tree: Any) -> dict[str, Any]:
        """The row means, the column means, and the leaves that are not factored; None for what is in another."""

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
