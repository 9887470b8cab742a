"""Target networks: parameters that follow others slowly, as in reinforcement learning."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from gradtx.core.arguments import checked, is_array
from gradtx.core.checks import check_fits
from gradtx.core.errors import said
from gradtx.core.kinds import integer
from gradtx.core.schedule import interval
from gradtx.core.trees import narrow, widen
from gradtx.typing import PyTree

UNIT = interval(0, 1, text="from 0 to 1")


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
      TypeError: A leaf of `old` cannot hold one of `new`, as a real array a complex one; or τ is not a number.

    Source: Lillicrap et al. 2016, arXiv 1509.02971, algorithm 1; Polyak and Juditsky 1992.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> gx.incremental_update(jnp.array([1.0, 2.0]), jnp.zeros(2), step_size=0.25)
    Array([0.25, 0.5 ], dtype=float32)
    """
    check_fits("incremental_update: new", new, old, "; new must be like old")
    is_number = is_array(step_size) or isinstance(step_size, (int, float))
    if not is_number or isinstance(step_size, bool) or jnp.shape(step_size):
        raise TypeError(f"incremental_update: step_size must be one number, got {said(step_size)}")
    step_size = UNIT.convert("incremental_update: step_size", step_size)

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
      TypeError: A leaf of `old` cannot hold one of `new`; or `steps` or k is not one integer.

    Source: Mnih et al. 2015, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> [float(gx.periodic_update(jnp.array(7.0), jnp.array(0.0), step, 3)) for step in (2, 3, 4)]
    [0.0, 7.0, 0.0]
    """
    check_fits("periodic_update: new", new, old, "; new must be like old")
    for name, n in (("steps", steps), ("every_k", every_k)):
        if not jnp.issubdtype(getattr(n, "dtype", type(n)), jnp.integer) or jnp.shape(n):
            raise TypeError(f"periodic_update: {name} must be an integer, got {said(n)}")
    if not isinstance(every_k, Tracer):
        every_k = integer(1).convert("periodic_update: every_k", every_k)
    copies = steps % every_k == 0
    return jax.tree.map(lambda x, y: jnp.where(copies, jnp.asarray(x, jnp.result_type(y)), y), new, old)
