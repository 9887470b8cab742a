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
    """Stochastic gradient descent (SGD), with or without momentum (Robbins and Monro, 1951).

    w ← w − η·g, or with momentum w ← w − η·v, v ← β·v + g

    The velocity v is a sum of gradients, as in PyTorch and Optax, so the steps grow to 1/(1 − β) times η·g for a
    constant gradient. Other forms of momentum are `heavy_ball` (this one, by default at 0.9), `averaged_momentum` (an
    average instead of a sum), `rate_inside_momentum` (the learning rate inside the sum) and `rolling_ball` (a time step
    and a friction); the pieces are `add_momentum` (the sum) and `momentum` (the average that Adam uses).

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. PyTorch's default is
        1e-3.
      momentum: β, the decay of the momentum, in [0, 1). The number 0 keeps no velocity in the state; an array or a
        schedule keeps one, whatever its value.
      nesterov: If True, use Nesterov's form of momentum. The step is then η·(g + β·v); it needs a momentum above 0.

    Raises:
      ValueError: `nesterov` is True and `momentum` is the number 0.

    Source: Robbins and Monro 1951; momentum, Polyak 1964; Nesterov's form, Nesterov 1983.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.sgd(0.5, momentum=0.5)
    >>> gradients, start = jnp.ones(3), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([-0.5  , -0.75 , -0.875], dtype=float32)
    """
    plain = isinstance(momentum, (int, float)) and momentum == 0
    if plain and nesterov:
        raise ValueError("sgd: nesterov=True needs a momentum above 0")
    return chain(identity() if plain else add_momentum(momentum, nesterov), scale_by_learning_rate(learning_rate))


@checked
def averaged_momentum(learning_rate: ScalarOrSchedule = 1e-1, decay: ScalarOrSchedule = 0.9) -> Transformation:
    """Gradient descent along an exponential moving average of the gradients (Polyak, 1964).

    w ← w − η·v, with v ← β·v + (1−β)·g

    The steps are those of `heavy_ball` at the learning rate η·(1−β), so β can change without a change of η. For the sum
    of gradients use `heavy_ball` or `sgd(momentum=…)`, for the learning rate inside the sum `rate_inside_momentum`, for
    a time step and a friction `rolling_ball`, and as a piece `momentum`, which also corrects the average for its start
    at 0, or `add_momentum`.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      decay: β, the decay of the average of gradients, in [0, 1). About the last 1/(1 − β) gradients count.

    Source: Polyak 1964, here with the gradient weighted by 1 − β.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.averaged_momentum(0.5, decay=0.5)
    >>> gradients, start = jnp.ones(3), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([-0.25  , -0.375 , -0.4375], dtype=float32)
    """
    return chain(scale_by_ema(decay), scale_by_learning_rate(learning_rate))


@checked
def heavy_ball(learning_rate: ScalarOrSchedule = 1e-2, decay: ScalarOrSchedule = 0.9) -> Transformation:
    """Heavy ball: gradient descent with a sum of gradients as momentum (Polyak, 1964).

    w ← w − η·v, with v ← β·v + g

    It is `sgd` with `momentum` set; for an average of gradients use `averaged_momentum`, for the learning rate inside
    the sum `rate_inside_momentum`, for a time step and a friction `rolling_ball`, and for the piece alone
    `add_momentum` (the sum) or `momentum` (the average that Adam uses).

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      decay: β, the decay of the momentum, in [0, 1). A constant gradient g makes v grow to g/(1 − β).

    Source: Polyak 1964.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.heavy_ball(0.5, decay=0.5)
    >>> gradients, start = jnp.ones(3), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([-0.5  , -0.75 , -0.875], dtype=float32)
    """
    return chain(add_momentum(decay), scale_by_learning_rate(learning_rate))


