"""Combinators that skip updates, and parts that must not be given functions of all parameters."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import NOTHING, Context, Slots, Transformation, walk


def refuse_functions(tx: Transformation, inner: Transformation, sees: str) -> None:
    """Refuses, in `inner`, what needs a function of all parameters, where it sees something else."""
    for piece in walk(inner):
        if needed := {"grad_fn", "hvp", "value_fn"} & {*piece.needs}:
            raise ValueError(
                f"{type(tx).__name__}: {type(piece).__name__} needs {min(needed)!r}, a function of all parameters, and "
                f"sees {sees} here: put it outside"
            )


class Branching(Transformation):
    """A combinator that at some of the updates emits nothing. It defines `finish_tree`, and calls `then` in a branch.

    A value, as `update` must return, would be a tree of zeros: what came in stands for it in the branch, and becomes 0
    after it, so that no memory is needed for it, nor written.
    """

    def update_tree(self, updates: Any, slots: Slots, context: Context) -> tuple[Any, Slots]:
        def then(made: Any, new: Any) -> Any:
            made, emits = (updates, False) if made is NOTHING else (made, True)
            return jnp.array(emits), jax.tree.map(lambda x, a: jnp.asarray(x, a.dtype), (made, new), (updates, slots))

        emits, (made, new) = self.finish_tree(updates, slots, context, then)
        return jax.tree.map(lambda u: jnp.where(emits, u, 0), made), new
