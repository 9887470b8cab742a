"""Optimizers of Adam's family that change the size: what is squared, how it is averaged, and where it divides."""

from gradtx.arguments import checked
from gradtx.combinators import chain, clipped_precondition, momentum, precondition, rms
from gradtx.core import Transformation
from gradtx.pieces import (
    absolute,
    add_constant,
    add_weight_decay,
    additive_average,
    at_least,
    bias_correction,
    decayed_max,
    growing_clip,
    identity,
    nesterov_ema,
    rectify,
    scale_by_ema,
    scale_by_learning_rate,
    sqrt,
    square,
)
from gradtx.typing import ScalarOrSchedule, Where


@checked
def laprop(
    learning_rate: ScalarOrSchedule = 4e-4,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-15,
) -> Transformation:
    """w ← w − η·ema(g/(√ŝ + ε))/(1 − β₁ᵗ), with ŝ of Adam

    Adam's pieces in the other order: the average is of steps that each have a size already. Under a schedule all of it
    is scaled by the rate now; in the authors' code each step in it keeps the rate that it came with.
    Source: Ziyin, Wang and Ueda 2020, arXiv 2002.04839, algorithm 1.
    """
    return chain(precondition(identity(), by=rms(b2), eps=eps), momentum(b1), scale_by_learning_rate(learning_rate))


@checked
def nadamw(
    learning_rate: ScalarOrSchedule = 2e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
    warm_up: bool = False,
    warm_up_rate: ScalarOrSchedule = 0.004,
) -> Transformation:
    """w ← w − η·(n/(√ŝ + ε) + λ·w), with n, ŝ of NAdam

    Source: Dozat 2016; Loshchilov and Hutter 2019, arXiv 1711.05101.
    """
    divided = precondition(nesterov_ema(b1, warm_up, warm_up_rate), by=rms(b2), eps=eps)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def adamaxw(
    learning_rate: ScalarOrSchedule = 2e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
) -> Transformation:
    """w ← w − η·(m̂/s + λ·w), with m̂, s of AdaMax

    Source: Kingma and Ba 2015, arXiv 1412.6980; Loshchilov and Hutter 2019, arXiv 1711.05101.
    """
    divided = precondition(momentum(b1), by=chain(absolute(), add_constant(eps), decayed_max(b2)), eps=0.0)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def adabelief(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-16,
    eps_in_average: ScalarOrSchedule = 1e-13,
) -> Transformation:
    """w ← w − η·m̂/(√ŝ + ε), with m = ema(g), ŝ = ema((g − m)² + ε')/(1 − β₂ᵗ)

    The paper, its code and Optax add an ε to the average itself at every step, and correct it for its start at 0: that
    is a constant ε/(1 − β₂) in the root, here ε', `eps_in_average`. Its default is their 1e-16 at β₂ = 0.999.
    Source: Zhuang et al. 2020, arXiv 2010.07468, algorithm 2.
    """
    size = chain(square(), add_constant(eps_in_average), scale_by_ema(b2), bias_correction(b2), sqrt())
    divided = precondition(scale_by_ema(b1), by=size, eps=eps, centered=True)
    return chain(divided, bias_correction(b1), scale_by_learning_rate(learning_rate))


@checked
def yogi(
    learning_rate: ScalarOrSchedule = 1e-2,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-3,
    start: ScalarOrSchedule = 1e-6,
    corrected: bool = True,
) -> Transformation:
    """w ← w − η·m̂/(√ŝ + ε), with s ← s − (1−β₂)·sign(s − g²)·g², ŝ = s/(1 − β₂ᵗ), m̂ of Adam

    s starts at `start`. Both averages are corrected, as in Optax and TensorFlow; in the paper neither is.
    Source: Zaheer et al. 2018, Adaptive methods for nonconvex optimization, algorithm 2.
    """
    size = chain(square(), additive_average(b2, start), *((bias_correction(b2),) if corrected else ()), sqrt())
    return chain(precondition(momentum(b1, corrected), by=size, eps=eps), scale_by_learning_rate(learning_rate))


@checked
def radam(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    threshold: ScalarOrSchedule = 5.0,
) -> Transformation:
    """w ← w − η·r·m̂/(√ŝ + ε), or w ← w − η·m̂ while ŝ is of too few squares

    How many are enough is the `threshold` of `rectify`. Optax's form; PyTorch adds ε before the bias correction.
    Source: Liu et al. 2020, arXiv 1908.03265, algorithm 2.
    """
    size = chain(rms(b2), add_constant(eps), rectify(b2, threshold))
    return chain(precondition(momentum(b1), by=size, eps=0.0), scale_by_learning_rate(learning_rate))


@checked
def stable_adamw(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.99,
    eps: ScalarOrSchedule = 1e-6,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
) -> Transformation:
    """w ← w − η/k·(m̂/(√ŝ + ε) + λ·w), with k = max(1, rms(g/max(√ŝ, ε))) over each leaf, m̂, ŝ of Adam

    Source: Wortsman et al. 2023, arXiv 2304.13013, algorithm 2.
    """
    clipped = clipped_precondition(momentum(b1), by=rms(b2), then=add_weight_decay(weight_decay, where), eps=eps)
    return chain(clipped, scale_by_learning_rate(learning_rate))


@checked
def adopt(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.9999,
    eps: ScalarOrSchedule = 1e-6,
    clip_power: ScalarOrSchedule = 0.25,
) -> Transformation:
    """w ← w − η·ema(clip(g/max(√s₋₁, ε), ±(t−1)^¼)), with s₋₁ = ema(g²) up to the step before, from the first g²

    The size does not know the gradient that it divides: that is what lets any β₂ converge. The first gradient makes
    the first size and no step.
    Source: Taniguchi et al. 2024, arXiv 2411.02853, algorithm 2.
    """
    size = chain(square(), scale_by_ema(b2, from_first=True, before=True), sqrt(), at_least(eps))
    clipped = chain(precondition(identity(), by=size, eps=0.0), growing_clip(clip_power))
    return chain(clipped, scale_by_ema(b1), scale_by_learning_rate(learning_rate))
