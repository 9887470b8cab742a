"""Large matrices as stacks of blocks."""

from contextlib import AbstractContextManager
from typing import Any

from gradtx.combinators.combinator import refuse_functions
from gradtx.core import Context, Part, Slots, Transformation, init_slots, path_of, run
from gradtx.core.axes import axes_of, viewed
from gradtx.core.kinds import Count
from gradtx.core.trees import differentiable, flatten_with_path, is_none, widen
from gradtx.pieces.bases import Matrix, gathered, matrix_of, placed


def _count(size: int, largest: int) -> int:
    """Into how few equal pieces of at most `largest` a side divides; 1 if none is larger than half of that."""
    count = next(k for k in range(-(-size // largest), size + 1) if size % k == 0)
    return count if size <= largest or size // count > largest // 2 else 1


class in_blocks(Transformation):
    """Run a transformation on large matrices cut into equal blocks, as on a stack of matrices (Anil et al., 2020).

    u = joined(inner(blocks of g))

    A decomposition of a side of n costs n³, so blocks are cheaper than the whole. Both sides of each linear map are cut
    into the fewest equal blocks of at most `largest`; a side without a divisor that makes blocks larger than half of
    `largest` stays whole. All other leaves pass to `inner` as they are. The parameters are cut too.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. It sees stacks
        of matrices: `soap`, `shampoo`, `muon`, or a piece such as `orthogonalize`.
      largest: The largest side of a block, an integer.

    Raises:
      ValueError: The inner transformation needs a function of all parameters: `grad_fn`, `hvp` or `value_fn`.

    Source: Anil et al. 2020, arXiv 2002.09018, section 4; Shi et al. 2023, arXiv 2309.06497.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.in_blocks(gx.orthogonalize("svd"), largest=1)  # blocks of one number: their signs
    >>> g = jnp.array([[3.0, 1.0], [-2.0, 4.0]])
    >>> tx.update(g, tx.init(g))[0]
    Array([[ 1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    inner: Part
    largest: Count = 1024

    fed = ("inner",)
    formula = "u = inner(g)"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_functions(self, self.inner, "blocks")

    def evaluate(self, params: Any, slots: Slots) -> Any:
        """Return the parameters unchanged: the inner transformation sees them in blocks."""
        return params

    def init_tree(self, params: Any) -> Slots:
        leaves, tree = flatten_with_path(params)
        views = [self._view(path_of(keys), p) for keys, p in leaves]
        cut = [self._cut(p, view) for (_, p), view in zip(leaves, views)]
        with self._scope(leaves, views, cut):
            slots = init_slots(self.inner, tree.unflatten(cut))
        return {"inner": slots} if slots else {}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        leaves, tree = flatten_with_path(updates, is_leaf=is_none)
        views = [self._view(path_of(keys), g) for keys, g in leaves]
        cut = [self._cut(g, view) for (_, g), view in zip(leaves, views)]
        params = context.params
        if params is not None:
            params = tree.unflatten(map(self._cut, tree.flatten_up_to(params), views))
        with self._scope(leaves, views, cut):
            made, new = run(self.inner, tree.unflatten(cut), slots.get("inner", {}), context._replace(params=params))
        out = [self._joined(u, g, view) for u, (_, g), view in zip(tree.flatten_up_to(made), leaves, views)]
        return tree.unflatten(out), {"inner": new} if new else {}

    def _view(self, path: str, x: Any) -> Matrix | None:
        """The view of a leaf that is cut."""
        if x is None or not differentiable("params", x):
            return None
        view = matrix_of(axes_of(path, x), widen(x).shape)
        return view if view and self._counts(view) != (1, 1) else None

    def _counts(self, view: Matrix) -> tuple[int, int]:
        *_, n, m = view.shape
        return _count(n, self.largest), _count(m, self.largest)

    def _cut(self, x: Any, view: Matrix | None) -> Any:
        """(…, n, m) as (…, a, b, n/a, m/b)."""
        if x is None or view is None:
            return x
        (*batch, n, m), (a, b) = view.shape, self._counts(view)
        return view.of(gathered(widen(x))).reshape(*batch, a, n // a, b, m // b).swapaxes(-3, -2)

    def _joined(self, u: Any, g: Any, view: Matrix | None) -> Any:
        if u is None or view is None:
            return u
        return placed(view.back(gathered(u).swapaxes(-3, -2).reshape(view.shape), g.shape), g)

    def _scope(self, leaves: Any, views: Any, cut: Any) -> AbstractContextManager[None]:
        """The scope in which the blocks of a leaf are a stack of matrices."""
        own = {}
        for (keys, _), view, x in zip(leaves, views, cut):
            if view is not None:
                *batch, first, second = view.axes.split()
                own[path_of(keys)] = (" ".join((*batch, "batch", "batch", first, second)), x)
        return viewed(own)
