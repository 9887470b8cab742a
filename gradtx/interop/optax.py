"""Use of gradtx within Optax. The reverse needs no conversion: every combinator accepts Optax transformations."""

from typing import Any

from gradtx.core import Transformation, walk
from gradtx.core.arguments import checked
from gradtx.core.transformation import TransformationLike


@checked
def as_optax(tx: TransformationLike) -> Any:
    """Convert a transformation to an `optax.GradientTransformationExtraArgs`, for Optax code that checks the type.

    `optax.chain`, `MultiSteps` and `partition` accept `tx` without conversion unless a piece of it needs extra
    arguments, which Optax passes only to that type. As in Optax, arguments that no piece needs are ignored silently.

    Args:
      tx: The transformation.

    Returns:
      The `optax.GradientTransformationExtraArgs` with the same `init` and `update`.

    Raises:
      TypeError: `tx` is not a transformation.
      ImportError: Optax is not installed.

    >>> import gradtx as gx, optax, jax.numpy as jnp
    >>> tx = optax.chain(optax.clip(1.0), gx.as_optax(gx.sgd(0.5)))
    >>> params = jnp.array([3.0])
    >>> tx.update(params, tx.init(params), params)[0]
    Array([-0.5], dtype=float32)
    """
    import optax

    tx = Transformation.coerce("as_optax: tx", tx)
    needs = {name for piece in walk(tx) for name in piece.needs}

    def update(updates, state, params=None, **extra):
        known = {name: x for name, x in extra.items() if name in needs or "**" in needs}
        return tx.update(updates, state, params, **known)

    return optax.GradientTransformationExtraArgs(tx.init, update)
