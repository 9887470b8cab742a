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
    """w ← β·w + (1−β)·(w₀ − Σ η·√t·g/(∛(Σ η·√t·g²) + ε))

    Dual averaging: each step is taken from the start, and momentum is the way that is left. The authors' code and
    Optax add ε to the rate too.
    Source: Defazio and Jelassi 2021, arXiv 2101.11075, algorithm 1.
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
    """w ← (clip(z, ±λ₁) − z)/(nᵖ/η + 2·λ₂), with n ← n + g², z ← z + g − w·Δnᵖ/η

    For linear models of many features that are seldom there. The power is Keras's learning_rate_power without its
    sign; λ₂ is Keras's, and half of the paper's.
    Source: McMahan et al. 2013, Ad click prediction: a view from the trenches, algorithm 1.
    """
    return ftrl_proximal(learning_rate, l1, l2, power, initial_value)
