"""Optimizers that change both: Adam and its family."""

from gradtx.arguments import checked
from gradtx.combinators import chain, momentum, precondition, rms
from gradtx.core import Transformation
from gradtx.pieces import (
    absolute,
    add_constant,
    add_weight_decay,
    bias_correction,
    decayed_max,
    nesterov_ema,
    running_max,
    scale_by_ema,
    scale_by_learning_rate,
    sqrt,
    square,
)
from gradtx.typing import ScalarOrSchedule, Where


@checked
def adam(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_in_sqrt: bool = False,
    corrected: bool = True,
) -> Transformation:
    """w ← w − η·m̂/(√ŝ + ε), with m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(g²)/(1 − β₂ᵗ)

    η is of `scale_by_learning_rate`, β₁ of `momentum`, β₂ of `rms`, ε and `eps_in_sqrt`, whether it is added to ŝ, of
    `precondition`. `corrected` is whether both averages are corrected for their start at 0 (`bias_correction`).
    Source: Kingma and Ba 2015, arXiv 1412.6980, algorithm 1.
    """
    divided = precondition(momentum(b1, corrected), by=rms(b2, corrected), eps=eps, eps_in_sqrt=eps_in_sqrt)
    return chain(divided, scale_by_learning_rate(learning_rate))


@checked
def adamw(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
) -> Transformation:
    """w ← w − η·(m̂/(√ŝ + ε) + λ·w), with m̂, ŝ of Adam

    `weight_decay`, λ, and `where`, which parameters decay, are those of `add_weight_decay`.
    Source: Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2.
    """
    divided = precondition(momentum(b1), by=rms(b2), eps=eps)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def adamax(
    learning_rate: ScalarOrSchedule = 2e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
) -> Transformation:
    """w ← w − η·m̂/s, with m̂ = ema(g)/(1 − β₁ᵗ), s ← max(β₂·s, |g| + ε)

    Source: Kingma and Ba 2015, arXiv 1412.6980, algorithm 2.
    """
    size = chain(absolute(), add_constant(eps), decayed_max(b2))
    return chain(precondition(momentum(b1), by=size, eps=0.0), scale_by_learning_rate(learning_rate))


@checked
def nadam(
    learning_rate: ScalarOrSchedule = 2e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    warm_up: bool = False,
    warm_up_rate: ScalarOrSchedule = 0.004,
) -> Transformation:
    """w ← w − η·n/(√ŝ + ε), with n = β₁·m/(1 − β₁ᵗ⁺¹) + (1−β₁)·g/(1 − β₁ᵗ), m = ema(g)

    Optax's form; PyTorch and Keras warm β₁ up (`warm_up`).
    Source: Dozat 2016.
    """
    direction = nesterov_ema(b1, warm_up, warm_up_rate)
    return chain(precondition(direction, by=rms(b2), eps=eps), scale_by_learning_rate(learning_rate))


@checked
def amsgrad(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    correct_first: bool = True,
) -> Transformation:
    """w ← w − η·m̂/(√max ŝ + ε), with the largest ŝ so far

    With `correct_first` the largest is of the corrected averages, as in Optax; else it is of the averages, and then
    corrected, as in PyTorch.
    Source: Reddi, Kale and Kumar 2018, arXiv 1904.09237, algorithm 2.
    """
    largest = (bias_correction(b2), running_max()) if correct_first else (running_max(), bias_correction(b2))
    size = chain(square(), scale_by_ema(b2), *largest, sqrt())
    return chain(precondition(momentum(b1), by=size, eps=eps), scale_by_learning_rate(learning_rate))
