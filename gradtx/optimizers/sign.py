"""Optimizers that step by the sign of the gradient: Rprop, signSGD, Signum, Lion."""

from gradtx.combinators import blend, chain
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.pieces import (
    add_weight_decay,
    rprop_steps,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    sign,
)
from gradtx.typing import ScalarOrSchedule, Where


@checked
def rprop(
    learning_rate: ScalarOrSchedule = 1e-2,
    grow: ScalarOrSchedule = 1.2,
    shrink: ScalarOrSchedule = 0.6,
    smallest: ScalarOrSchedule = 1e-6,
    largest: ScalarOrSchedule = 50.0,
    wait_on_flip: bool = False,
) -> Transformation:
    """Rprop: a step size for each coordinate, adapted by the signs of its gradients (Riedmiller and Braun, 1993).

    w ← w − s·sign(g), with s ← grow·s while sign(g) stays, shrink·s when it flips

    Rprop is for gradients of the whole data set: with minibatches the signs flip at random. Other libraries shrink by
    0.5, and a coordinate whose sign flips waits (`shrink=0.5, wait_on_flip=True`). Optax also applies each step one
    update later, so that its first update is 0.

    Args:
      learning_rate: s₀, the step size of all coordinates before the first update, above 0. A number, an array of shape
        () or a schedule.
      grow: The factor of s while the sign stays, 1 or more.
      shrink: The factor of s when the sign flips, above 0 and at most 1. The default of Optax and PyTorch is 0.5.
      smallest: The lower bound of s, 0 or more, in units of the parameters.
      largest: The upper bound of s, above 0, in units of the parameters.
      wait_on_flip: If True, a coordinate whose sign flips stays where it is for that update, and counts as having no
        sign at the next (iRprop⁻). If False, it steps back by the shrunken s.

    Source: Riedmiller and Braun 1993; `wait_on_flip`, Igel and Hüsken 2000.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.rprop(1.0, grow=2.0, shrink=0.5)
    >>> gradients, start = jnp.array([0.1, 7.0, -0.1]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([-1., -2.,  1.], dtype=float32)
    """
    return chain(rprop_steps(learning_rate, grow, shrink, smallest, largest, wait_on_flip), scale(-1.0))


@checked
def sign_sgd(learning_rate: ScalarOrSchedule = 1e-3) -> Transformation:
    """SignSGD: gradient descent by the sign of the gradient (Bernstein et al., 2018).

    w ← w − η·sign(g)

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. Every coordinate moves
        by η, or stays where its gradient is 0.

    Source: Bernstein et al. 2018, arXiv 1802.04434, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.sign_sgd(0.5)
    >>> tx.update(jnp.array([3.0, -0.1, 0.0]), tx.init(jnp.zeros(3)))[0]
    Array([-0.5,  0.5, -0. ], dtype=float32)
    """
    return chain(sign(), scale_by_learning_rate(learning_rate))


@checked
def signum(learning_rate: ScalarOrSchedule = 1e-3, decay: ScalarOrSchedule = 0.9) -> Transformation:
    """Signum: the sign of an exponential moving average of the gradients (Bernstein et al., 2018).

    w ← w − η·sign(m), with m ← β·m + (1−β)·g

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. Every coordinate moves
        by η.
      decay: β, the decay of the average of gradients, in [0, 1).

    Source: Bernstein et al. 2018, arXiv 1802.04434, algorithm 2.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.signum(0.5)
    >>> gradients, start = jnp.array([2.0, -1.0, -1.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([-0.5, -0.5,  0.5], dtype=float32)
    """
    return chain(scale_by_ema(decay), sign(), scale_by_learning_rate(learning_rate))


@checked
def lion(
    learning_rate: ScalarOrSchedule = 1e-4,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.99,
    weight_decay: ScalarOrSchedule = 1e-3,
    where: Where = None,
) -> Transformation:
    """Lion: the sign of a blend of momentum and gradient, with decoupled weight decay (Chen et al., 2023).

    w ← w − η·(sign(β₁·m + (1−β₁)·g) + λ·w), then m ← β₂·m + (1−β₂)·g

    Every coordinate moves by η, so take a tenth to a third of the learning rate that suits Adam, and three to ten times
    the weight decay that suits AdamW. The weight decay is multiplied by the learning rate, as in Optax.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the weight of the average m against the gradient in the direction, in [0, 1].
      b2: β₂, the decay of the average m of gradients, in [0, 1).
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: Chen et al. 2023, arXiv 2302.06675, algorithm 2.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.lion(0.5, weight_decay=0.5), jnp.array([2.0, 0.0])
    >>> tx.update(jnp.array([0.1, -7.0]), tx.init(params), params)[0]
    Array([-1. ,  0.5], dtype=float32)
    """
    direction = chain(blend(scale_by_ema(b2, before=True), b1), sign())
    return chain(direction, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))
