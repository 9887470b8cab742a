"""gradtx inside Optax. The other way needs nothing: every combinator takes an Optax transformation as it is."""

from typing import Any

from gradtx.core import Transformation, walk
from gradtx.core.arguments import checked
from gradtx.core.transformation import TransformationLike


@checked
def as_optax(tx: TransformationLike) -> Any:
    """`tx` as an `optax.GradientTransformationExtraArgs`, for Optax's code that looks at the type.

    `optax.chain`, `MultiSteps` and `partition` take `tx` as it is unless a piece of it needs extra arguments, which
    Optax passes to that type alone. As is Optax's rule, arguments that no piece needs are left out silently.

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
