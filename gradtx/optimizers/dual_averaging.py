"""Optimizers by dual averaging: each iterate is computed from the initial parameters."""

from gradtx.combinators import chain, precondition
from gradtx.core import Transformation, scalar
from gradtx.core.arguments import checked
from gradtx.pieces import (
    from_start,
    ftrl_proximal,
    power,
    running_sum,
    scale,
    scale_by_step,
    square,
)
from gradtx.typing import ScalarOrSchedule


@checked
def madgrad(
    learning_rate: ScalarOrSchedule = 1e-2, momentum: ScalarOrSchedule = 0.9, eps: ScalarOrSchedule = 1e-6
) -> Transformation:
    """MADGRAD: momentumized adaptive dual averaging (Defazio and Jelassi, 2021).

    w ← β·w + (1−β)·(w₀ − Σ η·√t·g/(∛(Σ η·√t·g²) + ε))

    Each iterate is computed from the initial point w₀, and momentum interpolates between it and the current iterate.
    Every update needs `params`. The authors' code and Optax add ε to the learning rate too.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      momentum: β, the decay of the momentum, in [0, 1).
      eps: ε, added to the denominator, 0 or more.

    Source: Defazio and Jelassi 2021, arXiv 2101.11075, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.madgrad(1.0, momentum=0.5), jnp.array([1.0, -8.0])
    >>> tx.update(params, tx.init(params), params)[0].round(3)
    Array([-0.5,  1. ], dtype=float32)
    """
    total = chain(scale(learning_rate), scale_by_step(0.5), running_sum())
    size, weight = chain(square(), total, power(1 / 3)), 1 - scalar("madgrad: momentum", momentum)
    return chain(precondition(total, by=size, eps=eps), scale(-1.0), from_start(), scale(weight))


@checked
def ftrl(
    learning_rate: ScalarOrSchedule = 1e-3,
    l1: ScalarOrSchedule = 0.0,
    l2: ScalarOrSchedule = 0.0,
    power: ScalarOrSchedule = 0.5,
    initial_value: ScalarOrSchedule = 0.1,
) -> Transformation:
    """FTRL-Proximal: follow the regularized leader, for sparse linear models (McMahan et al., 2013).

    w ← (clip(z, ±λ₁) − z)/(nᵖ/η + 2·λ₂), with n ← n + g², z ← z + g − w·Δnᵖ/η

    Use it for linear models with many sparse features. The penalties λ₁·‖w‖₁ + λ₂·‖w‖² are against the sum of all
    losses: a coordinate stays exactly 0 while its gradients sum to less than λ₁. Every update needs `params`.

    Args:
      learning_rate: η, the step size, above 0. A number, an array of shape () or a schedule.
      l1: λ₁, the L1 penalty, 0 or more, in units of the gradient.
      l2: λ₂, the L2 penalty, 0 or more. It is Keras's, and half of the paper's.
      power: p, 0 or more. It is Keras's `learning_rate_power` without its sign: ½ is AdaGrad's, and at 0 the learning
        rate does not fall.
      initial_value: n before the first update, 0 or more, in squared units of the gradient.

    Source: McMahan et al. 2013, Ad click prediction: a view from the trenches, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.ftrl(0.5, l1=0.1, initial_value=0.0), jnp.zeros(2)
    >>> tx.update(jnp.array([-2.0, 0.05]), tx.init(params), params)[0]
    Array([ 0.475, -0.   ], dtype=float32)
    """
    return ftrl_proximal(learning_rate, l1, l2, power, initial_value)
