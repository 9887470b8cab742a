"""Gradient descent and its momentum forms."""

from gradtx.arguments import checked
from gradtx.combinators import chain
from gradtx.core import Positive, Transformation, scalar
from gradtx.pieces import add_momentum, identity, scale, scale_by_ema, scale_by_learning_rate, sign_steps
from gradtx.typing import ScalarOrSchedule


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
def rprop(
    learning_rate: ScalarOrSchedule = 1e-2,
    grow: ScalarOrSchedule = 1.2,
    shrink: ScalarOrSchedule = 0.6,
    smallest: ScalarOrSchedule = 1e-6,
    largest: ScalarOrSchedule = 50.0,
    wait_on_flip: bool = False,
) -> Transformation:
    """w ← w − s·sign(g), with s ← 1.2·s while sign(g) stays, 0.6·s when it flips

    For gradients of the whole data set. The rate is s at the start; all arguments are those of `sign_steps`. Other
    libraries shrink by 0.5 and wait on a flip.
    Source: Riedmiller and Braun 1993.
    """
    return chain(sign_steps(learning_rate, grow, shrink, smallest, largest, wait_on_flip), scale(-1.0))
