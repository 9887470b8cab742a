"""Optimizers without a learning rate to tune."""

from gradtx.combinators import (
    chain,
    dadapt_distance,
    dog_distance,
    leafwise,
    momentum,
    momo_step,
    prodigy_distance,
    rms,
)
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.pieces import (
    add_weight_decay,
    coin_betting,
    polyak_step,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
    scale_by_total_norm,
)
from gradtx.typing import ScalarOrSchedule, Where


@checked
def dog(
    learning_rate: ScalarOrSchedule = 1.0,
    initial_value: ScalarOrSchedule = 1e-6,
    relative: bool = True,
    eps: ScalarOrSchedule = 1e-8,
    per_leaf: bool = False,
) -> Transformation:
    """DoG: distance over gradients, SGD without a learning rate to tune (Ivgi, Hinder and Carmon, 2023).

    w ← w − η·r·g/√(Σ‖g‖² + ε), with r ← max(r, ‖w − w₀‖)

    Every update needs `params`. The authors recommend iterate averaging (`average_params`).

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. Best left at 1.
      initial_value: r before the first update, above 0, in units of the parameters if `relative` is False.
      relative: If True, multiply `initial_value` by 1 + ‖w₀‖.
      eps: ε, added to the sum of squared norms, 0 or more. Its place is the one of the published code.
      per_leaf: If True, compute the distance and the norms of each leaf separately: the authors' L-DoG.

    Source: Ivgi, Hinder and Carmon 2023, arXiv 2302.12022, equations 1 and 2, with ε of its published code.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.dog(initial_value=0.1, relative=False), jnp.array([3.0, 4.0])
    >>> tx.update(params, tx.init(params), params)[0].round(4)
    Array([-0.06, -0.08], dtype=float32)
    """
    tx = chain(dog_distance(scale_by_total_norm(eps), initial_value, relative), scale_by_learning_rate(learning_rate))
    return leafwise(tx) if per_leaf else tx


@checked
def dowg(learning_rate: ScalarOrSchedule = 1.0, initial_value: ScalarOrSchedule = 1e-2) -> Transformation:
    """DoWG: DoG with gradients weighted by the squared distance (Khaled, Mishchenko and Jin, 2023).

    w ← w − η·r²·g/√(Σr²‖g‖²), with r ← max(r, ‖w − w₀‖)

    Later gradients count more than in DoG, because r grows. Every update needs `params`. The denominator has no ε, and
    the steps before the first gradient are 0; Optax adds 1e-4 to the denominator.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. Best left at 1.
      initial_value: r before the first update, above 0: a distance, in units of the parameters. The default is the one
        of the published code.

    Source: Khaled, Mishchenko and Jin 2023, arXiv 2305.16284, algorithm 1.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.dowg(initial_value=0.1), jnp.array([3.0, 4.0])
    >>> tx.update(params, tx.init(params), params)[0].round(4)
    Array([-0.06, -0.08], dtype=float32)
    """
    weighted = dog_distance(scale_by_total_norm(0.0), initial_value, relative=False, weighted=True)
    return chain(weighted, scale_by_learning_rate(learning_rate))


@checked
def prodigy(
    learning_rate: ScalarOrSchedule = 1.0,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    initial_value: ScalarOrSchedule = 1e-6,
    coefficient: ScalarOrSchedule = 1.0,
) -> Transformation:
    """Prodigy: Adam with an estimated distance to the minimum as its step size (Mishchenko and Defazio, 2024).

    w ← w − η·d·(m/(√v + d·ε) + λ·w), with m = ema(d·g), v = ema((d·g)²), d ← max(d, c·r/‖s‖₁)

    r and s are decaying sums, with decay √β₂, of η·d²·⟨g, w₀ − w⟩ and of η·d²·g. One d serves all leaves, and it only
    grows. Every update needs `params`. As in the paper, the averages m and v are not bias-corrected; Optax corrects
    them by a factor of the learning rate.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. It multiplies d: leave
        it at 1, or pass a schedule of the shape that the learning rate should have.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1). Its root is the decay of r and s.
      eps: ε, added to the denominator, 0 or more. It is multiplied by d.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. It is also
        multiplied by d.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      initial_value: d before the first update, above 0, in units of the parameters: too small rather than too large.
      coefficient: c, the factor of the estimate, above 0. Change it to make all steps smaller or larger.

    Source: Mishchenko and Defazio 2024, arXiv 2306.06101, algorithm 4.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.prodigy(initial_value=0.1), jnp.array([3.0, -4.0])
    >>> tx.update(params, tx.init(params), params)[0].round(3)
    Array([-0.316,  0.316], dtype=float32)
    """
    direction, size, pull = momentum(b1, False), rms(b2, False), add_weight_decay(weight_decay, where)
    return chain(
        prodigy_distance(direction, size, eps, pull, learning_rate, b2, initial_value, coefficient), scale(-1.0)
    )


