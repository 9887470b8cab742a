"""Optimizers that use the Hessian: an estimate of its diagonal, or of its inverse."""

from gradtx.combinators import chain, momentum, precondition, rms
from gradtx.core import Transformation
from gradtx.core.arguments import checked
from gradtx.pieces import (
    add_weight_decay,
    clip,
    hessian_diagonal,
    lower_bound,
    power,
    scale,
    scale_by_ema,
    scale_by_lbfgs,
    scale_by_learning_rate,
)
from gradtx.typing import ScalarOrSchedule, TransformationLike, Where
from gradtx.wrappers import every, zoom

HUTCHINSON = hessian_diagonal()


@checked
def adahessian(
    learning_rate: ScalarOrSchedule = 0.15,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-4,
    hessian_power: ScalarOrSchedule = 1.0,
    diagonal: TransformationLike = HUTCHINSON,
) -> Transformation:
    """AdaHessian: Adam with the diagonal of the Hessian in the denominator (Yao et al., 2020).

    w ← w − η·m̂/(√ŝᵏ + ε), with m̂ = ema(g)/(1 − β₁ᵗ), ŝ = ema(h²)/(1 − β₂ᵗ), h the diagonal of the Hessian

    With the default `diagonal`, every update needs `params`, a random `key`, and `hvp`, the function v ↦ H·v. Its
    product H·z costs about two gradients; `every(hessian_diagonal(), 10)` measures it at every tenth update.
    `hessian_diagonal("first")` averages h over the spatial axes of convolution kernels, as the paper does. The signed
    values are averaged, as in the paper; the published code averages |h|.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1).
      b2: β₂, the decay of the average of the squared Hessian diagonal, in [0, 1).
      eps: ε, added to the denominator, 0 or more. The default is the one of the published code.
      hessian_power: k, the power of the denominator, from 0 (momentum alone) to 1.
      diagonal: The transformation that estimates the diagonal of the Hessian. The default is Hutchinson's estimate.

    Source: Yao et al. 2020, arXiv 2006.00719, algorithm 1.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx, params = gx.adahessian(0.1), jnp.array([1.0, 2.0])
    >>> grad = jax.grad(lambda w: jnp.sum(w**3))
    >>> hvp = lambda v: jax.jvp(grad, (params,), (v,))[1]
    >>> tx.update(grad(params), tx.init(params), params, hvp=hvp, key=jax.random.key(0))[0].round(3)
    Array([-0.05, -0.1 ], dtype=float32)
    """
    size = chain(diagonal, rms(b2), power(hessian_power))
    return chain(precondition(momentum(b1), by=size, eps=eps), scale_by_learning_rate(learning_rate))


@checked
def sophia(
    learning_rate: ScalarOrSchedule = 1e-4,
    b1: ScalarOrSchedule = 0.96,
    b2: ScalarOrSchedule = 0.99,
    gamma: ScalarOrSchedule = 0.01,
    eps: ScalarOrSchedule = 1e-12,
    weight_decay: ScalarOrSchedule = 0.2,
    where: Where = None,
    every_k: int = 10,
    diagonal: TransformationLike = HUTCHINSON,
) -> Transformation:
    """Sophia-H: momentum divided by the diagonal of the Hessian and clipped (Liu et al., 2023).

    w ← w − η·(clip(m/max(γ·h, ε), ±1) + λ·w), with m = ema(g), h ← ema(diagonal of the Hessian) every k updates

    Every update needs `params`. With the default `diagonal`, every update also needs a random `key`, and `hvp`, the
    function v ↦ H·v, which is evaluated only at the first of every k updates.

    As in the paper, neither average is bias-corrected, and h is the average of the same step. Optax corrects m, and
    divides by the h of the step before. Another `diagonal` gives another variant of Sophia.

    Args:
      learning_rate: η, the step size, 0 or more. A number, an array of shape () or a schedule.
      b1: β₁, the decay of the average of gradients, in [0, 1). Optax's default is 0.965.
      b2: β₂, the decay of the average of the Hessian diagonal, in [0, 1).
      gamma: γ, the factor of the Hessian diagonal. A larger γ clips fewer coordinates.
      eps: ε, the lower bound of the denominator. Optax's default is 1e-8.
      weight_decay: λ, the decoupled weight decay, 0 or more; it is multiplied by the learning rate. Optax's default is
        1e-4.
      where: The parameters that decay: a path pattern, a function of (path, leaf), a tree of booleans, or None for all.
      every_k: k, an integer, 1 or more. The diagonal is estimated at the first of every k updates.
      diagonal: The transformation that estimates the diagonal of the Hessian. The default is Hutchinson's estimate.

    Source: Liu et al. 2023, arXiv 2305.14342, algorithm 3.

    >>> import gradtx as gx, jax, jax.numpy as jnp
    >>> tx, params = gx.sophia(0.1, weight_decay=0.0), jnp.array([1.0, -2.0])
    >>> grad = jax.grad(lambda w: jnp.sum(w**4))
    >>> hvp = lambda v: jax.jvp(grad, (params,), (v,))[1]
    >>> tx.update(grad(params), tx.init(params), params, hvp=hvp, key=jax.random.key(0))[0]
    Array([-0.1,  0.1], dtype=float32)
    """
    size = chain(every(chain(diagonal, scale_by_ema(b2)), every_k), scale(gamma), lower_bound(eps))
    clipped = chain(precondition(momentum(b1, corrected=False), by=size, eps=0.0), clip(1.0))
    return chain(clipped, add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


@checked
def lbfgs(memory: int = 10) -> Transformation:
    """L-BFGS: limited-memory BFGS with a line search for the strong Wolfe conditions (Liu and Nocedal, 1989).

    w ← w − t·H·g, with H the BFGS estimate of the inverse Hessian from the last k steps, t by the line search

    For deterministic losses, such as fits to all of the data. Every update needs `params`, the loss `value` and
    `value_fn`, the loss as a function of parameters; there is no learning rate to tune. `minimize` runs the whole loop,
    and `value_and_grad_from_state` gives your own loop the value and the gradient that the line search evaluated last.
    For another search or other constants, compose it: `backtracking(scale_by_lbfgs(memory), grow=None)`.

    Optax's `lbfgs` has the same estimate and a similar search, and PyTorch's `LBFGS` searches only with
    `line_search_fn="strong_wolfe"`. Gauss-Newton and Levenberg-Marquardt methods are in Optimistix, K-FAC in kfac-jax.

    Args:
      memory: k, the number of steps that the estimate is made from, an integer, 1 or more. The state has 2·k + 3
        numbers for each parameter.

    Source: Liu and Nocedal 1989; Nocedal and Wright 2006, algorithms 7.4, 7.5 and 3.5.

    >>> import gradtx as gx, jax.numpy as jnp
    >>> found = gx.minimize(lambda w: jnp.sum((w - 3) ** 4), jnp.zeros(2), gx.lbfgs())
    >>> found.params.round(1)
    Array([3., 3.], dtype=float32)
    """
    return zoom(scale_by_lbfgs(memory))
