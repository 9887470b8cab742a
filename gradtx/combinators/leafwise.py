"""Combinators that run a transformation on each leaf, or on each row of each leaf, separately."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from gradtx.combinators.combinator import refuse_functions
from gradtx.core import Context, Part, Slots, Transformation, checks, init_slots, path_of, run
from gradtx.core.arguments import one_key
from gradtx.core.axes import Layout, Leaf, given, leaf_of, scope, within
from gradtx.core.kinds import CountOrZero
from gradtx.core.trees import Owned, differentiable, flatten_with_path, is_leaf, is_none, map_with_path, sharded


class Separate(Transformation):
    """Base of combinators whose inner transformation sees one leaf, or a part of one, at a time."""

    inner: Part

    formula = "u = inner(g)"

    def seen(self, leaf: Leaf) -> Leaf:
        """The view that the inner transformation has of a leaf."""
        return leaf

    def alone(self, path: str, leaf: Any) -> AbstractContextManager[None]:
        """The scope in which a leaf, as the user has it, is the only parameter, without a path."""
        seen = self.seen(leaf_of(given(path, leaf)))
        return within(layout=Layout((), scope().layout.library), leaves={"": seen})

    def init_one(self, path: str, param: Any) -> Slots:
        """Return the initial slots of one leaf."""
        return init_slots(self.inner, param)

    def update_one(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        """Run one update of one leaf."""
        return run(self.inner, g, slots, context)

    def init_tree(self, params: Any) -> Slots:
        slots = {}
        for keys, p in flatten_with_path(params, is_leaf)[0]:
            path, param = path_of(keys), p.content if isinstance(p, Owned) else p
            if param is not None and differentiable("params", param):
                with self.alone(path, param):
                    kept = self.init_one(path, param)
                if kept:
                    slots[_name(path)] = Owned(kept, p.owner) if isinstance(p, Owned) else kept
        return slots

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        leaves, tree = flatten_with_path(updates, is_leaf=is_none)
        params = [None] * len(leaves) if context.params is None else tree.flatten_up_to(context.params)
        out, new = [], dict(slots)
        for (keys, g), p in zip(leaves, params):
            if g is not None:
                path = path_of(keys)
                name, own = _name(path), _with_key(self, context, crc32(path.encode()))
                with self.alone(path, g):
                    g, kept = self.update_one(g, slots.get(name, {}), own._replace(params=p))
                new |= {name: kept} if kept else {}
            out.append(g)
        return jax.tree.unflatten(tree, out), new

    def evaluate_one(self, p: Array, slots: Slots, evaluate: Callable[[Slots, Array], Array]) -> Array:
        """Return the evaluation parameters of one leaf."""
        return evaluate(slots, p)

    def evaluate_each(self, params: Any, slots: Slots, evaluate: Callable[[Slots, Array], Array]) -> Any:
        """Return the evaluation parameters, of each leaf by its own slots."""

        def one(keys, p):
            own = slots.get(_name(path := path_of(keys)), {})
            with self.alone(path, p):
                return self.evaluate_one(p, own, evaluate) if own else p

        return map_with_path(one, params)


def _name(path: str) -> str:
    return path or "leaf"  # the parameters may be one array


def _with_key(tx: Transformation, context: Context, number: Any) -> Context:
    """Return the context with another random key for each number, if there is a key."""
    if context.extra.get("key") is None:
        return context
    key = jax.random.fold_in(one_key(type(tx).__name__, context.extra["key"]), number)
    return context._replace(extra=context.extra | {"key": key})


class leafwise(Separate):
    """Apply a transformation to each leaf independently, so norms are per leaf rather than global.

    uᵢ = inner(gᵢ) for each leaf i

    Each leaf also has its own age, so bias corrections are those of the leaf: the first update of a leaf whose first
    gradient comes late, and until then is None, is the first update of a new optimizer. `rowwise` does the same for
    each row.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_functions(self, self.inner, "one leaf at a time")


