"""Weight decay beside the steps of any optimizer."""

from gradtx.combinators import chain
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.pieces import add_weight_decay, scale
from gradtx.typing import ScalarOrSchedule, TransformationLike, Where


@checked
def independent_decay(
    inner: TransformationLike, weight_decay: ScalarOrSchedule = 1e-4, where: Where = None
) -> Transformation:
    """Independent weight decay: a decay that the learning rate does not multiply, for any optimizer.

    w ← w + a(g) − λ·w, where a(g) is the update of the inner optimizer

    The λ of `adamw` and similar optimizers is multiplied by the learning rate, so that another rate, or a schedule,
    changes the decay too. Here each step shrinks w by the fraction λ, whatever the rate: λ is about η·λ of AdamW. To
    follow the shape of a schedule that starts at 1, pass `weight_decay=1e-4 * shape`. Inside `accumulate`, the decay is
    applied once for each group; around it, at every micro-batch.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's. Use one
        without a weight decay of its own, such as `adam(1e-3)` or `lion(weight_decay=0.0)`.
      weight_decay: λ, the fraction of the parameters that each step subtracts, 0 or more. A number or a schedule.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2, where a schedule multiplies both terms; Wortsman
    et al. 2023, arXiv 2309.14322, section 3.2.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> params = {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}
    >>> tx = gx.independent_decay(gx.adam(1e-3), 0.5, where="*kernel")
    >>> tx.update(params, tx.init(params), params)[0]
    {'bias': Array([-0.001, -0.001], dtype=float32), 'kernel': Array([[-0.501, -0.501]], dtype=float32)}
    """
    return chain(inner, scale(-1.0), add_weight_decay(weight_decay, where), scale(-1.0))
