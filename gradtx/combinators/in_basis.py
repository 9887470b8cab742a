"""A transformation of the coordinates of matrices in a basis."""

from contextlib import AbstractContextManager
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from gradtx.combinators.combinator import PartOrNone, refuse_functions
from gradtx.core import Context, Part, Slots, Transformation, init_slots, path_of, run, walk
from gradtx.core.axes import axes_of, viewed
from gradtx.core.root import names_of
from gradtx.core.trees import Measurement, differentiable, flatten_with_path, is_none, sharded, sharded_along, widen
from gradtx.pieces.bases import Basis, Matrix, eigenbasis, gathered, matrix_of, placed, times, where_due
from gradtx.pieces.formulas import norm

SIDES = ("left", "right")


class in_basis(Transformation):
    r"""Apply a transformation to the coordinates of each matrix in an orthonormal basis (SOAP; Vyas et al., 2024).

    $$u = Q_L\, a(Q_L^⊤\, g\, Q_R)\, Q_R^⊤$$

    Any optimizer of coordinates becomes one of matrices: Adam in the eigenbasis of the gradients is SOAP, in their
    first singular vectors GaLore. In both singular bases of one gradient, which `singular_vectors(1, "both")` has, this
    gradient is diagonal, and all other coordinates are rounding errors: divide by no denominator there.

    When the basis changes, the averages of a turn with it: the slots of `linear` pieces, up to the first piece of a
    chain that is not linear. All others, such as averages of squares, stay as they are, coordinate by coordinate.

    A leaf that is not a linear map with known axes, such as a bias, a table of embeddings or a complex leaf, goes to
    the inner transformation as it is. The names of the leaves, or `layout`, determine which axes are inputs and
    outputs: several inputs act as one axis, so do several outputs, and stacked matrices have a basis each.

    An `eigenbasis` is used from the next update on, because a gradient is diagonal in the basis that is made of it. So
    the first update is 0 for all leaves, as in SOAP's code, and the inner transformation starts at the second.

    Where new vectors are not finite, the basis stays as it was; `gx.measurements(state)` counts these as
    `"bases refused"`.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. It makes a of
        the coordinates, and sees the coordinates of the parameters. With `residual`, or an `emit` that scales g,
        put the learning rate behind `in_basis`: they keep the sign of g.
      basis: `eigenbasis()`, `singular_vectors()` or `random_vectors()`.
      of: The transformation of the updates that the basis is made of, such as `scale_by_ema(0.9)` (Conda). None for the
        updates themselves.
      residual: For a basis of fewer vectors, the transformation of the part of g outside its span, scaled column by
        column as `inner` scaled the part inside, whose output is added (Fira). None to drop this part (GaLore).
      emit: `"update"`; `"scaled"`, g itself, scaled column by column as `inner` scaled its coordinates (APOLLO); or
        `"scaled_whole"`, g scaled by one factor, as `inner` scaled the norm of all coordinates (APOLLO-Mini).
      carry: If True, averages turn with the basis. If False, they stay as they are (GaLore).
      skip_first: If False, the first update with an `eigenbasis` is not 0: the inner transformation starts in the
        original coordinates (SPlus).

    Raises:
      TypeError: `basis` is not a basis.
      ValueError: The inner transformation needs a function of all parameters: `grad_fn`, `hvp` or `value_fn`.

    Source: Vyas et al. 2024, arXiv 2409.11321, algorithm 3; Zhao et al. 2024, arXiv 2403.03507 (GaLore); Chen et al.
    2024, arXiv 2410.01623 (Fira); Zhu et al. 2024, arXiv 2412.05270 (APOLLO); Wang et al. 2025, arXiv 2509.24218
    (Conda).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.in_basis(gx.sign(), gx.singular_vectors(rank=1))  # of the largest singular value alone
    >>> g = jnp.array([[3.0, 0.0], [0.0, -5.0]])
    >>> tx.update(g, tx.init(g))[0] + 0.0
    Array([[ 0.,  0.],
           [ 0., -1.]], dtype=float32)
    """

    inner: Part
    basis: Basis = eigenbasis()
    of: PartOrNone = None
    residual: PartOrNone = None
    emit: Literal["update", "scaled", "scaled_whole"] = "update"
    carry: bool = True
    skip_first: bool = True

    counts = True
    formula = "u = from_basis(inner(to_basis(g)))"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_functions(self, self.inner, "coordinates in another basis")

    def evaluate(self, params: Any, slots: Slots) -> Any:
        """Return the parameters unchanged: the inner transformation sees them in another basis."""
        return params

    def init_tree(self, params: Any) -> Slots:
        basis = init_slots(self.basis, params)
        leaves, tree = flatten_with_path(params)
        rows = self._rows(tree, basis, len(leaves))
        seen, views = [], []
        for (keys, p), row in zip(leaves, rows):
            view = _view(path_of(keys), p, row)
            if view:
                x = view.of(p := widen(p))
                axes = (*view.order[: x.ndim - 2], *view.sides) if view.split == p.shape else (None,) * x.ndim
                fewer = {side: b for side, b in row.items() if b is not None and b.shape[-1] < b.shape[-2]}
                if fewer:  # the other bases start as the identity
                    x = _rotated(gathered(x), dict.fromkeys(SIDES) | fewer)
                    axes = tuple(
                        None if axis is None or size < p.shape[axis] else axis for axis, size in zip(axes, x.shape)
                    )
                p = sharded(x, p) if x.shape == p.shape else sharded_along(x, p, axes)
            seen.append(p)
            views.append(view)
        slots = {} if self.of is None else {"of": init_slots(self.of, params)}
        slots |= {"basis": basis, "refused": {"bases refused": Measurement(jnp.zeros((), jnp.int32))}}
        with self._scope(leaves, views, seen):
            slots["inner"] = init_slots(self.inner, tree.unflatten(seen))
        if self.residual is not None:
            matrices = tree.unflatten(p if view else None for (_, p), view in zip(leaves, views))
            slots["residual"] = init_slots(self.residual, matrices)
        return {name: kept for name, kept in slots.items() if kept}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        leaves, tree = flatten_with_path(updates, is_leaf=is_none)
        gs, late, new = [g for _, g in leaves], not self.basis.ahead, dict(slots)
        before = self._rows(tree, slots["basis"], len(gs))
        views = [_view(path_of(keys), g, row) for (keys, g), row in zip(leaves, before)]
        fitted = updates if self.of is None else self.part("of", updates, slots, context, new)
        self.part("basis", fitted, slots, context, new)
        after = self._rows(tree, new["basis"], len(gs))
        rows = before if late else after

        def turn(slot: Any) -> Any:
            def one(x: Any, view: Any, a: Any, b: Any) -> Any:
                if view is None or x is None:
                    return x
                return placed(_rotated(_back(gathered(x), a), b), x)

            return tree.unflatten(map(one, tree.flatten_up_to(slot), views, before, after))

        def carried(inner: Slots) -> Slots:
            if not (self.carry and inner):
                return inner
            age = new["basis"][type(self.basis).__name__]["age"]
            return where_due(self.basis.is_due(age), lambda: _named(self.inner, inner, turn), inner)

        old = slots.get("inner", {})
        seen = [_seen(g, view, row) for g, view, row in zip(gs, views, rows)]
        own = context
        if context.params is not None:
            params = tree.flatten_up_to(context.params) if _reads_params(self.inner) else [None] * len(gs)
            of_params = [_seen(p, view, row) for p, view, row in zip(params, views, rows)]
            own = context._replace(params=tree.unflatten(of_params) if _reads_params(self.inner) else context.params)
        with self._scope(leaves, views, seen):
            made, inner = run(self.inner, tree.unflatten(seen), old if late else carried(old), own)
        if late and self.skip_first:
            first = context.age == 1
            made = jax.tree.map(lambda u: jnp.where(first, 0, u), made)
            inner = jax.tree.map(lambda x, kept: jnp.where(first, kept, x), inner, old)
        inner = carried(inner) if late else inner
        out, left = [], []
        for u, x, g, view, row in zip(tree.flatten_up_to(made), seen, gs, views, rows):
            u, rest = (u, None) if view is None or g is None else self._emitted(u, x, g, view, row)
            out.append(u)
            left.append(rest)
        if self.residual is not None:
            rests = self.part("residual", tree.unflatten(left), slots, context, new)
            out = [u if r is None else u + r for u, r in zip(out, tree.flatten_up_to(rests))]
        refused = [
            jnp.sum(x, dtype=jnp.int32) for x in jax.tree.leaves(new["basis"][type(self.basis).__name__].get("refused"))
        ]
        new["refused"] = {"bases refused": Measurement(sum(refused, jnp.zeros((), jnp.int32)))}
        return tree.unflatten(out), new | ({"inner": inner} if inner else {})

    def _emitted(self, u: Array, x: Array, g: Array, view: Matrix, row: Slots) -> tuple[Array, Array | None]:
        """The update of a matrix, and what remains of g, scaled."""
        whole, u, x = view.of(gathered(g)), gathered(u), gathered(x)
        if self.emit == "update" and self.residual is None:
            return placed(view.back(_back(u, row), g.shape), g), None
        every = self.emit == "scaled_whole"
        along = tuple(axis for side, axis in zip(SIDES, (-2, -1)) if every or row[side] is not None)
        size, of_x = norm(u, along), norm(x, along)

        def as_inner(y: Array) -> Array:  # the quotient of the norms may overflow
            return jnp.where(of_x == 0, 0, y / jnp.where(of_x == 0, 1, of_x) * size)

        if self.emit != "update":
            return placed(view.back(as_inner(whole), g.shape), g), None
        rest = placed(view.back(as_inner(whole - _back(x, row)), g.shape), g)
        return placed(view.back(_back(u, row), g.shape), g), rest

    def _rows(self, tree: Any, basis: Slots, count: int) -> list[Slots]:
        """The vectors of each leaf."""
        kept = basis[type(self.basis).__name__]
        left, right = (tree.flatten_up_to(kept[side]) for side in SIDES)
        return [{"left": a, "right": b} for a, b in zip(left, right)]

    def _scope(self, leaves: Any, views: Any, seen: Any) -> AbstractContextManager[None]:
        """The scope in which a leaf that is a matrix has the axes of its coordinates."""
        rows = zip(leaves, views, seen)
        return viewed({path_of(k): (v.axes, x) for (k, _), v, x in rows if v and x is not None and v.split != x.shape})


