"""Adding updates to parameters."""

from typing import Any

import jax

from gradtx.core.arguments import checked
from gradtx.core.checks import check_updates
from gradtx.core.trees import compiled, is_float0, is_none, narrow, widen, working_dtype


@checked
@compiled
def apply_updates(params: Any, updates: Any) -> Any:
    """Add updates to parameters. Structure, shapes and dtypes stay those of the parameters.

    Args:
      params: The parameters, a tree of arrays.
      updates: The updates, a tree like the parameters; None leaves a parameter as it is.

    Returns:
      The new parameters.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> gx.apply_updates({"w": jnp.ones(2), "frozen": jnp.ones(1)}, {"w": -jnp.ones(2), "frozen": None})
    {'frozen': Array([1.], dtype=float32), 'w': Array([0., 0.], dtype=float32)}
    """
    check_updates(updates, () if params is None else params)

    def add(u, p):
        if u is None or is_float0(u):
            return p
        return narrow(widen(p, dtype := working_dtype(u, p)) + widen(u, dtype), p)

    return jax.tree.map(add, updates, params, is_leaf=is_none)