@checked
def dadapt_adam(
    learning_rate: ScalarOrSchedule = 1.0,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    where: Where = None,
    initial_value: ScalarOrSchedule = 1e-6,
) -> Transformation:
    """D-Adapt Adam: Adam with a learning rate by D-Adaptation (Defazio and Mishchenko, 2023).

    w ← w − m/(√v + ε) − η·d·λ·w, with m = ema(η·d·g), v = ema(g²), d ← max(d, r/((1 − √β₂)·‖s‖₁))

    r and s are averages, with decay √β₂, of η·d·⟨g, s/(√v + ε)⟩, of the s before this update, and of η·d·g. One d
    serves all leaves, and it only grows. Every update needs `params`, for the weight decay. As in the paper, the
    averages m and v are not bias-corrected, and d is estimated with the new v; the published code and Optax use the v
    of the step before.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule. It multiplies d: leave
        it at 1, or pass a schedule of the shape that the learning rate should have.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1). Its root is the decay of r and s.
      eps: ε, added to the denominator, 0 or more.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. It is also
        multiplied by d.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      initial_value: d before the first update, above 0, in units of the parameters: too small rather than too large.

    Source: Defazio and Mishchenko 2023, arXiv 2301.07733, the Adam form, with decoupled decay.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.dadapt_adam(initial_value=0.1), jnp.array([3.0, -4.0])
    >>> tx.update(params, tx.init(params), params)[0].round(3)
    Array([-0.316,  0.316], dtype=float32)
    """
    direction, size, pull = momentum(b1, False), rms(b2, False), add_weight_decay(weight_decay, where)
    return chain(dadapt_distance(direction, size, eps, pull, learning_rate, b2, initial_value), scale(-1.0))


@checked
def polyak_sgd(max_rate: ScalarOrSchedule = 1.0, lowest: ScalarOrSchedule = 0.0) -> Transformation:
    """SGD with a bounded Polyak step (Loizou et al., 2021).

    w ← w − min(c, max(f − f*, 0)/‖g‖²)·g

    The norm is over all leaves. Every update needs the loss f: `update(g, state, value=loss)`.

    Args:
      max_rate: The upper bound of the learning rate, above 0. It is c in the formula.
      lowest: f*: the minimum of the loss, or a lower bound on it. If the loss is below it, the update is 0.

    Source: Loizou et al. 2021, arXiv 2002.10542, equation 2, with the positive part of arXiv 2307.14528.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.polyak_sgd(), jnp.array([2.0, 0.0])  # of the loss ‖w‖²
    >>> tx.update(2 * params, tx.init(params), value=params @ params)[0]
    Array([-1., -0.], dtype=float32)
    """
    return chain(polyak_step(max_rate, lowest), scale(-1.0))


@checked
def momo(
    max_rate: ScalarOrSchedule = 1.0, decay: ScalarOrSchedule = 0.9, lowest: ScalarOrSchedule = 0.0
) -> Transformation:
    """MoMo: momentum with a model-based Polyak step (Schaipp et al., 2024).

    w ← w − min(c, max(h − f*, 0)/‖m‖²)·m, with m = ema(g), h = ema(f) − ema(⟨g, w⟩) + ⟨m, w⟩

    The averages start at the first gradient and loss; h is the average, at w, of the tangents of the losses seen. Norms
    and products are over all leaves. Every update needs `params` and the loss f: `update(g, state, params,
    value=loss)`.

    Args:
      max_rate: The upper bound of the learning rate, above 0. It is c in the formula.
      decay: β, the decay of the averages of gradients and losses, in [0, 1).
      lowest: f*: the minimum of the loss, or a lower bound on it.

    Source: Schaipp et al. 2024, arXiv 2305.07583, algorithm 1, without decay.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.momo(), jnp.array([2.0, 0.0])  # of the loss ‖w‖²
    >>> tx.update(2 * params, tx.init(params), params, value=params @ params)[0].round(4)
    Array([-1., -0.], dtype=float32)
    """
    return chain(momo_step(scale_by_ema(decay, True), max_rate=max_rate, lowest=lowest), scale(-1.0))


@checked
def momo_adam(
    max_rate: ScalarOrSchedule = 1e-2,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    lowest: ScalarOrSchedule = 0.0,
) -> Transformation:
    """MoMo-Adam: Adam with a model-based Polyak step (Schaipp et al., 2024).

    w ← w − min(c, max(h − f*, 0)/⟨m̂, m̂/s⟩)·m̂/s, with s = √v̂ + ε, h = ema(f) − ema(⟨g, w⟩) + ⟨m̂, w⟩

    m̂ and v̂ are Adam's bias-corrected averages of g and g². The averages in h are bias-corrected too, with decay β₁; h
    is the average, at w, of the tangents of the losses seen. Products are over all leaves. Every update needs `params`
    and the loss f: `update(g, state, params, value=loss)`.

    Args:
      max_rate: The upper bound of the learning rate, above 0. It is c in the formula.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of squared gradients, in [0, 1).
      eps: ε, added to the denominator, 0 or more.
      lowest: f*: the minimum of the loss, or a lower bound on it.

    Source: Schaipp et al. 2024, arXiv 2305.07583, algorithm 2, without decay.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.momo_adam(max_rate=0.5), jnp.array([2.0, 0.0])  # of the loss ‖w‖²
    >>> tx.update(2 * params, tx.init(params), params, value=params @ params)[0].round(4)
    Array([-0.5, -0. ], dtype=float32)
    """
    return chain(momo_step(momentum(b1), by=rms(b2), eps=eps, max_rate=max_rate, lowest=lowest), scale(-1.0))


@checked
def cocob(alpha: ScalarOrSchedule = 100.0) -> Transformation:
    """COCOB-Backprop: coin betting, without a learning rate (Orabona and Tommasi, 2017).

    w ← w₀ + b, with b ← Σ(−g)/max(Σ|g| + l, α·l)·(1 + r/l), l = max|g|, r ← max(r − g·b, 0)

    The displacement b of each coordinate is a bet, and r is the reward of its earlier bets. Scaling all gradients by
    one factor does not change the updates.

    Args:
      alpha: α, above 0: the first bet is 1/α, in units of the parameters.

    Source: Orabona and Tommasi 2017, arXiv 1705.07795, algorithm 2 (COCOB-Backprop).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.cocob(10.0), jnp.array([3.0, -4.0])
    >>> tx.update(params, tx.init(params))[0].round(3)
    Array([-0.1,  0.1], dtype=float32)
    """
    return chain(coin_betting(alpha))
