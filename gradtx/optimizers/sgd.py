"""Gradient descent and momentum."""

from collections.abc import Sequence

from gradtx.combinators import add, blend, chain
from gradtx.core import Positive, Transformation, scalar
from gradtx.core.arguments import checked, sequence
from gradtx.pieces import (
    add_momentum,
    add_noise,
    add_weight_decay,
    difference,
    identity,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
)
from gradtx.typing import ScalarOrSchedule, Where


@checked
def sgd(
    learning_rate: ScalarOrSchedule = 1e-2, momentum: ScalarOrSchedule = 0.0, nesterov: bool = False
) -> Transformation:
    """w ← w − η·g, or with momentum w ← w − η·v, v ← β·v + g

    β, `momentum`, and `nesterov` are of `add_momentum`. Exactly 0.0 keeps nothing; an array or a schedule keeps v.
    Source: Robbins and Monro 1951.
    """
    plain = isinstance(momentum, (int, float)) and momentum == 0
    if plain and nesterov:
        raise ValueError("sgd: nesterov=True needs a momentum above 0")
    return chain(identity() if plain else add_momentum(momentum, nesterov), scale_by_learning_rate(learning_rate))


@checked
def averaged_momentum(learning_rate: ScalarOrSchedule = 1e-1, decay: ScalarOrSchedule = 0.9) -> Transformation:
    """w ← w − η·v, with v ← β·v + (1−β)·g"""
    return chain(scale_by_ema(decay), scale_by_learning_rate(learning_rate))


@checked
def heavy_ball(learning_rate: ScalarOrSchedule = 1e-2, decay: ScalarOrSchedule = 0.9) -> Transformation:
    """w ← w − η·v, with v ← β·v + g

    Source: Polyak 1964.
    """
    return chain(add_momentum(decay), scale_by_learning_rate(learning_rate))


@checked
def rate_inside_momentum(learning_rate: ScalarOrSchedule = 1e-2, decay: ScalarOrSchedule = 0.9) -> Transformation:
    """w ← w − v, with v ← β·v + η·g

    The same as `heavy_ball` for a constant rate; under a schedule, v keeps the rates that its gradients came with.
    """
    return chain(scale_by_learning_rate(learning_rate), add_momentum(decay))


@checked
def rolling_ball(
    time_step: ScalarOrSchedule = 1e-1, friction: ScalarOrSchedule = 1.0, mass: ScalarOrSchedule = 1.0
) -> Transformation:
    """w ← w + Δt·v, with v ← (1 − Δt·η/m)·v − g

    Momentum as physics: a ball with friction, by finite differences. It is `heavy_ball` with the rate Δt, `time_step`;
    η is the `friction`, and Δt·η/m at most 1.
    """
    δt, η = scalar("rolling_ball: time_step", time_step), scalar("rolling_ball: friction", friction)
    m = scalar("rolling_ball: mass", mass, Positive)
    return chain(add_momentum(1 - δt * η / m), scale(-1.0), scale(δt))


@checked
def nesterov(learning_rate: ScalarOrSchedule = 1e-2, decay: ScalarOrSchedule = 0.9) -> Transformation:
    """w̃ ← w̃ + v' + β·(v' − v), with v' = β·v − η·g(w̃)

    Nesterov's momentum with the look-ahead point w̃ = w + β·v as the parameters, so that the gradient is taken there.
    Source: Nesterov 1983; in this form, Bengio, Boulanger-Lewandowski and Pascanu 2012, arXiv 1212.0901.
    """
    return chain(add_momentum(decay, nesterov=True), scale_by_learning_rate(learning_rate))


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
def qhm(
    learning_rate: ScalarOrSchedule = 1.0, decay: ScalarOrSchedule = 0.999, weight: ScalarOrSchedule = 0.7
) -> Transformation:
    """w ← w − η·(ν·m + (1−ν)·g), with m ← β·m + (1−β)·g

    Source: Ma and Yarats 2019, arXiv 1810.06801, equations 3 and 4.
    """
    return chain(blend(scale_by_ema(decay), weight), scale_by_learning_rate(learning_rate))


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
def noisy_sgd(
    learning_rate: ScalarOrSchedule = 1e-3, variance: ScalarOrSchedule = 1e-2, power: ScalarOrSchedule = 0.55
) -> Transformation:
    """w ← w − η·(g + N(0, σ²/tᵞ))

    Give update a random `key`, the same at every step; Optax keeps one in its state.
    Source: Neelakantan et al. 2015, arXiv 1511.06807, equation 1.
    """
    return chain(add_noise(variance, power), scale_by_learning_rate(learning_rate))
