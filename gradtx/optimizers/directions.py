"""Optimizers that change the direction: of the gradient, of momentum, of several momenta."""

from collections.abc import Sequence

from gradtx.arguments import checked, sequence
from gradtx.combinators import add, blend, chain, momentum, precondition, rms
from gradtx.combinators.averages import average
from gradtx.core import Transformation
from gradtx.optimizers.adam import adam
from gradtx.pieces import (
    add_momentum,
    add_weight_decay,
    difference,
    identity,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    sign,
    sqrt,
    square,
)
from gradtx.typing import ScalarOrSchedule, TransformationLike, Where


@checked
def sgdw(
    learning_rate: ScalarOrSchedule = 1e-2,
    momentum: ScalarOrSchedule = 0.9,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
) -> Transformation:
    """w ← w − η·(v + λ·w), with v ← β·v + g

    Source: Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 1; there β·v + η·g is kept.
    """
    return chain(add_momentum(momentum), add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def sign_sgd(learning_rate: ScalarOrSchedule = 1e-3) -> Transformation:
    """w ← w − η·sign(g)

    Source: Bernstein et al. 2018, arXiv 1802.04434, algorithm 1.
    """
    return chain(sign(), scale_by_learning_rate(learning_rate))


@checked
def signum(learning_rate: ScalarOrSchedule = 1e-3, decay: ScalarOrSchedule = 0.9) -> Transformation:
    """w ← w − η·sign(m), with m ← β·m + (1−β)·g

    Source: Bernstein et al. 2018, arXiv 1802.04434, algorithm 2.
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
    """w ← w − η·(sign(β₁·m + (1−β₁)·g) + λ·w), then m ← β₂·m + (1−β₂)·g

    Every coordinate moves by η: take a tenth to a third of Adam's, and three to ten times AdamW's λ.
    Source: Chen et al. 2023, arXiv 2302.06675, algorithm 2; λ as in Optax.
    """
    direction = chain(blend(scale_by_ema(b2, before=True), b1), sign())
    return chain(direction, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def qhm(
    learning_rate: ScalarOrSchedule = 1.0, decay: ScalarOrSchedule = 0.999, share: ScalarOrSchedule = 0.7
) -> Transformation:
    """w ← w − η·(ν·m + (1−ν)·g), with m ← β·m + (1−β)·g

    Source: Ma and Yarats 2019, arXiv 1810.06801, equations 3 and 4.
    """
    return chain(blend(scale_by_ema(decay), share), scale_by_learning_rate(learning_rate))


@checked
def qhadam(
    learning_rate: ScalarOrSchedule = 1e-3,
    b1: ScalarOrSchedule = 0.995,
    b2: ScalarOrSchedule = 0.999,
    share1: ScalarOrSchedule = 0.7,
    share2: ScalarOrSchedule = 1.0,
    eps: ScalarOrSchedule = 1e-8,
) -> Transformation:
    """w ← w − η·(ν₁·m̂ + (1−ν₁)·g)/(√(ν₂·ŝ + (1−ν₂)·g²) + ε), with m̂, ŝ of Adam

    Source: Ma and Yarats 2019, arXiv 1810.06801, section 4.3.
    """
    direction, size = blend(momentum(b1), share1), chain(square(), blend(average(b2), share2), sqrt())
    return chain(precondition(direction, by=size, eps=eps), scale_by_learning_rate(learning_rate))


@checked
def aggmo(
    learning_rate: ScalarOrSchedule = 1e-1, decays: Sequence[ScalarOrSchedule] = (0.0, 0.9, 0.99)
) -> Transformation:
    """w ← w − η·(v₁ + … + vₖ)/k, with vᵢ ← βᵢ·vᵢ + g

    Source: Lucas et al. 2019, arXiv 1804.00325, equation 4.
    """
    each = [add_momentum(decay) for decay in sequence("aggmo: decays", decays, least=1)]
    mean = chain(add(*each), scale(1 / len(each)))
    return chain(mean, scale_by_learning_rate(learning_rate))


@checked
def optimistic_sgd(learning_rate: ScalarOrSchedule = 1e-2, optimism: ScalarOrSchedule = 1.0) -> Transformation:
    """w ← w − η·(g + β·(g − g₋₁))

    Source: Daskalakis et al. 2018, arXiv 1711.00141, equation 4; before the first gradient is the first.
    """
    change = chain(difference(from_first=True), scale(optimism))
    return chain(add(identity(), change), scale_by_learning_rate(learning_rate))


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
def grokfast(inner: TransformationLike, decay: ScalarOrSchedule = 0.98, gain: ScalarOrSchedule = 2.0) -> Transformation:
    """Any optimizer, of g + λ·ema(g)

    λ, `gain`, is how much the slow part of the gradient counts beside the whole.
    Source: Lee et al. 2024, arXiv 2405.20233, algorithm 4 (Grokfast-EMA), from the first gradient.
    """
    return chain(add(identity(), chain(scale_by_ema(decay, from_first=True), scale(gain))), inner)