@checked
def rate_inside_momentum(learning_rate: ScalarOrSchedule = 1e-2, decay: ScalarOrSchedule = 0.9) -> Transformation:
    """Gradient descent with the learning rate inside the momentum (Qian, 1999).

    w ← w − v, with v ← β·v + η·g

    At a constant learning rate the steps are those of `heavy_ball`. Under a schedule each gradient in v keeps the
    learning rate of its own step. For the learning rate outside the sum use `heavy_ball` or `sgd(momentum=…)`, for an
    average of gradients `averaged_momentum`, for a time step and a friction `rolling_ball`, and for the piece alone
    `add_momentum` (the sum) or `momentum` (the average that Adam uses).

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      decay: β, the decay of the momentum, in [0, 1).

    Source: Qian 1999; Rumelhart, Hinton and Williams 1986.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.rate_inside_momentum(gx.schedules.piecewise_constant((0.5, 0.0), boundaries=(1,)), decay=0.5)
    >>> gradients, start = jnp.ones(3), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([-0.5  , -0.25 , -0.125], dtype=float32)
    """
    return chain(scale_by_learning_rate(learning_rate), add_momentum(decay))


@checked
def rolling_ball(
    time_step: ScalarOrSchedule = 1e-1, friction: ScalarOrSchedule = 1.0, mass: ScalarOrSchedule = 1.0
) -> Transformation:
    """Rolling ball: momentum as the motion of a mass with friction, by finite differences (Qian, 1999).

    w ← w + Δt·v, with v ← (1 − Δt·η/m)·v − g

    It is `heavy_ball` with the learning rate Δt and the decay 1 − Δt·η/m. To set these two directly use `heavy_ball` or
    `sgd(momentum=…)`, for an average of gradients `averaged_momentum`, for the learning rate inside the sum
    `rate_inside_momentum`, and for the piece alone `add_momentum` (the sum) or `momentum` (the average that Adam uses).

    Args:
      time_step: Δt, the time between two updates. A number, an array of shape () or a schedule.
      friction: η, the coefficient of friction. Δt·η/m must be above 0 and at most 1.
      mass: m, the mass of the ball, above 0.

    Source: Qian 1999, a mass with friction; the method, Polyak 1964.

    >>> import gradtx as gx
    >>> gx.rolling_ball(0.5, friction=1.0, mass=2.0)
    chain(add_momentum(0.75), scale(-1.0), scale(0.5))
    """
    δt, η = scalar("rolling_ball: time_step", time_step), scalar("rolling_ball: friction", friction)
    m = scalar("rolling_ball: mass", mass, Positive)
    return chain(add_momentum(1 - δt * η / m), scale(-1.0), scale(δt))


@checked
def nesterov(learning_rate: ScalarOrSchedule = 1e-2, decay: ScalarOrSchedule = 0.9) -> Transformation:
    """Nesterov's accelerated gradient: momentum with the gradient at the look-ahead point (Nesterov, 1983).

    w̃ ← w̃ + v' + β·(v' − v), with v' = β·v − η·g(w̃)

    The parameters are the look-ahead point w̃ = w + β·v, so the gradient is taken there.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      decay: β, the decay of the momentum, in [0, 1).

    Source: Nesterov 1983; in this form, Bengio, Boulanger-Lewandowski and Pascanu 2012, arXiv 1212.0901.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.nesterov(0.5, decay=0.5)
    >>> gradients, start = jnp.ones(3), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([-0.75  , -0.875 , -0.9375], dtype=float32)
    """
    return chain(add_momentum(decay, nesterov=True), scale_by_learning_rate(learning_rate))


