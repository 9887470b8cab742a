"""Filters of the gradient in front of any optimizer, and a PID controller."""

from gradtx.combinators import add, chain
from gradtx.core import Decay, Transformation, scalar
from gradtx.core.arguments import checked
from gradtx.pieces import (
    add_momentum,
    clip_by_norm,
    difference,
    identity,
    project_out,
    scale,
    scale_by_ema,
    scale_by_learning_rate,
)
from gradtx.typing import ScalarOrSchedule, TransformationLike


@checked
def grokfast(inner: TransformationLike, decay: ScalarOrSchedule = 0.98, gain: ScalarOrSchedule = 2.0) -> Transformation:
    """Grokfast-EMA: amplify the slow part of the gradient before any optimizer (Lee et al., 2024).

    u = inner(g + λ·ema(g)), with ema(g) = g at the first update

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      decay: β, the decay of the average of gradients, in [0, 1).
      gain: λ, the weight of the average, the slow part of the gradient, relative to the whole gradient.

    Source: Lee et al. 2024, arXiv 2405.20233, algorithm 4 (Grokfast-EMA), from the first gradient.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.grokfast(gx.sgd(0.1))
    >>> tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))[0]
    Array([-0.3], dtype=float32)
    """
    return chain(add(identity(), chain(scale_by_ema(decay, from_first=True), scale(gain))), inner)


@checked
def mars(inner: TransformationLike, decay: ScalarOrSchedule = 0.95, gain: ScalarOrSchedule = 0.025) -> Transformation:
    """MARS: a variance-reduced gradient, clipped by leaf, for any optimizer (Yuan et al., 2024).

    u = inner(c/max(1, ‖c‖)) with norms of each leaf, and c = g + γ·β/(1−β)·(g − g₋₁)

    This is the approximate form: g₋₁ is the gradient of the last batch at the last point, in place of this batch's
    gradient at the last point. The first difference is 0, as in the paper, where the authors' code has g.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.
      decay: β, in [0, 1): the decay of the inner optimizer's momentum.
      gain: γ, the weight of the difference.

    Source: Yuan et al. 2024, arXiv 2411.10438, algorithm 1 (MARS-approx).

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.mars(gx.sgd(1.0), decay=0.5, gain=1.0)
    >>> first, state = tx.update(jnp.array([0.25]), tx.init(jnp.zeros(1)))
    >>> first, tx.update(jnp.array([0.5]), state)[0]
    (Array([-0.25], dtype=float32), Array([-0.75], dtype=float32))
    """
    β, γ = scalar("mars: decay", decay, Decay), scalar("mars: gain", gain)
    change = chain(difference(from_first=True), scale(γ * β / (1 - β)))
    return chain(add(identity(), change), clip_by_norm(1.0), inner)


@checked
def pid(
    learning_rate: ScalarOrSchedule = 1e-3,
    decay: ScalarOrSchedule = 0.9,
    integral: ScalarOrSchedule = 5.0,
    derivative: ScalarOrSchedule = 10.0,
) -> Transformation:
    """PID controller: proportional, integral and derivative terms of the gradient (An et al., 2018).

    w ← w − η·(g + I·v + D·d), with v ← β·v + g, d ← β·d + (1−β)·(g − g₋₁)

    The first derivative term is 0.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      decay: β, the decay of the integral v and of the average d of differences, in [0, 1).
      integral: I, the gain of the integral term.
      derivative: D, the gain of the derivative term.

    Source: An et al. 2018, A PID controller approach for stochastic optimization of deep networks, as published.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx = gx.pid(0.1)
    >>> first, state = tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))
    >>> first, tx.update(jnp.array([2.0]), state)[0]
    (Array([-0.6], dtype=float32), Array([-1.75], dtype=float32))
    """
    was = chain(add_momentum(decay), scale(integral))
    comes = chain(difference(from_first=True), scale_by_ema(decay), scale(derivative))
    return chain(add(identity(), was, comes), scale_by_learning_rate(learning_rate))


@checked
def orthograd(inner: TransformationLike) -> Transformation:
    """OrthoGrad: the gradient orthogonal to the parameters, for any optimizer (Prieto et al., 2025).

    u = inner(g⊥·‖g‖/‖g⊥‖) in each leaf, with g⊥ = g − w⟨w, g⟩/‖w‖²

    The norm of the gradient is retained. Where g⊥ is 0 up to rounding, the gradient becomes 0. Every update needs
    `params`.

    Args:
      inner: The optimizer to wrap: a transformation of gradtx, or a pair (init, update) such as Optax's.

    Source: Prieto et al. 2025, arXiv 2501.04697.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> tx, params = gx.orthograd(gx.sgd(1.0)), jnp.array([0.0, 10.0])
    >>> tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)[0]
    Array([-5., -0.], dtype=float32)
    """
    return chain(project_out(keep_norm=True), inner)
