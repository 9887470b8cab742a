"""A combinator that leaves the rows without a gradient as they are."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct

from gradtx.core import Context, Part, Slots, Transformation, init_slots, leaves_by_path
from gradtx.core.owners import Slot, slots_of
from gradtx.core.trees import map_with_path, path_of


class lazy(Transformation):
    r"""Update only the rows that have a gradient, as PyTorch's SparseAdam does, on dense arrays.

    u, s′ = inner(g, s);  uᵢ = 0 and s′ᵢ = sᵢ for each row i of a leaf with gᵢ = 0

    Use it for a table of embeddings, of which a batch reads a few rows: the gradient of all others is 0. In `inner`
    alone, their averages decay and they go on moving by them, and they decay. With `lazy`, their weights and their
    slots stay as they are.

    A row is x[i], whatever `layout` declares, and for a vector a coordinate; a row with a NaN has a gradient. A scalar
    has no rows and is updated as usual. Slots with one entry or more for each row are held: the averages of an
    optimizer, the row means of `factored`. All others are updated as usual: column means, norms, distances and the age
    of a bias correction, which counts all updates of the leaf, as SparseAdam's step does. A row that is seen for the
    first time late is therefore divided by a correction of nearly 1, and starts with small steps.
    `lazy(rowwise(inner))` gives each row an age of its own, the number of its gradients: a row's first step is then
    that of a new optimizer.

    Put wrappers that gather several gradients, such as `accumulate`, around it. To keep it to some parameters, use
    `partition`. Time and memory are those of `inner`: the arrays are dense.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.

    Source: torch.optim.SparseAdam, which adds ε to the root before the correction, and which also updates a row that
    its sparse gradient lists with values of 0.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, table = gx.lazy(gx.adam(0.1)), jnp.ones((2, 2))
    >>> _, state = tx.update(jnp.array([[1.0, 1.0], [1.0, 1.0]]), tx.init(table))
    >>> tx.update(jnp.array([[1.0, 1.0], [0.0, 0.0]]), state)[0].round(3)  # the second row is not in this batch
    Array([[-0.1, -0.1],
           [ 0. ,  0. ]], dtype=float32)
    """

    inner: Part

    formula = "u = inner(g) * (row_max(abs(g)) > 0)"

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        made = self.part("inner", updates, slots, context, new := {})
        if not new:
            return jax.tree.map(lambda u, g: _held(u, jnp.zeros_like(u), g, 0), made, updates), new
        inner, like = self.inner.at(0), jax.tree.map(lambda g: ShapeDtypeStruct(g.shape, g.dtype), updates)
        found, structure = slots_of(lambda params: init_slots(inner, params), like)
        by_path = leaves_by_path(structure.unflatten(found), is_leaf=lambda x: isinstance(x, Slot))
        gradients = jax.tree.leaves(updates)

        def hold(path: Any, x: Array, old: Array) -> Array:
            slot = by_path.get(path_of(path))  # None for one of a leaf without a gradient, which has not changed
            if slot is None or slot.owner is None or 0 not in slot.axes:
                return x
            return _held(x, old, gradients[slot.owner], slot.axes.index(0))

        kept = map_with_path(hold, new["inner"], slots["inner"])
        return jax.tree.map(lambda u, g: _held(u, jnp.zeros_like(u), g, 0), made, updates), {"inner": kept}


def _held(new: Array, old: Array, g: Array, axis: int) -> Array:
    """Return the old values in place of the new ones for the rows of g that are 0; the axis of the values has them."""
    if not g.ndim:
        return new
    present = jnp.any(g != 0, axis=tuple(range(1, g.ndim)))
    others = [a for a in range(new.ndim) if a != axis]
    return jnp.where(jnp.expand_dims(present, others), new, old)