@checked
def sgdw(
    learning_rate: ScalarOrSchedule = 1e-2,
    momentum: ScalarOrSchedule = 0.9,
    weight_decay: ScalarOrSchedule = 1e-2,
    where: Where = None,
) -> Transformation:
    """SGDW: stochastic gradient descent with momentum and decoupled weight decay (Loshchilov and Hutter, 2019).

    w ← w − η·(v + λ·w), with v ← β·v + g

    The paper keeps β·v + η·g in the state, with the learning rate inside the momentum.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      momentum: β, the decay of the momentum, in [0, 1).
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.

    Source: Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 1.

    >>> import gradtx as gx
    >>> gx.sgdw(0.1, where=gx.is_matrix)
    chain(
        add_momentum(0.9),
        add_weight_decay(0.01, where=is_matrix),
        scale_by_learning_rate(0.1),
    )
    """
    return chain(add_momentum(momentum), add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def qhm(
    learning_rate: ScalarOrSchedule = 1.0, decay: ScalarOrSchedule = 0.999, weight: ScalarOrSchedule = 0.7
) -> Transformation:
    """QHM, quasi-hyperbolic momentum: a weighted mean of momentum and gradient (Ma and Yarats, 2019).

    w ← w − η·(ν·m + (1−ν)·g), with m ← β·m + (1−β)·g

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      decay: β, the decay of the average of gradients, in [0, 1).
      weight: ν, the weight of the average: 1 is `averaged_momentum`, 0 is plain gradient descent.

    Source: Ma and Yarats 2019, arXiv 1810.06801, equations 3 and 4.

    >>> import gradtx as gx
    >>> gx.qhm(0.1)
    chain(blend(scale_by_ema(0.999), weight=0.7), scale_by_learning_rate(0.1))
    """
    return chain(blend(scale_by_ema(decay), weight), scale_by_learning_rate(learning_rate))


@checked
def aggmo(
    learning_rate: ScalarOrSchedule = 1e-1, decays: Sequence[ScalarOrSchedule] = (0.0, 0.9, 0.99)
) -> Transformation:
    """AggMo, aggregated momentum: the mean of several velocities, each with its own decay (Lucas et al., 2019).

    w ← w − η·(v₁ + … + vₖ)/k, with vᵢ ← βᵢ·vᵢ + g

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      decays: β₁, …, βₖ, the decays of the velocities, each in [0, 1); a sequence of one or more. The state keeps one
        velocity for each.

    Raises:
      ValueError: `decays` is empty.

    Source: Lucas et al. 2019, arXiv 1804.00325, equation 4.

    >>> import gradtx as gx
    >>> gx.aggmo(0.1, decays=(0.0, 0.9))
    chain(
        add(add_momentum(0.0), add_momentum(0.9)),
        scale(0.5),
        scale_by_learning_rate(0.1),
    )
    """
    each = [add_momentum(decay) for decay in sequence("aggmo: decays", decays, least=1)]
    mean = chain(add(*each), scale(1 / len(each)))
    return chain(mean, scale_by_learning_rate(learning_rate))


@checked
def optimistic_sgd(learning_rate: ScalarOrSchedule = 1e-2, optimism: ScalarOrSchedule = 1.0) -> Transformation:
    """Optimistic gradient descent: the gradient plus its change since the last step (Daskalakis et al., 2018).

    w ← w − η·(g + β·(g − g₋₁))

    At the first step g₋₁ is the first gradient, so the change is 0.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      optimism: β, the weight of the change, of any sign; 0 is plain gradient descent.

    Source: Daskalakis et al. 2018, arXiv 1711.00141, equation 4.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx = gx.optimistic_sgd(0.5)
    >>> gradients, start = jnp.array([1.0, 3.0, 3.0]), tx.init(jnp.zeros(()))
    >>> jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], start, gradients)[1]
    Array([-0.5, -2.5, -1.5], dtype=float32)
    """
    change = chain(difference(from_first=True), scale(optimism))
    return chain(add(identity(), change), scale_by_learning_rate(learning_rate))


@checked
def noisy_sgd(
    learning_rate: ScalarOrSchedule = 1e-3, variance: ScalarOrSchedule = 1e-2, power: ScalarOrSchedule = 0.55
) -> Transformation:
    """Noisy SGD: gradients plus normal noise with a variance that falls over time (Neelakantan et al., 2015).

    w ← w − η·(g + N(0, σ²/tᵞ))

    The update needs a random key: `update(gradients, state, key=key)`. The noise also depends on the step and on the
    path of the leaf, so pass the same key at every step. Optax keeps the key in its state instead.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      variance: σ², the variance of the noise at the first step, 0 or more, in squared units of the gradients.
      power: γ, the power of the step number that divides the variance, 0 or more; 0 keeps the variance constant.

    Raises:
      ValueError: `update` gets no `key`.

    Source: Neelakantan et al. 2015, arXiv 1511.06807, equation 1, where steps count from 0.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx, params = gx.noisy_sgd(1.0, variance=0.01), jnp.zeros(10_000)
    >>> updates, state = tx.update(params, tx.init(params), key=jax.random.key(0))
    >>> bool(abs(updates.var() - 0.01) < 0.001)
    True
    """
    return chain(add_noise(variance, power), scale_by_learning_rate(learning_rate))
