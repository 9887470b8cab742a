"""Target networks: parameters that follow others slowly, as in reinforcement learning."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import leaves_by_path
from gradtx.core.arguments import checked
from gradtx.core.errors import said
from gradtx.core.trees import narrow, widen
from gradtx.typing import PyTree


@checked
def incremental_update(new: PyTree, old: PyTree, step_size: Any) -> Any:
    """Move the old parameters a fraction of the way to the new ones: an average of them, as in DDPG.

    old + τ·(new − old)

    The arithmetic is in at least float32, and the result has the dtypes of `old`. Leaves that are not floating or
    complex are those of `new`. The name and the order of the arguments are Optax's.

    Args:
      new: The parameters to follow.
      old: The parameters of the target, a tree like `new`.
      step_size: τ, from 0 (the old parameters) to 1 (the new ones): a number, or an array of shape ().

    Returns:
      The next parameters of the target, a tree like `old`.

    Raises:
      ValueError: The trees differ in their paths or shapes, or τ is not in [0, 1].

    Source: Lillicrap et al. 2016, arXiv 1509.02971, algorithm 1; Polyak and Juditsky 1992.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> gx.incremental_update(jnp.array([1.0, 2.0]), jnp.zeros(2), step_size=0.25)
    Array([0.25, 0.5 ], dtype=float32)
    """
    _alike("incremental_update", new, old)
    if isinstance(step_size, (int, float)) and not 0 <= step_size <= 1:
        raise ValueError(f"incremental_update: step_size must be from 0 to 1, got {said(step_size)}")

    def one(x: Any, y: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(y), jnp.inexact):
            return x
        wide = widen(y)
        share = jnp.asarray(step_size, wide.dtype)
        return narrow((1 - share) * wide + share * widen(x, wide.dtype), jnp.asarray(y))

    return jax.tree.map(one, new, old)


@checked
def periodic_update(new: PyTree, old: PyTree, steps: Any, every_k: Any) -> Any:
    """Copy the new parameters at every k-th step, and keep the old ones otherwise, as in DQN.

    new if steps mod k = 0, else old

    The name and the order of the arguments are Optax's, whose last is `update_period`.

    Args:
      new: The parameters to follow.
      old: The parameters of the target, a tree like `new`.
      steps: The number of the step, an integer or an int array of shape (), such as `state.step`.
      every_k: k, an integer, 1 or more.

    Returns:
      The next parameters of the target, a tree like `old`.

    Raises:
      ValueError: The trees differ in their paths or shapes, or k is below 1.

    Source: Mnih et al. 2015, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> [float(gx.periodic_update(jnp.array(7.0), jnp.array(0.0), step, 3)) for step in (2, 3, 4)]
    [0.0, 7.0, 0.0]
    """
    _alike("periodic_update", new, old)
    if isinstance(every_k, (int, float)) and not every_k >= 1:
        raise ValueError(f"periodic_update: every_k must be an integer, 1 or more, got {said(every_k)}")
    copies = jnp.asarray(steps) % jnp.asarray(every_k) == 0
    return jax.tree.map(lambda x, y: jnp.where(copies, jnp.asarray(x, jnp.result_type(y)), y), new, old)


def _alike(name: str, new: Any, old: Any) -> None:
    have, need = ({path: jnp.shape(x) for path, x in leaves_by_path(tree).items()} for tree in (new, old))
    if different := [path for path in have.keys() | need.keys() if have.get(path) != need.get(path)]:
        path = min(different)
        shapes = ["nothing" if x is None else f"shape {x}" for x in (need.get(path), have.get(path))]
        raise ValueError(f"{name}: new must be like old: expected {shapes[0]} at {path!r}, got {shapes[1]}")
