"""A combinator that runs a transformation on each leaf separately."""

from typing import Any

import jax
from jax.tree_util import tree_flatten_with_path

from gradtx.combinators.combinator import refuse_functions
from gradtx.core import Context, Part, Slots, Transformation, init_slots, path_of, run
from gradtx.core.trees import differentiable, is_none


class leafwise(Transformation):
    """Apply a transformation to each leaf independently, so norms are per leaf rather than global.

    uᵢ = inner(gᵢ) for each leaf i

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. It sees leaves
        without their paths.

    Raises:
      ValueError: The transformation needs a function of all parameters: `grad_fn`, `hvp` or `value_fn`.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.leafwise(gx.clip_by_global_norm(1.0))
    >>> g = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.5])}
    >>> tx.update(g, tx.init(g))[0]
    {'a': Array([0.6, 0.8], dtype=float32), 'b': Array([0.5], dtype=float32)}
    """

    inner: Part

    formula = "u = inner(g)"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_functions(self, self.inner, "one leaf at a time")

    def init_tree(self, params: Any) -> Slots:
        leaves = {path_of(path): p for path, p in tree_flatten_with_path(params)[0]}
        slots = {_name(path): init_slots(self.inner, p) for path, p in leaves.items() if differentiable("params", p)}
        return {name: kept for name, kept in slots.items() if kept}

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        leaves, tree = tree_flatten_with_path(updates, is_leaf=is_none)
        params = [None] * len(leaves) if context.params is None else tree.flatten_up_to(context.params)
        out, new = [], dict(slots)
        for (path, g), p in zip(leaves, params):
            if g is not None:
                name = _name(path_of(path))
                g, kept = run(self.inner, g, slots.get(name, {}), context._replace(params=p))
                new |= {name: kept} if kept else {}
            out.append(g)
        return jax.tree.unflatten(tree, out), new


def _name(path: str) -> str:
    return path or "leaf"  # the parameters may be one array
