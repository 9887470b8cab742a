"""Adam and its family."""

from gradtx.combinators import (
    add,
    blend,
    chain,
    clipped_precondition,
    momentum,
    multiply,
    precondition,
    rms,
)
from gradtx.combinators.averages import average
from gradtx.core import Positive, Transformation, scalar
from gradtx.core.arguments import checked
from gradtx.pieces import (
    abs,
    adabound_clip,
    add_constant,
    add_momentum,
    add_weight_decay,
    adopt_clip,
    bias_correction,
    decayed_max,
    delay,
    difference,
    identity,
    lower_bound,
    nesterov_ema,
    power,
    rectify,
    running_max,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    sigmoid,
    sqrt,
    square,
    yogi_average,
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
    size = chain(abs(), add_constant(eps), decayed_max(b2))
    return chain(precondition(momentum(b1), by=size, eps=0.0), scale_by_learning_rate(learning_rate))


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
    divided = precondition(momentum(b1), by=chain(abs(), add_constant(eps), decayed_max(b2)), eps=0.0)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def nadam(
    learning_rate: ScalarOrSchedule = 2e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    warmup: bool = False,
    warmup_rate: ScalarOrSchedule = 0.004,
) -> Transformation:
    """w ← w − η·n/(√ŝ + ε), with n = β₁·m/(1 − β₁ᵗ⁺¹) + (1−β₁)·g/(1 − β₁ᵗ), m = ema(g)

    Optax's form; PyTorch and Keras warm β₁ up (`warmup`).
    Source: Dozat 2016.
    """
    direction = nesterov_ema(b1, warmup, warmup_rate)
    return chain(precondition(direction, by=rms(b2), eps=eps), scale_by_learning_rate(learning_rate))


@checked
def nadamw(
    learning_rate: ScalarOrSchedule = 2e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
    warmup: bool = False,
    warmup_rate: ScalarOrSchedule = 0.004,
) -> Transformation:
    """w ← w − η·(n/(√ŝ + ε) + λ·w), with n, ŝ of NAdam

    Source: Dozat 2016; Loshchilov and Hutter 2019, arXiv 1711.05101.
    """
    divided = precondition(nesterov_ema(b1, warmup, warmup_rate), by=rms(b2), eps=eps)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


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
    initial_value: ScalarOrSchedule = 1e-6,
    corrected: bool = True,
) -> Transformation:
    """w ← w − η·m̂/(√ŝ + ε), with s ← s − (1−β₂)·sign(s − g²)·g², ŝ = s/(1 − β₂ᵗ), m̂ of Adam

    s starts at `initial_value`. Both averages are corrected, as in Optax and TensorFlow; in the paper neither is.
    Source: Zaheer et al. 2018, Adaptive methods for nonconvex optimization, algorithm 2.
    """
    size = chain(square(), yogi_average(b2, initial_value), *((bias_correction(b2),) if corrected else ()), sqrt())
    return chain(precondition(momentum(b1, corrected), by=size, eps=eps), scale_by_learning_rate(learning_rate))


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
    size = chain(square(), scale_by_ema(b2, from_first=True, before=True), sqrt(), lower_bound(eps))
    clipped = chain(precondition(identity(), by=size, eps=0.0), adopt_clip(clip_power))
    return chain(clipped, scale_by_ema(b1), scale_by_learning_rate(learning_rate))


@checked
def adamc(
    learning_rate: ScalarOrSchedule = 1e-3,
    peak: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
) -> Transformation:
    """w ← w − η·m̂/(√ŝ + ε) − (η²/peak)·λ·w, with m̂, ŝ of Adam

    `peak` is the largest η; a constant η = peak makes it AdamW, which is for layers that no normalization follows.
    Source: Defazio 2025, arXiv 2506.02285.
    """
    adam, rate = precondition(momentum(b1), by=rms(b2), eps=eps), scale_by_learning_rate(learning_rate)
    share = scalar("adamc: weight_decay", weight_decay) / scalar("adamc: peak", peak, Positive)
    decay = chain(scale(0.0), add_weight_decay(share, where), rate, scale(-1.0))
    return chain(add(adam, decay), rate)


@checked
def qhadam(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.995,
    b2: ScalarOrSchedule = 0.999,
    weight1: ScalarOrSchedule = 0.7,
    weight2: ScalarOrSchedule = 1.0,
    eps: ScalarOrSchedule = 1e-8,
) -> Transformation:
    """w ← w − η·(ν₁·m̂ + (1−ν₁)·g)/(√(ν₂·ŝ + (1−ν₂)·g²) + ε), with m̂, ŝ of Adam

    Source: Ma and Yarats 2019, arXiv 1810.06801, section 4.3.
    """
    direction, size = blend(momentum(b1), weight1), chain(square(), blend(average(b2), weight2), sqrt())
    return chain(precondition(direction, by=size, eps=eps), scale_by_learning_rate(learning_rate))


@checked
def optimistic_adam(
    learning_rate: ScalarOrSchedule = 1e-3,
    optimism: ScalarOrSchedule = 1.0,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
) -> Transformation:
    """w ← w + u + β·(u − u₋₁), with u of Adam

    Source: Daskalakis et al. 2018, arXiv 1711.00141, algorithm 1; before the first u is the first.
    """
    return chain(adam(learning_rate, b1, b2, eps), add(identity(), chain(difference(from_first=True), scale(optimism))))


@checked
def ademamix(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 6.0,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
) -> Transformation:
    """w ← w − η·((m̂ + α·l)/(√ŝ + ε) + λ·w), with l ← β₃·l + (1−β₃)·g, and m̂, ŝ of Adam

    The slow average l is not corrected. The paper warms β₃ and α up: give schedules.
    Source: Pagliardini, Ablin and Grangier 2024, arXiv 2409.03137, algorithm 1.
    """
    direction = add(momentum(b1), chain(scale_by_ema(b3), scale(alpha)))
    divided = precondition(direction, by=rms(b2), eps=eps)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def adan(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.98,
    b2: ScalarOrSchedule = 0.92,
    b3: ScalarOrSchedule = 0.99,
    gain: ScalarOrSchedule = 0.92,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
) -> Transformation:
    """w ← w − η·((m̂ + γ·d̂)/(√ŝ + ε) + λ·w), with m = ema(g), d = ema(g − g₋₁), s = ema((g + γ·(g − g₋₁))²)

    The betas are 1 less the paper's; γ, `gain`, is its β₂, 1 − β₂ in Optax. λ is outside: in the paper, w/(1 + λ·η).
    Source: Xie et al. 2022, arXiv 2208.06677, algorithm 1, with every average corrected, as in its published code.
    """
    change = difference(from_first=True)
    size = chain(add(identity(), chain(change, scale(gain))), rms(b3))
    divided = precondition(add(momentum(b1), chain(change, momentum(b2), scale(gain))), by=size, eps=eps)
    return chain(divided, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


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
    friction = chain(difference(), abs(), sigmoid())
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
    size = chain(rms(b2), add_constant(eps), adabound_clip(final_size, speed))
    return chain(precondition(momentum(b1), by=size, eps=0.0), scale_by_learning_rate(learning_rate))


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