def _reads_params(tx: Transformation) -> bool:
    return any("params" in piece.reads() or "**" in piece.needs for piece in walk(tx))


def _view(path: str, x: Any, row: Slots) -> Matrix | None:
    """The view of a leaf that has a basis."""
    if x is None or (row["left"] is None and row["right"] is None) or not differentiable("params", x):
        return None
    return matrix_of(axes_of(path, x), widen(x).shape)


def _seen(x: Any, view: Matrix | None, row: Slots) -> Any:
    """The coordinates of a leaf in its basis; a leaf without one as it is."""
    if view is None or x is None:
        return x
    made = _rotated(view.of(gathered(x)), row)
    return sharded(placed(made, x), x)


def _rotated(x: Array, row: Slots) -> Array:
    left, right = (None if row[side] is None else gathered(row[side]) for side in SIDES)
    x = x if left is None else times(left.mT, x)
    return x if right is None else times(x, right)


def _back(x: Array, row: Slots) -> Array:
    left, right = (None if row[side] is None else gathered(row[side]) for side in SIDES)
    x = x if left is None else times(left, x)
    return x if right is None else times(x, right.mT)


def _named(tx: Transformation, slots: Slots, turn: Any) -> Slots:
    """The slots of `tx` under its name, turned."""
    names = names_of(tx)
    return {names[0]: tx.turned(slots[names[0]], turn)} if names else tx.turned(slots, turn)