class rowwise(Separate):
    """Apply a transformation to each row of each leaf independently, as if it were a parameter of its own.

    uᵢ = inner(gᵢ) for each row i of each leaf

    Norms and means are per row, and each row has its own age, an array of one integer per row. Use it where rows start
    at different times, as for new words in a table of embeddings: slots that are reset for some rows correct
    themselves, whereas the age of an optimizer, or of a leaf in `leafwise`, is that of all its rows.

    A leaf without rows, such as a scalar, is refused: give it to another transformation by `partition`. A random `key`
    differs for each row.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. It sees rows
        without their paths.
      axis: The axis along which the rows are stacked, 0 or more: 0 for x[i], 1 for x[:, i].

    Raises:
      ValueError: A leaf does not have the axis, or the transformation needs a function of all parameters: `grad_fn`,
        `hvp` or `value_fn`.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx, table = gx.rowwise(gx.adam(0.1, b2=0.9)), jnp.zeros((2, 3))
    >>> fresh = state = tx.init(table)
    >>> for scale in (1.0, 2.0, 3.0):
    ...     _, state = tx.update(scale * jnp.ones((2, 3)), state)
    >>> state = jax.tree.map(lambda old, new: old.at[1].set(new[1]) if old.ndim else old, state, fresh)  # resets a row
    >>> tx.update(jnp.ones((2, 3)), state)[0].round(3)  # the row that is reset moves by the rate: Adam's first step
    Array([[-0.09, -0.09, -0.09],
           [-0.1 , -0.1 , -0.1 ]], dtype=float32)
    """

    axis: CountOrZero = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_functions(self, self.inner, "one row at a time")

    @property
    def exact_on_shards(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Within `shard_map` a row may be divided: a coordinate must not depend on the others of its row."""
        return checks.measuring(self.inner) is None

    def seen(self, leaf: Leaf) -> Leaf:
        """The view that the inner transformation has of a leaf: a row."""
        return Leaf((*leaf.shape[: self.axis], *leaf.shape[self.axis + 1 :]), leaf.dtype)

    def init_one(self, path: str, param: Any) -> Slots:
        if jnp.ndim(param) <= self.axis:
            raise ValueError(
                f"rowwise: the leaf {path!r} of shape {jnp.shape(param)} has no axis {self.axis} "
                "and so no rows: give it to another transformation by partition"
            )

        @jax.jit  # in which `sharded` works
        def start(param):
            others = [axis for axis in range(param.ndim) if axis != self.axis]
            rows = jnp.sum(jnp.real(param), others)
            slots = jax.vmap(lambda row: init_slots(self.inner, row), self.axis)(param)
            slots = jax.tree.map(lambda x: jnp.moveaxis(x, 0, self._axis(x)), slots)
            # Within `shard_map` the ages of rows are whole where the rows are divided.
            return slots if checks.manual_axes() else jax.tree.map(lambda x: sharded(x, rows), slots)

        return start(jnp.asarray(param))

    def update_one(self, g: Array, slots: Slots, context: Context) -> tuple[Array, Slots]:
        def update(i, g, p, own):
            return run(self.inner, g, own, _with_key(self, context, i)._replace(params=p))

        spec = jax.typeof(g).sharding.spec[self.axis]

        def as_rows(x: Array, axis: int) -> Array:
            """Shard the rows of a slot as those of the leaf, which `vmap` needs on a mesh of explicit axes."""
            own = jax.typeof(x).sharding.spec
            return x if own[axis] == spec else jax.reshard(x, PartitionSpec(*own[:axis], spec, *own[axis + 1 :]))

        axes = jax.tree.map(self._axis, slots)
        numbers, own = as_rows(jnp.arange(g.shape[self.axis]), 0), jax.tree.map(as_rows, slots, axes)
        of_params = None if context.params is None else self.axis
        return jax.vmap(update, (0, self.axis, of_params, axes), (self.axis, axes))(numbers, g, context.params, own)

    def evaluate_one(self, p: Array, slots: Slots, evaluate: Callable[[Slots, Array], Array]) -> Array:
        return jax.vmap(evaluate, (jax.tree.map(self._axis, slots), self.axis), self.axis)(slots, p)

    def _axis(self, slot: Array) -> int:
        """The axis of a slot along which the rows are stacked; a slot may have fewer axes than its leaf."""
        return min(self.axis, slot.ndim - 1)
