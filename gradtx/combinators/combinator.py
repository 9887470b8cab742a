"""Shared by combinators: updates that are skipped, optional parts, and pieces that need functions of all parameters."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp

from gradtx.core import NOTHING, Context, Kind, Slots, Transformation, walk


def _part(place: str, value: Any) -> Any:
    return None if value is None else Transformation.coerce(place, value)


PartOrNone = Annotated[Any, Kind(_part, data=True)]


def refuse_functions(tx: Transformation, inner: Transformation, sees: str) -> None:
    """Raise ValueError if a piece of `inner` needs a function of all parameters, where it sees something else."""
    for piece in walk(inner):
        if needed := {"grad_fn", "hvp", "value_fn"} & {*piece.needs}:
            raise ValueError(
                f"{type(tx).__name__}: {type(piece).__name__} needs {min(needed)!r}, a function of all parameters, but "
                f"here it sees {sees}: move it outside {type(tx).__name__}"
            )


class Branching(Transformation):
    """Base of combinators that emit nothing at some updates. They define `finish_tree`, which calls `then` in a branch.

    `update` must return a value, which would be a tree of zeros. Instead, the incoming updates stand for it in the
    branch and become 0 after it, so no memory is allocated or written for the zeros.
    """

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        def then(made: Any, new: Any) -> Any:
            made, emits = (updates, False) if made is NOTHING else (made, True)
            return jnp.array(emits), jax.tree.map(lambda x, a: jnp.asarray(x, a.dtype), (made, new), (updates, slots))

        emits, (made, new) = self.finish_tree(updates, slots, context, then)
        return jax.tree.map(lambda u: jnp.where(emits, u, 0), made), new
