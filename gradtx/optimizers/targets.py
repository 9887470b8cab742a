"""Optimizers of the families of momentum and of Adam that need a piece more, and those that step to a target."""

from gradtx.arguments import checked
from gradtx.combinators import add, chain, momentum, multiply, precondition, rms
from gradtx.core import Decay, Transformation, scalar
from gradtx.pieces import (
    absolute,
    add_constant,
    add_momentum,
    add_noise,
    bias_correction,
    clip_by_norm,
    delay,
    difference,
    follow_the_leader,
    from_start,
    identity,
    narrowing_clip,
    power,
    running_max,
    running_sum,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    scale_by_step,
    sigmoid,
    sqrt,
    square,
)
from gradtx.typing import ScalarOrSchedule, TransformationLike


@checked
def mars(inner: TransformationLike, decay: ScalarOrSchedule = 0.95, gain: ScalarOrSchedule = 0.025) -> Transformation:
    """Any optimizer, of c/max(1, ‖c‖) over each leaf, with c = g + γ·β/(1−β)·(g − g₋₁)

    β is that of the inner optimizer's momentum. The approximate form, with the last batch's gradient for this batch's
    at the last point; the first change is 0, as in the paper, where the authors' code has g.
    Source: Yuan et al. 2024, arXiv 2411.10438, algorithm 1 (MARS-approx).
    """
    β, γ = scalar("mars: decay", decay, Decay), scalar("mars: gain", gain)
    change = chain(difference(from_first=True), scale(γ * β / (1 - β)))
    return chain(add(identity(), change), clip_by_norm(1.0), inner)


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
    size, share = chain(square(), total, power(1 / 3)), 1 - scalar("madgrad: momentum", momentum)
    return chain(precondition(total, by=size, eps=eps), scale(-1.0), from_start(), scale(share))


@checked
def ftrl(
    learning_rate: ScalarOrSchedule = 1e-3,
    l1: ScalarOrSchedule = 0.0,
    l2: ScalarOrSchedule = 0.0,
    power: ScalarOrSchedule = 0.5,
    start: ScalarOrSchedule = 0.1,
) -> Transformation:
    """w ← (clip(z, ±λ₁) − z)/(nᵖ/η + 2·λ₂), with n ← n + g², z ← z + g − w·Δnᵖ/η

    For linear models of many features that are seldom there. The power is Keras's learning_rate_power without its
    sign; λ₂ is Keras's, and half of the paper's.
    Source: McMahan et al. 2013, Ad click prediction: a view from the trenches, algorithm 1.
    """
    return follow_the_leader(learning_rate, l1, l2, power, start)


@checked
def noisy_sgd(
    learning_rate: ScalarOrSchedule = 1e-3, variance: ScalarOrSchedule = 1e-2, power: ScalarOrSchedule = 0.55
) -> Transformation:
    """w ← w − η·(g + N(0, σ²/tᵞ))

    Give update a random `key`, the same at every step; Optax keeps one in its state.
    Source: Neelakantan et al. 2015, arXiv 1511.06807, equation 1.
    """
    return chain(add_noise(variance, power), scale_by_learning_rate(learning_rate))


@checked
def padam(
    learning_rate: ScalarOrSchedule = 1e-1,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    exponent: ScalarOrSchedule = 0.125,
) -> Transformation:
    """w ← w − η·m̂/((max ŝ)ᵖ + ε), with m̂, ŝ of Adam

    From momentum, at p = 0, to AMSGrad, at ½. The averages are corrected, as there; in the paper neither is.
    Source: Chen et al. 2018, arXiv 1806.06763, algorithm 1.
    """
    size = chain(square(), scale_by_ema(b2), bias_correction(b2), running_max(), power(exponent))
    return chain(precondition(momentum(b1), by=size, eps=eps), scale_by_learning_rate(learning_rate))


@checked
def diffgrad(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
) -> Transformation:
    """w ← w − η·σ(|g − g₋₁|)·m̂/(√ŝ + ε), with m̂, ŝ of Adam

    Steps are up to half as long where the gradient does not change; before the first it is 0.
    Source: Dubey et al. 2019, arXiv 1909.11015.
    """
    friction = chain(difference(), absolute(), sigmoid())
    direction = multiply(momentum(b1), friction)
    return chain(precondition(direction, by=rms(b2), eps=eps), scale_by_learning_rate(learning_rate))


@checked
def adabound(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    final_size: ScalarOrSchedule = 1e-2,
    speed: ScalarOrSchedule = 1e-3,
) -> Transformation:
    """w ← w − η·m̂/min(max(√ŝ + ε, c·r), c/r), with r = γ·t/(γ·t + 1), m̂, ŝ of Adam

    From Adam to momentum at the rate η/c: c is the size that all coordinates end with, where the paper names the last
    rate. The paper's further 1/√t is a schedule of the rate; its averages are not corrected.
    Source: Luo et al. 2019, arXiv 1902.09843, algorithm 2, with the bounds of its published code.
    """
    size = chain(rms(b2), add_constant(eps), narrowing_clip(final_size, speed))
    return chain(precondition(momentum(b1), by=size, eps=0.0), scale_by_learning_rate(learning_rate))


@checked
def pid(
    learning_rate: ScalarOrSchedule = 1e-3,
    decay: ScalarOrSchedule = 0.9,
    integral: ScalarOrSchedule = 5.0,
    derivative: ScalarOrSchedule = 10.0,
) -> Transformation:
    """w ← w − η·(g + I·v + D·d), with v ← β·v + g, d ← β·d + (1−β)·(g − g₋₁)

    A controller of three terms: what is, was and comes. The first change is 0.
    Source: An et al. 2018, A PID controller approach for stochastic optimization of deep networks, as published.
    """
    was = chain(add_momentum(decay), scale(integral))
    comes = chain(difference(from_first=True), scale_by_ema(decay), scale(derivative))
    return chain(add(identity(), was, comes), scale_by_learning_rate(learning_rate))


@checked
def acprop(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-16,
    eps_in_average: ScalarOrSchedule = 1e-13,
) -> Transformation:
    """w ← w − η·g/(√ŝ₋₁ + ε), with ŝ of AdaBelief up to the step before

    The size is of the steps before, and at first 1; ε' is that of `adabelief`. Optax takes g − m₋₁ for g − m.
    Source: Zhuang et al. 2021, arXiv 2110.05454, algorithm 2.
    """
    away = add(identity(), chain(scale_by_ema(b1), scale(-1.0)))
    average = chain(square(), add_constant(eps_in_average), scale_by_ema(b2), bias_correction(b2))
    size = chain(away, average, delay(1.0), sqrt())
    return chain(precondition(identity(), by=size, eps=eps), scale_by_learning_rate(learning_rate))


@checked
def simplified_ademamix(
    learning_rate: ScalarOrSchedule = 1e-5,
    b1: ScalarOrSchedule = 0.99,
    b2: ScalarOrSchedule = 0.95,
    alpha: ScalarOrSchedule = 0.0,
    eps: ScalarOrSchedule = 1e-8,
) -> Transformation:
    """w ← w − η·(v + α·g)/(√ŝ + ε), with v ← β₁·v + g, ŝ of Adam

    One momentum for AdEMAMix's two. v is a sum, so the rate is about 1 − β₁ of Adam's.
    Source: Morwani et al. 2025, arXiv 2502.02431.
    """
    direction = add(add_momentum(b1), scale(alpha))
    return chain(precondition(direction, by=rms(b2), eps=eps), scale_by_learning_rate(learning_rate))
